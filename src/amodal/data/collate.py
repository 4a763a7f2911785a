"""Records to a `Batch`: every input reads and batches its values, broken records are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from amodal.data.batch import Batch, key64
from amodal.data.features import FEATURES, FeatureChoice, FeatureRows
from amodal.data.inputs import BatchContext, Input, InputRows
from amodal.data.record import BrokenRecordError, Record

Rngs = Sequence[np.random.Generator]
FindFeatures = Callable[[Record], FeatureRows | None]  # of a record; None: unknown


class DropInputs(Protocol):
    """Presence masks in, presence masks with some values taken away out."""

    def __call__(self, present: Mapping[str, Tensor], *, rngs: Rngs) -> dict[str, Tensor]: ...


class TargetInput(Protocol):
    """The value of an item that is to be predicted."""

    def read(self, record: Record) -> Any | None: ...
    def encode(self, values: Sequence[Any | None]) -> Tensor: ...


class Collator:
    """Makes a `Batch` of records.

    Args:
        inputs: the inputs of the model, see `data.inputs.Input`.
        target: what is to be predicted, or None.
        drop: takes values away in training, presence masks in and out; None keeps all.
        choices: input -> which of the cached features of an item it takes; the first by default.
        find: input -> what looks up the features of records that do not carry them. A batch in
            which some are unknown has the values of all its items.

    Examples:
        >>> from amodal.data import Collator
        >>> from amodal.data.record import sample_rng
        >>> from amodal.encoders import VectorConfig
        >>> from amodal.modalities.vector import VectorInput
        >>> records = [
        ...     {"id": "a", "origin": "row 0", "z": [1.0, 2.0]},
        ...     {"id": "b", "origin": "row 1"},  # without a vector
        ... ]
        >>> prepare = VectorConfig(column="z").preprocessor("vector", records)
        >>> collate = Collator([VectorInput("vector", prepare)])
        >>> batch = collate(records, [sample_rng(0, 0, row) for row in range(2)])
        >>> batch.present["vector"].tolist()
        [[True], [False]]
    """

    def __init__(
        self,
        inputs: Iterable[Input],
        *,
        target: TargetInput | None = None,
        drop: DropInputs | None = None,
        choices: Mapping[str, FeatureChoice] | None = None,
        find: Mapping[str, FindFeatures] | None = None,
    ) -> None:
        self.inputs = {one.name: one for one in inputs}
        self.find = dict(find or {})
        self.choices = {name: FeatureChoice() for name in self.inputs} | dict(choices or {})
        self.target = target
        self.drop = drop

    def __call__(self, records: Sequence[Record | BrokenRecordError], rngs: Rngs) -> Batch:
        """The batch of the records that can be read.

        Args:
            records: B records of any source; a `BrokenRecordError` in the place of a record
                is passed on in `Batch.broken`.
            rngs: B generators, one per record.
        """
        kept: list[Record] = []
        kept_rngs: list[np.random.Generator] = []
        values: dict[str, list[Any | None]] = {name: [] for name in self.inputs}
        targets: list[Any | None] = []
        broken: list[BrokenRecordError] = []
        for record, rng in zip(records, rngs, strict=True):
            if isinstance(record, BrokenRecordError):
                broken.append(record)
                continue
            try:
                read = {name: self._read(name, record) for name in self.inputs}
                target = self.target.read(record) if self.target is not None else None
            except BrokenRecordError as error:
                broken.append(error)
                continue
            except ValueError as error:
                broken.append(BrokenRecordError(record["origin"], str(error)))
                continue
            kept.append(record)
            kept_rngs.append(rng)
            targets.append(target)
            for name, value in read.items():
                values[name].append(value)
        for name in self.find:
            values[name] = self._alike(name, values[name], kept)
        rows = self._rows(values, kept_rngs)
        present = {name: found.present for name, found in rows.items()}
        if self.drop is not None and kept:
            present = self.drop(present, rngs=kept_rngs)
        return Batch(
            tensors={name: found.tensors for name, found in rows.items()},
            present=present,
            item=torch.tensor([key64(str(r["id"])) for r in kept], dtype=torch.int64),
            content={n: found.content for n, found in rows.items() if found.content is not None},
            broken=tuple(broken),
            truncated={
                n: found.truncated for n, found in rows.items() if found.truncated is not None
            },
            label=_labels(kept),
            target=self.target.encode(targets) if self.target is not None else None,
        )

    def _read(self, name: str, record: Record) -> Any | None:
        """The decoded value of an input, or its cached features."""
        cached: FeatureRows | None = record.get(FEATURES, {}).get(name)
        if cached is None and name in self.find:
            cached = self.find[name](record)
        if cached is None:
            return self.inputs[name].read(record)
        return cached if len(cached.rows) else None

    def _alike(
        self, name: str, values: list[Any | None], records: Sequence[Record]
    ) -> list[Any | None]:
        """The values of an input as they are, where the features of some of them are unknown."""
        known = [isinstance(value, FeatureRows) for value in values if value is not None]
        if all(known) or not any(known):
            return values
        return [self.inputs[name].read(record) for record in records]

    def _batch(self, name: str, values: list[Any | None], context: BatchContext) -> InputRows:
        if any(isinstance(value, FeatureRows) for value in values):
            return self.choices[name].batch(values, context)
        return self.inputs[name].batch(values, context)

    def _rows(self, values: Mapping[str, list[Any | None]], rngs: Rngs) -> dict[str, InputRows]:
        context = BatchContext(rngs, [{} for _ in rngs])
        # Inputs whose augmentation the others follow come first.
        order = sorted(self.inputs, key=lambda name: not self.inputs[name].has_effects)
        rows = {name: self._batch(name, values[name], context) for name in order}
        return {name: rows[name] for name in self.inputs}


def _labels(records: Sequence[Record]) -> Tensor | None:
    if all(record.get("label") is None for record in records):
        return None
    keys = [str(r["id"]) if r.get("label") is None else f"label\0{r['label']}" for r in records]
    return torch.tensor([key64(key) for key in keys], dtype=torch.int64)
