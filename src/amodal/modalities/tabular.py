"""Columns of a table: numbers and categories of one row, any of them empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from amodal.data.inputs import BatchContext, Effects, InputRows, spread
from amodal.data.near_duplicates import Fingerprint
from amodal.data.record import BrokenRecordError, Record
from amodal.data.yaml_document import parse_yaml
from amodal.encoders.tabular import Row, TabularPreprocessor
from amodal.modalities.modality import ColumnStyle, InputOptions, Preview, Records


class TabularModality:
    """Numbers and categories that stand in columns of a record."""

    name: ClassVar[str] = "columns"
    column_style: ClassVar[ColumnStyle] = None
    is_text: ClassVar[bool] = False
    augmentations: ClassVar[tuple[type, ...]] = ()
    file_suffixes: ClassVar[tuple[str, ...]] = ()

    def fit(self, config: Any, name: str, records: Records | None) -> TabularPreprocessor:
        found: TabularPreprocessor = config.preprocessor(records() if records else ())
        return found

    def load(self, folder: Path) -> TabularPreprocessor:
        return TabularPreprocessor.load(folder)

    def input(self, name: str, prepare: TabularPreprocessor, options: InputOptions) -> TabularInput:
        return TabularInput(name, prepare)

    def values(self, name: str, prepare: TabularPreprocessor, record: Record) -> list[Any]:
        cells = record.get(name) if isinstance(record.get(name), dict) else record
        assert cells is not None
        named = {c: cells.get(c) for c in (*prepare.numerical, *prepare.categorical)}
        there = {c: value for c, value in named.items() if value is not None and value != ""}
        return [there] if there else []

    def decode(self, value: Any, origin: str, prepare: TabularPreprocessor) -> Row:
        if isinstance(value, tuple):
            return value  # decoded
        try:
            found = prepare.read(value)
        except ValueError as error:
            raise BrokenRecordError(origin, str(error)) from None
        if found is None:
            raise BrokenRecordError(origin, "every column is empty")
        return found

    def content_key(self, value: Any) -> str:
        return repr(sorted(value.items())) if isinstance(value, dict) else repr(value)

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        return []

    def preview(self, value: Any, decoded: Any | None = None) -> Preview:
        if not isinstance(value, dict):
            return Preview(text=str(value))
        return Preview(text=", ".join(f"{column}: {cell}" for column, cell in value.items()))

    def parse(self, text: str) -> Any:
        values = parse_yaml(text if text.lstrip().startswith("{") else "{" + text + "}")
        if not isinstance(values, dict):
            raise ValueError(f"expected columns such as {{rooms: 3, town: Bern}}, got {text!r:.60}")
        return values

    def follows(self, value: Any, effects: Effects) -> bool:
        return False

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Column encoders start as they were built."""

    def cache_decoder(self, config: Any) -> Callable[[Any, str], Any] | None:
        return None


@dataclass(frozen=True)
class TabularInput:
    """An input that takes columns of a record."""

    name: str
    prepare: TabularPreprocessor
    has_effects: ClassVar[bool] = False

    def read(self, record: Record) -> Row | None:
        return self.prepare.read(record)

    def batch(self, values: Sequence[Row | None], context: BatchContext) -> InputRows:
        """Standardised numbers and category indices of one row per item."""
        there = torch.tensor([value is not None for value in values], dtype=torch.bool)
        found = self.prepare([value for value in values if value is not None])
        return InputRows(spread(found, there), there[:, None])
