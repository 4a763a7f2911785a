"""Precomputed features: one vector or a sequence of vectors per item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from amodal.data.inputs import BatchContext, Effects, InputRows, spread
from amodal.data.near_duplicates import Fingerprint
from amodal.data.record import BrokenRecordError, Record
from amodal.data.yaml_document import parse_yaml
from amodal.encoders.vector import VectorPreprocessor
from amodal.modalities.modality import ColumnStyle, InputOptions, Preview, Records


class VectorModality:
    """Vectors of numbers from a column, a list, an array or a .npy file."""

    name: ClassVar[str] = "vector"
    column_style: ClassVar[ColumnStyle] = "value"
    is_text: ClassVar[bool] = False
    augmentations: ClassVar[tuple[type, ...]] = ()
    file_suffixes: ClassVar[tuple[str, ...]] = ()

    def fit(self, config: Any, name: str, records: Records | None) -> VectorPreprocessor:
        found: VectorPreprocessor = config.preprocessor(name, records() if records else ())
        return found

    def load(self, folder: Path) -> VectorPreprocessor:
        return VectorPreprocessor.load(folder)

    def input(self, name: str, prepare: VectorPreprocessor, options: InputOptions) -> VectorInput:
        return VectorInput(name, prepare)

    def values(self, name: str, prepare: VectorPreprocessor, record: Record) -> list[Any]:
        value = record.get(prepare.column)
        empty = value is None or (isinstance(value, str) and not value.strip())
        return [] if empty else [value]

    def decode(self, value: Any, origin: str, prepare: VectorPreprocessor) -> np.ndarray:
        try:
            found = prepare.read({prepare.column: value})
        except ValueError as error:
            raise BrokenRecordError(origin, str(error)) from None
        if found is None:
            raise BrokenRecordError(origin, f"column {prepare.column!r} is empty")
        return found

    def content_key(self, value: Any) -> str:
        if isinstance(value, str | Path):
            return str(value)
        rows = np.asarray(value)
        return f"{rows.shape} {blake2b(rows.tobytes(), digest_size=16).hexdigest()}"

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        return []

    def preview(self, value: Any, decoded: Any | None = None) -> Preview:
        if isinstance(value, str | Path):
            return Preview(path=str(value))
        return Preview(text=f"{np.asarray(value).shape[-1]} numbers")

    def parse(self, text: str) -> Any:
        return parse_yaml(text) if text.lstrip().startswith("[") else text

    def follows(self, value: Any, effects: Effects) -> bool:
        return False

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Vector encoders start as they were built."""

    def cache_decoder(self, config: Any) -> Callable[[Any, str], Any] | None:
        return None


@dataclass(frozen=True)
class VectorInput:
    """An input that takes vectors."""

    name: str
    prepare: VectorPreprocessor
    has_effects: ClassVar[bool] = False

    def read(self, record: Record) -> np.ndarray | None:
        return self.prepare.read(record)

    def batch(self, values: Sequence[np.ndarray | None], context: BatchContext) -> InputRows:
        """Padded sequences of vectors with their mask."""
        there = torch.tensor([value is not None for value in values], dtype=torch.bool)
        found = self.prepare([value for value in values if value is not None])
        return InputRows(spread(found, there), there[:, None])
