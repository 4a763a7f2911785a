"""Checks of what a model predicts: columns that give the target away, classes that are rare."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from amodal.data.record import BrokenRecordError, readable_records
from amodal.doctor.finding import Finding
from amodal.doctor.subject import Subject
from amodal.encoders.tabular import category_name

MAX_RECORDS = 20_000
MIN_RECORDS = 50
# A category that decides the target in this share of the rows, on values that repeat, is the target
# under another name or was written down after it.
GIVES_AWAY = 0.995
MIN_REPEATS = 3  # rows per value of a category on average
MAX_MAJORITY = 0.95  # of the rows, of one class


def target(subject: Subject) -> Iterator[Finding]:
    """Columns that give the target away, and a class that nearly every row has."""
    assert subject.recipe is not None
    wanted = getattr(subject.recipe.model, "target", None)
    if wanted is None:
        return
    records, values = [], []
    for record in islice(readable_records(subject.train_source), MAX_RECORDS):
        try:
            value = wanted.read(record)
        except BrokenRecordError:
            continue  # counted by another check
        if value is not None:
            records.append(record)
            values.append(tuple(value) if isinstance(value, list) else value)
    if len(records) < MIN_RECORDS:
        return
    if wanted.task == "classification":
        (name, count), *_ = Counter(values).most_common(1)
        if count > MAX_MAJORITY * len(values):
            yield Finding(
                "one_class_dominates",
                "warning",
                f"column {wanted.column!r}",
                f"{count:,} of {len(values):,} training rows are {name[0]!r}: always answering "
                "that is nearly always right",
                "compare with this share, look at the accuracy of each class, and give the rare "
                "classes more rows",
            )
    for place, config in subject.recipe.model.encoders.items():
        for key in ("categorical", "numerical"):
            columns = tuple(getattr(config, key, ()))
            for column in columns:
                share = _decided(
                    [record.get(column) for record in records], values, number=key == "numerical"
                )
                if share < GIVES_AWAY:
                    continue
                rest = [other for other in columns if other != column]
                yield Finding(
                    "column_gives_target_away",
                    "error",
                    f"model.encoders.{place}.{key}",
                    f"the column {column!r} alone determines {wanted.column!r} in {share:.1%} of "
                    f"{len(records):,} training rows",
                    "leave the column out unless it is known before the target is, in practice too",
                    {f"model.encoders.{place}.{key}": rest},
                )


def _decided(cells: list[Any], values: list[Hashable], *, number: bool) -> float:
    """Share of the rows whose target follows from the cell; 0 where that cannot be told."""
    if number:
        return _linear(cells, values)
    by_cell: defaultdict[str, Counter[Hashable]] = defaultdict(Counter)
    for cell, value in zip(cells, values, strict=True):
        name = category_name(cell)
        if name is not None:
            by_cell[name][value] += 1
    rows = sum(counts.total() for counts in by_cell.values())
    majority = max(Counter(values).values()) / len(values)
    if rows < 0.5 * len(values) or rows < MIN_REPEATS * len(by_cell) or majority > MAX_MAJORITY:
        return 0.0
    return sum(max(counts.values()) for counts in by_cell.values()) / rows


def _linear(cells: list[Any], values: list[Hashable]) -> float:
    """Square of the correlation of two numbers; 0 where one is none."""
    try:
        pairs = [(float(c), float(v)) for c, v in zip(cells, values, strict=True) if c is not None]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0
    if len(pairs) < MIN_RECORDS:
        return 0.0
    x, y = np.array(pairs).T
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1] ** 2)
