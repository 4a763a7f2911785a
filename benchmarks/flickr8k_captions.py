"""Captions of Flickr8k photos from random weights, beside captions that hardly look.

    python benchmarks/flickr8k_captions.py                         # 40 minutes of processor time
    python benchmarks/flickr8k_captions.py --photos 200 --set train.epochs=1

Trains recipes/flickr8k-captions.yaml and lets it describe the dev photos by beam search. Beside it,
with the same tokens and the same scorer, stand

- one caption for every photo: the most frequent one of the training set, and the one of
  `CANDIDATES` training captions that has the best mean CIDEr-D on `JUDGES` other training photos;
- the caption of the nearest training photo, by the distance of pictures of `PIXELS` x `PIXELS`
  and by the cosine of the mean picture tokens of the trained model. Of its five captions the one
  that agrees best with the other four is taken.

Document frequencies for the scores are those of the dev references, as coco-caption has it. The
data lie in $AMODAL_DATA/flickr8k.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amodal.data.coco_captions import CocoCaptionsConfig, CocoCaptionsSource
from amodal.data.collate import BatchReader, Collator
from amodal.data.samplers import Draw
from amodal.evaluation.caption_tokens import tokenize
from amodal.evaluation.captioning import DocumentFrequency, caption_scores, cider
from amodal.models.multimodal_transformer import MultimodalTransformer
from amodal.projection import unit_rows
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run
from amodal.training.saying import say_about

HERE = Path(__file__).parent
RESULT = HERE / "results" / "flickr8k_captions.json"
RECIPE = HERE.parent / "recipes" / "flickr8k-captions.yaml"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
METRICS = ("cider", "cider_d", "bleu_4", "rouge_l")
CANDIDATES, JUDGES = 300, 200
PIXELS = 16
SAMPLES = 12

Tokens = list[str]


def first_photos(part: str, count: int | None, folder: Path) -> Path:
    """The annotations of a part, or a file with those of its first `count` photos."""
    file = DATA / f"captions_{part}.json"
    if count is None:
        return file
    document = json.loads(file.read_text(encoding="utf-8"))
    kept = sorted(document["images"], key=lambda image: image["id"])[:count]
    ids = {image["id"] for image in kept}
    captions = [one for one in document["annotations"] if one["image_id"] in ids]
    few = folder / file.name
    few.write_text(json.dumps({"images": kept, "annotations": captions}), encoding="utf-8")
    return few


def references(source: CocoCaptionsSource) -> list[list[Tokens]]:
    return [[tokenize(text) for text in source[i]["text"]] for i in range(len(source))]


def most_frequent(train: list[list[Tokens]]) -> Tokens:
    """The caption that stands most often in the training set, the first of several."""
    counts = Counter(tuple(text) for texts in train for text in texts)
    return list(counts.most_common(1)[0][0])


def medoid(train: list[list[Tokens]], frequency: DocumentFrequency) -> Tokens:
    """Of some captions the one that suits other photos best."""
    order = list(range(len(train)))
    draw = random.Random(0)
    draw.shuffle(order)
    judges = min(JUDGES, len(order) // 2)
    photos = [train[i] for i in order[:judges]]
    pool = [text for i in order[judges:] for text in train[i]]
    candidates = draw.sample(pool, min(CANDIDATES, len(pool)))
    fits = [float(cider([one] * judges, photos, frequency=frequency).mean()) for one in candidates]
    return candidates[int(np.argmax(fits))]


def agreed(texts: list[Tokens], frequency: DocumentFrequency) -> Tokens:
    """The caption of a photo that is most like its others."""
    if len(texts) == 1:
        return texts[0]
    others = [texts[:i] + texts[i + 1 :] for i in range(len(texts))]
    return texts[int(cider(texts, others, frequency=frequency).argmax())]


def pixels(source: CocoCaptionsSource) -> Tensor:
    """(P, PIXELS * PIXELS * 3) downsampled photos."""
    rows = []
    for i in range(len(source)):
        with Image.open(source[i]["image"]) as photo:
            small = photo.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX)
        rows.append(torch.from_numpy(np.asarray(small, dtype=np.float32).reshape(-1) / 255))
    return torch.stack(rows)


@torch.inference_mode()
def pooled(model: MultimodalTransformer, source: CocoCaptionsSource) -> Tensor:
    """(P, D) unit rows: the mean of the tokens of a photo that the decoder looks at."""
    reader = BatchReader(source, Collator({"image": model.preprocessors["image"]}), seed=0)
    rows = []
    for start in range(0, len(source), 64):
        places = range(start, min(start + 64, len(source)))
        batch = reader.__getitems__([Draw(0, i) for i in places])
        if batch.broken:
            raise batch.broken[0]
        memory = model.fused(model.seen(batch.to(model.device)), None)
        assert memory is not None
        rows.append(unit_rows(memory.tokens.mean(1)).cpu())
    return torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=c")
    parser.add_argument("--photos", type=int, help="train on, and describe, only so many")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--run", type=Path, help="keep the run here; a finished one is measured")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        files = {
            part: first_photos(part, given.photos, Path(temporary)) for part in ("train", "dev")
        }
        run = given.run or Path(temporary) / "run"
        if not (run / "metrics.json").is_file():
            changes = [f"data.{part}.images={DATA}/images" for part in ("train", "validation")]
            changes.append(f"data.train.annotations={files['train']}")
            changes.append(f"data.validation.annotations={files['dev']}")
            train_run(load_recipe(RECIPE, [*changes, *given.set]), run)
        trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        model = MultimodalTransformer.from_pretrained(run)
        train, dev = (
            CocoCaptionsConfig(images=str(DATA / "images"), annotations=str(files[part])).open()
            for part in ("train", "dev")
        )
    known, truth = references(train), references(dev)
    said = say_about(model, dev, "caption", num_beams=given.beams, do_sample=False)
    if [one.row for one in said] != list(range(len(dev))):
        raise SystemExit(f"{len(said)} captions of {len(dev)} photos")

    frequency = DocumentFrequency.of(known)
    by_pixels = torch.cdist(pixels(dev), pixels(train)).argmin(1).tolist()
    by_tokens = (pooled(model, dev) @ pooled(model, train).T).argmax(1).tolist()
    frequent, central = most_frequent(known), medoid(known, frequency)
    captions = {
        f"model, {given.beams} beams": [tokenize(one.text) for one in said],
        "most frequent caption": [frequent] * len(dev),
        "medoid caption": [central] * len(dev),
        "nearest photo by pixels": [agreed(known[i], frequency) for i in by_pixels],
        "nearest photo by the model": [agreed(known[i], frequency) for i in by_tokens],
    }
    results = {}
    for name, texts in captions.items():
        values = caption_scores(texts, truth, bootstrap=1000).to_dict()
        kept = [f"{metric}{end}" for metric in METRICS for end in ("", "/low", "/high")]
        results[name] = {key: round(values[key], 4) for key in kept}
        print(f"{name:28}", *(f"{metric} {results[name][metric]:.3f}" for metric in METRICS))
    constant = max(("most frequent caption", "medoid caption"), key=lambda n: results[n]["cider_d"])
    samples = random.Random(0).sample(range(len(dev)), min(SAMPLES, len(dev)))
    document = {
        "setting": {
            "photos": {"train": len(train), "dev": len(dev)},
            "changes": given.set,
            "train/seconds": trained["train/seconds"],
            "train/steps": trained["train/steps"],
        },
        "results": results,
        "better constant caption": {"which": constant, "text": " ".join(captions[constant][0])},
        "different captions of the model": len({one.text for one in said}),
        "samples": {dev[i]["file_name"]: said[i].text for i in sorted(samples)},
    }
    given.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
