"""Two-dimensional point sets as a modality type of their own: all that another package writes."""

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from amodal.data.inputs import InputRows, spread
from amodal.data.record import BrokenRecordError, StrictModel
from amodal.encoders.config import EncoderConfig
from amodal.modalities.modality import Preview

SIDE = 96  # pixels of the image that shows a point set


class PointNoise(StrictModel):
    """Moves every point by Gaussian noise."""

    kind: Literal["point_noise"] = "point_noise"
    deviation: float = Field(0.01, ge=0)


class PointSetPreprocessor:
    """Point sets to padded tensors.

    Args:
        max_points: points that are kept of a set.
    """

    length_option, truncated_end = "max_points", "end"

    def __init__(self, max_points):
        self.max_points = max_points

    def __call__(self, values):
        kept = [value[: self.max_points] for value in values]
        longest = max((len(value) for value in kept), default=1)
        points = torch.zeros(len(kept), longest, 2)
        keep = torch.zeros(len(kept), longest, dtype=torch.bool)
        for i, value in enumerate(kept):
            points[i, : len(value)] = torch.from_numpy(value)
            keep[i, : len(value)] = True
        return {"points": points, "keep": keep}

    def count_truncated(self, values):
        return sum(len(value) > self.max_points for value in values)

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "points.json").write_text(json.dumps({"max_points": self.max_points}))

    @classmethod
    def load(cls, folder):
        return cls(**json.loads((Path(folder) / "points.json").read_text()))


class PointSetMLPConfig(EncoderConfig):
    """Sizes of `PointSetMLP`."""

    type: Literal["points"] = "points"
    kind: Literal["point_set_mlp"] = "point_set_mlp"
    width: int = Field(64, ge=1)
    max_points: int = Field(64, ge=1)

    def build(self, pretrained=True):
        return PointSetMLP(self)

    def preprocessor(self):
        return PointSetPreprocessor(self.max_points)


class PointSetMLP(nn.Module):
    """The same two layers for every point; pooling makes a vector of them."""

    pooling = "max"

    def __init__(self, config):
        super().__init__()
        self.config, self.width = config, config.width
        self.layers = nn.Sequential(
            nn.Linear(2, config.width), nn.GELU(), nn.Linear(config.width, config.width), nn.GELU()
        )

    def forward(self, points, keep):
        return self.layers(points), keep

    def layer_groups(self):
        return [[self.layers]]


class PointSetModality:
    """Point sets: lists of (x, y) in the unit square, or JSON of such a list."""

    name: ClassVar[str] = "points"
    column_style: ClassVar[str] = "value"
    is_text: ClassVar[bool] = False
    augmentations: ClassVar[tuple[type, ...]] = (PointNoise,)
    file_suffixes: ClassVar[tuple[str, ...]] = ()

    def fit(self, config, name, records):
        return config.preprocessor()

    def load(self, folder):
        return PointSetPreprocessor.load(folder)

    def input(self, name, prepare, options):
        return PointSetInput(name, prepare, options.steps)

    def values(self, name, prepare, record):
        value = record.get(name)
        return [] if value is None or value == "" else [value]

    def decode(self, value, origin, prepare):
        try:
            points = np.asarray(self.parse(value) if isinstance(value, str) else value, np.float32)
        except ValueError as error:
            raise BrokenRecordError(origin, f"no point set: {error}") from None
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise BrokenRecordError(origin, f"expected points (N, 2), got shape {points.shape}")
        return points

    def content_key(self, value):
        return blake2b(repr(value).encode(), digest_size=8).hexdigest()

    def fingerprints(self, name, record):
        return []

    def preview(self, value, decoded=None):
        if decoded is None:
            return Preview()
        image = np.full((SIDE, SIDE, 3), 255, np.uint8)
        places = (np.clip(decoded, 0, 1) * (SIDE - 3)).astype(int)
        for x, y in places.tolist():
            image[y : y + 3, x : x + 3] = (200, 60, 30)
        return Preview(image=image)

    def parse(self, text):
        return json.loads(text)

    def follows(self, value, effects):
        return False

    def initialise(self, encoder, prepare, name, records):
        pass

    def cache_decoder(self, config):
        return None


@dataclass(frozen=True)
class PointSetInput:
    """An input that takes one point set per item."""

    name: str
    prepare: PointSetPreprocessor
    steps: Any = None
    has_effects: ClassVar[bool] = False

    def read(self, record):
        found = PointSetModality().values(self.name, self.prepare, record)
        if not found:
            return None
        return PointSetModality().decode(found[0], record["origin"], self.prepare)

    def batch(self, values, context):
        there = torch.tensor([value is not None for value in values])
        points = [
            self._moved(value, rng)
            for value, rng in zip(values, context.rngs, strict=True)
            if value is not None
        ]
        tensors = spread(self.prepare(points), there)
        return InputRows(tensors, there[:, None], truncated=self.prepare.count_truncated(points))

    def _moved(self, value, rng):
        for step in self.steps or ():
            value = value + rng.normal(0, step.deviation, value.shape).astype(np.float32)
        return value
