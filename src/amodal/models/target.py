"""What a model predicts: one class, several classes, or a number, from a column of the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from amodal.data.record import BrokenRecordError, DataError, Record, StrictModel

UNKNOWN = -100  # class index of a row whose class is not known


class TargetConfig(StrictModel):
    """Which column is predicted, and as what.

    Args:
        task: one class per item, any number of classes, or a number.
        column: of the records; `label` is the class name of every source that has one.
        separator: between the classes of one item, where several are written into one string.
        classes: all there are, in order; left empty, those of the training rows, sorted.
    """

    task: Literal["classification", "multi_label", "regression"] = "classification"
    column: str = "label"
    separator: str = Field("|", min_length=1)
    classes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Numbers that are predicted per item."""
        return 1 if self.task == "regression" else len(self.classes)

    def read(self, record: Record) -> Any | None:
        """The value of one record, or None where it has none.

        Raises:
            BrokenRecordError: no number where one is predicted, or a class that is not known.
        """
        value = record.get(self.column)
        if value is None or value == "":
            return None
        if self.task == "regression":
            return self._number(value, record["origin"])
        names = self._names(value)
        for name in names if self.classes else ():
            if name not in self.classes:
                raise BrokenRecordError(
                    record["origin"],
                    f"column {self.column!r} says {name!r}, which no training row does; "
                    f"known are {', '.join(self.classes[:8])}",
                )
        return names

    def encode(self, values: Sequence[Any | None]) -> Tensor:
        """Targets of what `read` returned.

        Returns:
            (B,) int64 class indices, `UNKNOWN` for None; (B, C) float32 of 0 and 1; or (B,) float32
            numbers; NaN for None in the last two.
        """
        if self.task == "regression":
            return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float32)
        place = {name: i for i, name in enumerate(self.classes)}
        if self.task == "classification":
            return torch.tensor(
                [UNKNOWN if v is None else place[v[0]] for v in values], dtype=torch.int64
            )
        found = torch.zeros(len(values), len(self.classes))
        for i, names in enumerate(values):
            if names is None:
                found[i] = math.nan
            else:
                found[i, [place[name] for name in names]] = 1
        return found

    def fitted(self, records: Iterable[Record]) -> TargetConfig:
        """The same with the classes of `records`.

        Raises:
            DataError: no record has the column, or there is nothing to tell apart.
        """
        if self.task == "regression" or self.classes:
            return self
        found: set[str] = set()
        columns: set[str] = set()
        for record in records:
            columns.update(record)
            found.update(self.read(record) or ())
        if not found:
            there = ", ".join(sorted(columns - {"origin"}))
            raise DataError(
                f"no record has a value in column {self.column!r}, which `model.target.column` "
                f"names; columns are {there or 'none'}"
            )
        if len(found) < 2 and self.task == "classification":
            raise DataError(
                f"column {self.column!r} has one class only, {next(iter(found))!r}: there is "
                "nothing to tell apart"
            )
        return self.model_copy(update={"classes": tuple(sorted(found))})

    def _names(self, value: Any) -> tuple[str, ...]:
        if self.task == "classification":
            return (str(value),)
        if isinstance(value, str):
            value = [part.strip() for part in value.split(self.separator)]
        return tuple(str(name) for name in value if str(name))

    def _number(self, value: Any, origin: str) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise BrokenRecordError(
                origin, f"column {self.column!r} says {value!r:.40}, expected a number"
            )
        return number
