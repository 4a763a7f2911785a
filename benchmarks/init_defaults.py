"""Settings of a joint embedding for 300, 3,000 and 30,000 pairs: what `amodal init` should choose.

    python benchmarks/init_defaults.py              # about two hours on two cores
    python benchmarks/init_defaults.py --size 300   # one size; finished runs are not repeated

The base is what `amodal init` writes for so many pairs. Each other setting differs from it in one
thing: random weights, linear heads, one network, no smoothing, other batches, numbers of captions
and epochs. 300 pairs are 300 photos of the dev split of Flickr8k with one caption each, 3,000 are
photos of the training split, 30,000 the 6,000 photos of the training split with five captions each.
Reported is the mean of recall@1, 5 and 10 in both directions after the last epoch, over 700 other
photos of the dev split with five captions each, the standard deviation over the seeds, and the
seconds of the steps. Data are in $AMODAL_DATA/flickr8k. Writes
benchmarks/results/init_defaults.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amodal.data.record import Record, readable_records
from amodal.data.sources.coco_captions import CocoCaptionsConfig
from amodal.evaluators.retrieval import mean_recall
from amodal.setup.defaults import DEFAULTS, FROM_SCRATCH, encoder_of
from amodal.setup.plan import fitted_to_items
from amodal.training import parse_recipe, train_run

HERE = Path(__file__).parent
RESULT = HERE / "results" / "init_defaults.json"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
HELD_OUT = 700
SIZES = {300: 1, 3000: 1, 30000: 5}  # pairs -> captions of a photo
SEEDS = {300: 3, 3000: 2, 30000: 1}

SCRATCH = {"model.encoders": {name: FROM_SCRATCH[name] for name in ("image", "text")}}
# Setting -> sizes it is tried with (None: all) and what differs from the base, by dotted key.
SETTINGS: dict[str, tuple[tuple[int, ...] | None, dict[str, Any]]] = {
    "base": (None, {}),
    "random weights": (None, SCRATCH),
    "linear heads": (
        None,
        {"model.projection": {"kind": "linear", "dim": 256, "input_norm": "batch"}},
    ),
    "one network (lite2)": (None, {"model.encoders.image.name": "efficientnet-lite2"}),
    "one network, last stage": (
        None,
        {"model.encoders.image.name": "efficientnet-lite2", "model.encoders.image.last_stages": 0},
    ),
    "one caption a step": ((30000,), {"data.captions_per_item": 1}),
    "five captions a step": ((30000,), {"data.captions_per_item": 5}),
    "no label smoothing": (None, {"objectives.0.label_smoothing": 0.0}),
    "half the batch": (None, {"train.batch_size": 0.5}),
    "twice the batch": ((3000, 30000), {"train.batch_size": 2}),
    "half the epochs": (None, {"train.epochs": 0.5}),
    "twice the epochs": (None, {"train.epochs": 2}),
    "no dropout, no noise": (
        None,
        {"model.projection.dropout": 0.0, "model.projection.input_noise": 0.0},
    ),
    "noise 0.3": (None, {"model.projection.input_noise": 0.3}),
    "noise 0.6": (None, {"model.projection.input_noise": 0.6}),
    "noise 2": (None, {"model.projection.input_noise": 2.0}),
    "words of the last layer alone": (None, {"model.encoders.text.last_layers": 1}),
    "temperature 0.15": (None, {"objectives.0.temperature": 0.15}),
    "learning rate 3e-4": (None, {"train.learning_rate": 3e-4}),
    "weight decay 0.5": (None, {"train.weight_decay": 0.5}),
}


def photos(pairs: int) -> tuple[list[Record], list[Record]]:
    """Training and held-out photos with their captions."""
    train, dev = (
        list(
            readable_records(
                CocoCaptionsConfig(
                    images=str(DATA / "images"), annotations=str(DATA / f"captions_{split}.json")
                ).open()
            )
        )
        for split in ("train", "dev")
    )
    used = train if pairs > 300 else dev[:-HELD_OUT]
    per_photo = SIZES[pairs]
    used = used[: pairs // per_photo]
    return [{**one, "text": one["text"][:per_photo]} for one in used], dev[-HELD_OUT:]


def write_coco(file: Path, chosen: list[Record]) -> dict[str, Any]:
    """A file of annotations, and the source of a recipe that reads it."""
    rows = [(number, caption) for number, one in enumerate(chosen) for caption in one["text"]]
    content = {
        "images": [{"id": i, "file_name": Path(one["image"]).name} for i, one in enumerate(chosen)],
        "annotations": [{"id": i, "image_id": n, "caption": c} for i, (n, c) in enumerate(rows)],
    }
    file.write_text(json.dumps(content))
    return {"kind": "coco_captions", "images": str(DATA / "images"), "annotations": str(file)}


def base(pairs: int, train: dict[str, Any], held_out: dict[str, Any]) -> dict[str, Any]:
    """The recipe of `amodal init` for so many pairs."""
    default = DEFAULTS["search"]
    values = {
        "data": {"train": train, "captions_per_item": default.captions_per_item},
        "model": {
            **default.model,
            "encoders": {name: encoder_of(name, pretrained=True) for name in ("image", "text")},
        },
        "objectives": list(default.objectives),
        "train": {**default.train, "batch_size": default.batch_size},
    }
    per_photo = SIZES[pairs]
    items = pairs // per_photo
    fitted = fitted_to_items(values, items, {per_photo: items})
    fitted["data"]["validation"] = held_out
    return fitted


def changed(recipe: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with other values; numbers for `batch_size` and `epochs` are factors."""
    found: dict[str, Any] = json.loads(json.dumps(recipe))
    for key, value in changes.items():
        *path, last = key.split(".")
        there: Any = found
        for part in path:
            there = there[int(part)] if isinstance(there, list) else there[part]
        is_factor = last in ("batch_size", "epochs")
        there[last] = int(there[last] * value) if is_factor else value
    return found


def run(recipe: dict[str, Any], seed: int) -> dict[str, float]:
    """Mean recall and seconds of one training."""
    once = recipe["train"]["epochs"]  # at the end: held-out photos pick no weights
    recipe = changed(recipe, {"train.seed": seed, "train.evaluate_every": once})
    with tempfile.TemporaryDirectory() as folder:
        metrics = train_run(parse_recipe(recipe, "the recipe"), Path(folder) / "run").metrics
    found = {name: value for name, value in metrics.items() if name.startswith("retrieval/")}
    return {"mean_recall": mean_recall(found), "seconds": metrics["train/seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, choices=SIZES, action="append")
    parser.add_argument("--setting", choices=SETTINGS, action="append")
    chosen = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for pairs in chosen.size or SIZES:
            train, held_out = photos(pairs)
            sources = [
                write_coco(Path(folder) / f"{pairs}-{name}.json", part)
                for name, part in (("train", train), ("held-out", held_out))
            ]
            recipe = base(pairs, *sources)
            of_size = results.setdefault(str(pairs), {})
            for name in chosen.setting or SETTINGS:
                sizes, changes = SETTINGS[name]
                if name in of_size or (sizes is not None and pairs not in sizes):
                    continue
                runs = [run(changed(recipe, changes), seed) for seed in range(SEEDS[pairs])]
                recalls = [one["mean_recall"] for one in runs]
                of_size[name] = {
                    "mean_recall": round(statistics.mean(recalls), 4),
                    "sd": round(statistics.stdev(recalls), 4) if len(recalls) > 1 else None,
                    "seeds": len(recalls),
                    "seconds": round(statistics.median(one["seconds"] for one in runs), 1),
                }
                print(pairs, name, of_size[name], flush=True)
                RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
