"""Runs of small frozen encoders on a table of images with captions."""

import csv
import json

import numpy as np
from PIL import Image

from amodal.models.frozen_features import FrozenEncoder
from amodal.training.recipe import parse_recipe

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230), "grey": (90,) * 3}
ROWS = 40
VALUES = ROWS - 1 + 2 * ROWS  # images that can be read, and captions


def write_photos(folder):
    """A table of images with two captions each; one image is broken."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        name = list(COLORS)[i % len(COLORS)]
        pixels = np.full((40, 48, 3), COLORS[name]) + rng.integers(-25, 25, (40, 48, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        captions = (f"a {name} image number {i}", f"{name} and nothing else in picture {i}")
        # With ids, items are held out whatever the folder is called.
        rows += [{"image": f"{i}.png", "caption": c, "label": name, "id": i} for c in captions]
    (folder / "3.png").write_bytes(b"no image")
    with (folder / "photos.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "caption", "label", "id"])
        table.writeheader()
        table.writerows(rows)
    return folder


def source_of(photos):
    columns = {"image": "image", "text": "caption", "id": "id"}
    return {"kind": "table", "path": str(photos / "photos.csv"), "columns": columns}


ENCODERS = {
    "image": {
        "kind": "small_cnn",
        "size": 32,
        "widths": [8, 16],
        "pooling": "mean",
        "freeze": "all",
    },
    "text": {
        "kind": "small_transformer",
        "width": 16,
        "layers": 1,
        "heads": 2,
        "dropout": 0.1,
        "freeze": "all",
    },
}


def attention_pooled():
    pooled = {name: {**config, "pooling": "attention"} for name, config in ENCODERS.items()}
    return {"encoders": pooled, "projection": {"kind": "linear", "dim": 16}}


def fusion(kind):
    return {
        "kind": "fusion",
        "encoders": ENCODERS,
        "fusion": {"kind": kind, "dim": 16},
        "target": {"task": "classification", "column": "label"},
    }


def recipe_of(photos, *, model=None, augment=None, data=None, **train):
    values = {
        "data": {
            "train": source_of(photos),
            "captions_per_item": 2,
            "holdout": 0.2,
            **(data or {}),
        },
        "model": model or {"encoders": ENCODERS, "projection": {"kind": "mlp", "dim": 16}},
        "augment": augment or {},
        "train": {
            "epochs": 3,
            "batch_size": 10,
            "precision": "fp32",
            "learning_rate": 1e-2,
            "log_every": 1,
            "save_every": 0.34,
            **train,
        },
    }
    return parse_recipe(values, "test")


def losses(folder):
    lines = map(json.loads, (folder / "train_log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def count_features(monkeypatch):
    """A list that gets the number of values and views of each forward pass for the cache."""
    counts = []
    original = FrozenEncoder.features

    def counted(self, tensors):
        found = original(self, tensors)
        counts.append(len(found))
        return found

    monkeypatch.setattr(FrozenEncoder, "features", counted)
    return counts
