"""The loop of every evaluator: read batches, collect what is broken, restore training mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from amodal.data.batch import Batch, key64
from amodal.data.collate import Collator
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, DataError, Record, Source
from amodal.data.samplers import SampleIndex
from amodal.models.evaluation_mode import evaluation_mode

Autocast = Callable[[], AbstractContextManager[object]]  # the number format of forward passes
Tick = Callable[[int], None]  # called with the number of items done so far


class EvaluationBatches:
    """Batches of the given rows of a source in order; may be iterated several times.

    Batches without a single usable record are left out.

    Args:
        source: what is read.
        collator: what makes the batches.
        items: row numbers; None means all.
        batch_size: items per batch.
        tick: called after each batch, for a progress bar.

    Attributes:
        broken: records that could not be used, in the order of the source.
        truncated: input -> rows that were cut to the encoder's maximum length.
        rows: row numbers of the latest batch, unusable records included.
    """

    def __init__(
        self,
        source: Source,
        collator: Collator,
        *,
        items: Sequence[int] | None = None,
        batch_size: int = 64,
        tick: Tick | None = None,
    ) -> None:
        self.source = source
        self.items: Sequence[int] = items if items is not None else range(len(source))
        self.batch_size, self.tick = batch_size, tick
        self.reader = BatchReader(source, collator, seed=0)
        self.rows: list[int] = []
        self.broken: list[BrokenRecordError] = []
        self.truncated: dict[str, int] = {}

    def __iter__(self) -> Iterator[Batch]:
        self.broken, self.truncated = [], {}
        for start in range(0, len(self.items), self.batch_size):
            self.rows = list(self.items[start : start + self.batch_size])
            batch = self.reader.__getitems__([SampleIndex(0, row) for row in self.rows])
            self.broken += batch.broken
            for name, count in batch.truncated.items():
                self.truncated[name] = self.truncated.get(name, 0) + count
            if len(batch):
                yield batch
            if self.tick is not None:
                self.tick(start + len(self.rows))

    def nothing_usable(self, reason: str = "") -> DataError:
        """The error for a source of which nothing could be evaluated, with its first broken row."""
        what = reason or f"none of {len(self.items)} records can be used"
        first = f"; the first: {self.broken[0]}" if self.broken else ""
        return DataError(f"{self.source.name}: {what}{first}")


@contextmanager
def evaluation_batches(
    model: nn.Module,
    source: Source,
    collator: Collator,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    tick: Tick | None = None,
) -> Iterator[EvaluationBatches]:
    """`EvaluationBatches` for a model in evaluation mode and without gradients.

    The mode of the model is restored at the end of the block, also after an error.

    Examples:
        ```python
        with evaluation_batches(model, source, collator_of(model)) as batches:
            outputs = [model(batch.to(model.device)) for batch in batches]
        ```
    """
    with torch.inference_mode(), evaluation_mode(model):
        yield EvaluationBatches(source, collator, items=items, batch_size=batch_size, tick=tick)


class NumberedSource:
    """A source whose records have their row number as id, so that batches name their rows."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.inputs = source.name, source.inputs

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return {**self.source[index], "id": str(index)}


def row_numbers(batch: Batch, rows: Sequence[int]) -> Tensor:
    """(B,) row numbers of the items of a batch of a `NumberedSource`."""
    known = {key64(str(row)): row for row in rows}
    return torch.tensor([known[key] for key in batch.item.tolist()])
