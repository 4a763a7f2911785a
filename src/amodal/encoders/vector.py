"""Precomputed features as tokens: one vector per item, or a sequence of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName


class VectorConfig(EncoderConfig):
    """Which column holds the features, and the width they get."""

    type: Literal["vector"] = "vector"
    kind: Literal["vector"] = "vector"
    # of lists of numbers, arrays, or paths of .npy files; None: the one with the input's name
    column: str | None = None
    width: int = Field(128, ge=1)  # of the token
    standardize: bool = True  # by mean and standard deviation of the training rows
    size: int | None = None  # numbers per vector; found in the training rows

    def build(self, pretrained: bool = True) -> VectorEncoder:
        """The encoder with random weights; there are no pretrained ones."""
        return VectorEncoder(self)

    def preprocessor(self, name: str, records: Iterable[Mapping[str, Any]]) -> VectorPreprocessor:
        """The reader of the column, fitted on training records."""
        return VectorPreprocessor.fit(self.column or name, self.standardize, records)

    def for_preprocessor(self, prepare: VectorPreprocessor) -> VectorConfig:
        """The same with the number of features that the training rows have."""
        return self.model_copy(update={"size": len(prepare.mean)})


class VectorPreprocessor:
    """Reads vectors of one column, and makes padded tensors of them.

    Args:
        column: name of the column.
        mean, std: (D,) float32 of the training rows.

    Examples:
        >>> from amodal.encoders import VectorPreprocessor
        >>> records = [{"z": [0.0, 1.0]}, {"z": [[2.0, 3.0], [4.0, 5.0]]}]  # one vector, and two
        >>> prepare = VectorPreprocessor.fit("z", True, records)
        >>> tensors = prepare([prepare.read(record) for record in records])
        >>> tensors["features"].shape, tensors["keep"].tolist()
        (torch.Size([2, 2, 2]), [[True, False], [True, True]])
    """

    FILE = "vector_config.json"
    TENSORS = "vector.safetensors"

    def __init__(self, column: str, mean: Tensor, std: Tensor) -> None:
        self.column, self.mean, self.std = column, mean, std

    @classmethod
    def fit(
        cls, column: str, standardize: bool, records: Iterable[Mapping[str, Any]]
    ) -> VectorPreprocessor:
        """With the mean and standard deviation of training records, taken in one pass.

        Raises:
            ValueError: no record has a vector in the column.
        """
        reader = cls(column, torch.zeros(0), torch.ones(0))
        count, total, square = 0, np.zeros(0), np.zeros(0)
        for record in records:
            try:
                rows = reader.read(record)
            except ValueError:
                continue  # reported when training draws the row
            if rows is None:
                continue
            if not count:
                total, square = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
            if rows.shape[1] != len(total):
                continue
            wide = rows.astype(np.float64)
            count, total = count + len(wide), total + wide.sum(0)
            square = square + (wide**2).sum(0)
        if not count:
            raise ValueError(f"no record has a vector in column {column!r}")
        mean = total / count
        deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
        deviation[deviation <= 1e-6 * (1 + np.abs(mean))] = 1.0  # a constant stays near 0
        if not standardize:
            mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
        return cls(column, torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())

    def read(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """(N, D) float32 of one record; a single vector has N = 1.

        Raises:
            ValueError: no vector, one of another width, or numbers that are not finite.
        """
        value = record.get(self.column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, str | Path):
            try:
                value = np.load(value, allow_pickle=False)
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                raise ValueError(
                    f"column {self.column!r}: {value} is no .npy file: {error}"
                ) from None
        try:
            rows = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(
                f"column {self.column!r} contains {value!r:.40}, expected a list of numbers"
            ) from None
        rows = rows[None] if rows.ndim == 1 else rows
        width = len(self.mean) or (rows.shape[1] if rows.ndim == 2 else 0)
        if rows.ndim != 2 or not rows.size or rows.shape[1] != width:
            raise ValueError(
                f"column {self.column!r}: expected {width or 'some'} numbers, got an array of "
                f"shape {np.shape(value)}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"column {self.column!r} has numbers that are not finite")
        return rows

    def __call__(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        """`features` (B, N, D) float32, standardised, and `keep` (B, N) bool."""
        longest = max((len(rows) for rows in values), default=1)
        features = torch.zeros(len(values), longest, len(self.mean))
        keep = torch.zeros(len(values), longest, dtype=torch.bool)
        for i, rows in enumerate(values):
            features[i, : len(rows)] = (torch.from_numpy(rows) - self.mean) / self.std
            keep[i, : len(rows)] = True
        return {"features": features, "keep": keep}

    def save(self, folder: str | Path) -> None:
        """Write the column's name as JSON and the statistics as safetensors."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / self.FILE).write_text(json.dumps({"column": self.column}), encoding="utf-8")
        save_file({"mean": self.mean, "std": self.std}, str(path / self.TENSORS))

    @classmethod
    def load(cls, folder: str | Path) -> VectorPreprocessor:
        """Read what `save` has written."""
        values = json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8"))
        tensors = load_file(str(Path(folder) / cls.TENSORS))
        return cls(values["column"], tensors["mean"], tensors["std"])


class VectorEncoder(nn.Module):
    """gelu(W x + b) per vector; padding is masked.

    Examples:
        >>> import torch
        >>> from amodal.encoders import VectorConfig
        >>> encoder = VectorConfig(width=8, size=3).build()
        >>> tokens, keep = encoder(torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
        >>> tokens.shape
        torch.Size([2, 4, 8])
    """

    pooling: PoolingName = "mean"

    def __init__(self, config: VectorConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.layer = nn.Linear(config.size or 1, config.width)

    def forward(self, features: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) and (B, N) bool → tokens (B, N, width) and the mask."""
        return torch.nn.functional.gelu(self.layer(features)), keep

    def layer_groups(self) -> LayerGroups:
        """One layer: what `freeze: n` counts."""
        return [[self.layer]]
