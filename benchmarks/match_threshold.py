"""Does the stated precision of search hits hold on photos that the calibration has not seen?

    python benchmarks/match_threshold.py --work /tmp/match_threshold

Flickr8k: frozen packaged encoders (EfficientNet-Lite2 at 260 px, MiniLM) whose features are
computed once into --work, and one MLP head each, trained on the first 3,500 training photos with
two captions. The next 1,500 training photos and the 1,000 of the dev split, with three captions
each, are held out. Each of --splits times 1,000 of them at random calibrate, and the others are
searched, in as many galleries of 25 to 1,500 photos as they fill. Every query is asked twice: with
its photo in the gallery, and with the photo taken out. Captions that are equal count as matches of
both photos; all other pairs of different photos count as wrong.

Printed, and written to results/match_threshold.json, are the measured precision and recall at the
threshold of each stated precision, in how many splits it agrees with the stated one within the
95 % intervals of both, the share of queries without a match that are called so, and the share with
a match that keep a likely match.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.data.batch import key64
from amodal.data.decode import decode_image
from amodal.encoders import PackagedImageConfig, PackagedTextConfig
from amodal.evaluators import calibrate_matches
from amodal.losses.positives import related
from amodal.metrics import image_text_retrieval, score_pairs
from amodal.metrics.match_threshold import PairsAbove, ScoredPairs
from amodal.models.joint_embedding import Embeddings

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parent.parent / "shared" / "data")) / "flickr8k"
RESULT = HERE / "results" / "match_threshold.json"
TRAINED, TRAINED_CAPTIONS = 3500, 2
HELD_OUT, CAPTIONS = 1500, 3
CALIBRATED = 1000
GALLERIES = (25, 50, 100, 250, 500, 1000, 1500)
STATED = (0.5, 0.6, 0.7, 0.8, 0.9)
DIRECTIONS = (("text", "image"), ("image", "text"))


def features(split: str, work: Path) -> dict[str, Any]:
    """Frozen features of the photos and captions of a split, computed once."""
    file = work / f"features_{split}.npz"
    if not file.exists():
        data = json.loads((DATA / f"captions_{split}.json").read_text())
        photos = data["images"][: TRAINED + HELD_OUT]
        wanted = {
            photo["id"]: TRAINED_CAPTIONS if split == "train" and place < TRAINED else CAPTIONS
            for place, photo in enumerate(photos)
        }
        captions = []
        for caption in data["annotations"]:
            if wanted.get(caption["image_id"], 0) > 0:
                wanted[caption["image_id"]] -= 1
                captions.append(caption)
        np.savez(
            file,
            image=image_features([DATA / "images" / photo["file_name"] for photo in photos]),
            text=text_features([caption["caption"] for caption in captions]),
            image_item=np.array([photo["id"] for photo in photos]),
            text_item=np.array([caption["image_id"] for caption in captions]),
            texts=np.array([caption["caption"] for caption in captions]),
        )
    with np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


@torch.inference_mode()
def image_features(files: list[Path]) -> np.ndarray:
    config = PackagedImageConfig(name="efficientnet-lite2")
    encoder, prepare = config.build().eval(), config.preprocessor()
    rows = []
    for start in range(0, len(files), 32):
        pixels = [decode_image(f.read_bytes(), str(f)) for f in files[start : start + 32]]
        rows.append(encoder(**prepare(pixels))[0].mean(1).numpy())
    return np.concatenate(rows)


@torch.inference_mode()
def text_features(texts: list[str]) -> np.ndarray:
    config = PackagedTextConfig()
    encoder, prepare = config.build().eval(), config.preprocessor()
    order = np.argsort([len(text) for text in texts])
    rows = np.zeros((len(texts), encoder.width), np.float32)
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        tokens, keep = encoder(**prepare([texts[i] for i in part]))
        rows[part] = ((tokens * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)).numpy()
    return rows


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 1024), nn.GELU(), nn.Dropout(0.4), nn.Linear(1024, 512))


def train_heads(train: dict[str, Any], epochs: int = 30, batch: int = 500) -> dict[str, Any]:
    """Heads over features with InfoNCE, one random caption a step, noise on the photos."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    image = torch.from_numpy(train["image"])[:TRAINED]
    centre, scale = image.mean(0), image.std(0) + 1e-6
    text = torch.from_numpy(train["text"])
    captions = [np.flatnonzero(train["text_item"] == i) for i in train["image_item"][:TRAINED]]
    heads = nn.ModuleDict({"image": head(image.shape[1]), "text": head(text.shape[1])})
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    optimizer = torch.optim.AdamW([*heads.parameters(), log_scale], weight_decay=0.1)
    steps = epochs * (TRAINED // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in generator.permutation(TRAINED)[: TRAINED // batch * batch].reshape(-1, batch):
            seen = (image[rows] - centre) / scale
            z = F.normalize(heads["image"](seen + 0.3 * torch.randn_like(seen)), dim=1)
            chosen = [int(generator.choice(captions[i])) for i in rows]
            t = F.normalize(heads["text"](text[chosen]), dim=1)
            logits = log_scale.exp() * t @ z.T
            target = torch.arange(batch)
            losses = [
                F.cross_entropy(side, target, label_smoothing=0.1) for side in (logits, logits.T)
            ]
            optimizer.zero_grad()
            (sum(losses) / 2).backward()
            optimizer.step()
            schedule.step()
    return {"heads": heads.eval(), "centre": centre, "scale": scale}


@torch.no_grad()
def held_out(train: dict[str, Any], dev: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Embeddings of the held-out photos and of three captions of each."""
    image, text, image_item, text_item, content = [], [], [], [], []
    for found, first in ((train, TRAINED), (dev, 0)):
        photos = found["image_item"][first:]
        seen: dict[int, int] = {}
        rows = []
        for row, item in enumerate(found["text_item"].tolist()):
            seen[item] = seen.get(item, 0) + 1
            if seen[item] <= CAPTIONS and item in photos:
                rows.append(row)
        z = (torch.from_numpy(found["image"][first:]) - model["centre"]) / model["scale"]
        image.append(F.normalize(model["heads"]["image"](z), dim=1))
        text.append(
            F.normalize(model["heads"]["text"](torch.from_numpy(found["text"][rows])), dim=1)
        )
        image_item.append(torch.from_numpy(photos.astype(np.int64)))
        text_item.append(torch.from_numpy(found["text_item"][rows].astype(np.int64)))
        content += [key64(str(text)) for text in found["texts"][rows]]
    return {
        "image": Embeddings(torch.cat(image), torch.cat(image_item), None),
        "text": Embeddings(torch.cat(text), torch.cat(text_item), torch.tensor(content)),
    }


def part(rows: dict[str, Embeddings], items: Tensor) -> dict[str, Embeddings]:
    """The rows of some items."""
    found = {}
    for name, one in rows.items():
        kept = torch.isin(one.item, items)
        content = one.content[kept] if one.content is not None else None
        found[name] = Embeddings(one.z[kept], one.item[kept], content)
    return found


def scored(query: Embeddings, gallery: Embeddings) -> ScoredPairs:
    """Scores of the queries whose item is in the gallery, and of the wrong rows."""
    owners = [(side.item, side.content) for side in (query, gallery) if side.content is not None]

    def matches(rows: slice) -> Tensor:
        content = query.content[rows] if query.content is not None else None
        return related(query.item[rows], gallery.item, content, gallery.content, owners)

    return score_pairs(query.z, gallery.z, query.item, gallery.item, matches)


def search(galleries: list[dict[str, Embeddings]], a: str, b: str, curve: Any) -> dict[str, Any]:
    """What the hits of new queries are at each stated precision, with and without their match."""
    size = len(galleries[0][b].z)
    pairs = pooled([scored(one[a], one[b]) for one in galleries])
    score, wrong = pairs.score, pairs.wrong
    best = torch.full((len(wrong),), -1.0, dtype=torch.float64)
    best.scatter_reduce_(0, pairs.query, score, "amax")
    likely = curve.likely_score(size)
    found: dict[str, Any] = {
        "no_match_called_so": float((wrong[:, 0] < likely).double().mean()),
        "match_is_likely": float((best >= likely).double().mean()),
        "stated": {},
    }
    bounds = dict(zip(curve.score, curve.precision(size), strict=True))
    for stated in STATED:
        threshold = curve.threshold(stated, size)
        if threshold is None:
            continue
        matching = int((score >= threshold.score).sum())
        others = int((wrong >= threshold.score).sum())
        shown = matching + 2 * others  # wrong rows are hits with the match and without it
        _, low, high = bounds[threshold.score]
        measured_low, measured_high = interval(pairs, threshold.score)
        found["stated"][stated] = {
            "measured": matching / max(1, shown),
            "low": low,
            "high": high,
            "measured_low": measured_low,
            "measured_high": measured_high,
            "agrees": agree(
                (threshold.precision, low, high),
                ((matching + 0.5) / (shown + 1.5), measured_low, measured_high),
            ),
            "recall": matching / len(score),
            "hits": shown,
            "no_match_called_so": float((wrong[:, 0] < threshold.score).double().mean()),
        }
    found["probability"] = reliability(pairs, curve, size)
    return found


def pooled(parts: list[ScoredPairs]) -> ScoredPairs:
    """The pairs of several galleries of one size."""
    starts = np.cumsum([0, *(len(one.wrong) for one in parts)])[:-1].tolist()
    return ScoredPairs(
        torch.cat([one.query + start for one, start in zip(parts, starts, strict=True)]),
        torch.cat([one.score for one in parts]),
        torch.cat([one.wrong for one in parts]),
        torch.cat([one.item for one in parts]),
        torch.cat([one.wrong_item for one in parts]),
        float(np.mean([one.wrong_rows for one in parts])),
    )


def interval(pairs: ScoredPairs, score: float, resamples: int = 200) -> tuple[float, float]:
    """95 % interval of the precision that was measured from a score on, by bootstrap over items."""
    items = torch.cat([pairs.item, pairs.wrong_item.flatten()])
    keys, place = torch.unique(items, return_inverse=True)
    above = PairsAbove(pairs, torch.tensor([score], dtype=torch.float64), place)
    generator = torch.Generator().manual_seed(0)
    ratios = torch.cat([above.drawn_ratio(len(keys), generator) for _ in range(resamples)])
    low, high = torch.quantile(1 / (1 + 2 * ratios), torch.tensor([0.025, 0.975]).double())
    return float(low), float(high)


def agree(stated: tuple[float, float, float], measured: tuple[float, float, float]) -> bool:
    """Whether two precisions differ by less than their intervals together allow at 95 %."""

    def logit(p: float) -> float:
        p = min(max(p, 1e-6), 1 - 1e-6)
        return math.log(p / (1 - p))

    deviations = [(logit(high) - logit(low)) / 2 for _, low, high in (stated, measured)]
    return abs(logit(stated[0]) - logit(measured[0])) <= math.hypot(*deviations)


def reliability(pairs: ScoredPairs, curve: Any, size: int) -> list[list[float]]:
    """(mean probability, share of matches, weight) of the ten best hits, in bins of probability."""
    wrong = pairs.wrong[:, :10].flatten()
    matching = pairs.score[pairs.score >= pairs.wrong[:, 9][pairs.query]]
    score = torch.cat([matching, wrong])
    label = torch.cat([torch.ones_like(matching), torch.zeros_like(wrong)])
    weight = torch.where(label > 0, 0.5, 1.0)
    p = torch.tensor([curve.probability(s, size) for s in score.tolist()], dtype=torch.float64)
    bins = []
    for low, high in ((0, 0.05), (0.05, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.01)):
        inside = (p >= low) & (p < high)
        bins.append([float((weight * x)[inside].sum()) for x in (p, label, torch.ones_like(p))])
    return bins


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits."""

    def mean(values: list[float]) -> float:
        return round(float(np.mean(values)), 4) if values else math.nan

    stated = {}
    for one in STATED:
        rows = [f["stated"][one] for f in found if one in f["stated"]]
        if not rows:
            continue
        stated[one] = {
            "splits_with_a_threshold": len(rows),
            **{
                name: mean([row[name] for row in rows])
                for name in (
                    *("measured", "measured_low", "measured_high", "low", "high", "agrees"),
                    *("recall", "no_match_called_so"),
                )
            },
            "hits": mean([float(row["hits"]) for row in rows]),
        }
    return {
        "no_match_called_so": mean([f["no_match_called_so"] for f in found]),
        "no_match_called_so_lowest": min(f["no_match_called_so"] for f in found),
        "match_is_likely": mean([f["match_is_likely"] for f in found]),
        "stated": stated,
        # (mean probability, share of matches) in bins of probability, over all splits
        "probability": [
            [round(p / total, 4), round(matching / total, 4), round(total)]
            for p, matching, total in np.sum([f["probability"] for f in found], axis=0).tolist()
            if total
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=HERE / "runs" / "match_threshold")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA}: no Flickr8k; set AMODAL_DATA to the folder that contains flickr8k")
    given.work.mkdir(parents=True, exist_ok=True)
    train, dev = features("train", given.work), features("dev", given.work)
    start = time.perf_counter()
    rows = held_out(train, dev, train_heads(train))
    dev_items = torch.from_numpy(dev["image_item"].astype(np.int64))
    one = part(rows, dev_items)
    recall = image_text_retrieval(
        one["image"].z, one["text"].z, one["image"].item, one["text"].item, bootstrap=0
    )
    result: dict[str, Any] = {
        "dev_recall": {n: round(v, 4) for n, v in recall.items() if "/recall@" in n},
        "splits": given.splits,
        "calibrated_on": CALIBRATED,
    }
    print(result["dev_recall"], f"{time.perf_counter() - start:.0f} s", flush=True)
    items = rows["image"].item
    for a, b in DIRECTIONS:
        by_size: dict[int, list[dict[str, Any]]] = {size: [] for size in GALLERIES}
        for seed in range(given.splits):
            order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
            chosen = part(rows, items[order[:CALIBRATED]])
            curve = calibrate_matches(chosen, "benchmark", "held-out photos").curves[f"{a}_to_{b}"]
            for size in GALLERIES:
                new = order[CALIBRATED:].split(size)
                galleries = [part(rows, items[one]) for one in new if len(one) == size]
                by_size[size].append(search(galleries, a, b, curve))
        result[f"{a}_to_{b}"] = {size: summary(found) for size, found in by_size.items()}
        for size, found in result[f"{a}_to_{b}"].items():
            print(f"{a} to {b}, {size} photos", json.dumps(found), flush=True)
    result["threads"] = torch.get_num_threads()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
