"""Target of a prediction: one class, several classes, or a number, from a column of the records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from amodal.data.record import BrokenRecordError, DataError, Record, StrictModel
from amodal.encoders.tabular import category_name

UNKNOWN = -100  # class index of a row whose class is not known


class TargetConfig(StrictModel):
    """Which column is predicted, and as what.

    Args:
        task: one class per item, any number of classes, or a number.
        column: of the records; `label` is the class name of every source that has one.
        separator: between the classes of one item, where several are written into one string.
        classes: all there are, in order; left empty, those of the training rows, sorted.
        mean, std: of the numbers of the training rows; the model learns them standardised.
    """

    task: Literal["classification", "multi_label", "regression"] = "classification"
    column: str = "label"
    separator: str = Field("|", min_length=1)
    classes: tuple[str, ...] = ()
    mean: float | None = None
    std: float | None = Field(None, gt=0)

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
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            return None  # an empty cell; one of floats is NaN
        if self.task == "regression":
            return self._number(value, record["origin"])
        if self.task == "classification" and isinstance(value, list | tuple):
            raise BrokenRecordError(
                record["origin"],
                f"column {self.column!r} holds {len(value)} classes, expected one; "
                "`model.target.task: multi_label` predicts several",
            )
        names = self._names(value)
        for name in names if self.classes else ():
            if name not in self.classes:
                raise BrokenRecordError(
                    record["origin"],
                    f"column {self.column!r} contains {name!r}, which no training row has; "
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

    def fit(self, records: Iterable[Record]) -> TargetConfig:
        """The same with the classes of `records`.

        Raises:
            DataError: no record has the column, or there is nothing to tell apart.
        """
        if self.classes or self.std is not None:
            return self
        if self.task == "regression":
            return self._measured(records)
        found: set[str] = set()
        columns: set[str] = set()
        for record in records:
            columns.update(record)
            try:
                found.update(self.read(record) or ())
            except BrokenRecordError:
                continue  # reported when training draws the row
        if not found:
            raise self._absent(columns)
        if len(found) < 2 and self.task == "classification":
            raise DataError(
                f"column {self.column!r} has one class only, {next(iter(found))!r}: there is "
                "nothing to tell apart"
            )
        return self.model_copy(update={"classes": tuple(sorted(found))})

    def unstandardize(self, outputs: Tensor) -> Tensor:
        """Numbers of the model in the units of the column; scores of classes as they are."""
        if self.task != "regression":
            return outputs
        return outputs.float() * (self.std or 1.0) + (self.mean or 0.0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(N, C) probabilities of (N, C) scores; (N,) numbers of a regression."""
        if self.task == "regression":
            return outputs[:, 0]
        return outputs.softmax(1) if self.task == "classification" else outputs.sigmoid()

    def standardize(self, values: Tensor) -> Tensor:
        """Inverse of `unstandardize`: standard deviations from the mean."""
        if self.task != "regression":
            return values
        return (values - (self.mean or 0.0)) / (self.std or 1.0)

    def _measured(self, records: Iterable[Record]) -> TargetConfig:
        numbers: list[float] = []
        columns: set[str] = set()
        for record in records:
            columns.update(record)
            try:
                number = self.read(record)
            except BrokenRecordError:
                continue  # reported when training draws the row
            if number is not None:
                numbers.append(number)
        if not numbers:
            raise self._absent(columns)
        values = torch.tensor(numbers, dtype=torch.float64)
        deviation = float(values.std(correction=0))
        if deviation <= 1e-9 * (1 + abs(float(values.mean()))):
            raise DataError(
                f"column {self.column!r} is {numbers[0]} in every row: there is nothing to predict"
            )
        return self.model_copy(update={"mean": float(values.mean()), "std": deviation})

    def _absent(self, columns: Iterable[str]) -> DataError:
        there = ", ".join(sorted(set(columns) - {"origin"}))
        return DataError(
            f"no record has a value in column {self.column!r}, which `model.target.column` "
            f"names; columns are {there or 'none'}"
        )

    def _names(self, value: Any) -> tuple[str, ...]:
        if self.task == "classification":
            return (category_name(value) or "",)
        if isinstance(value, str):
            value = [part.strip() for part in value.split(self.separator)]
        names = map(category_name, value if isinstance(value, list | tuple) else [value])
        return tuple(name for name in names if name is not None)

    def _number(self, value: Any, origin: str) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise BrokenRecordError(
                origin, f"column {self.column!r} contains {value!r:.40}, expected a number"
            )
        return number
