"""Which rows make up each batch of a run, as a pure function of the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from amodal.data.record import DataError


class SampleIndex(NamedTuple):
    """Row `row` of the source in epoch `epoch`: all that augmentation may depend on."""

    epoch: int
    row: int


class RunSampler:
    """The batches of a whole run, every epoch one after the other.

    Of several processes each one reads its share of every batch, in order of rank: a run on
    several processes and a resumed run read the rows that a plain run reads, in that order.
    The last incomplete batch of an epoch is dropped: contrastive losses depend on the batch size.

    Args:
        size: rows of the source.
        batch_size: rows per optimizer step, over all processes; where it does not divide by
            `world_size`, the first ones read one row more.
        epochs: passes over the source; a fraction ends the last pass early.
        seed: of the permutations.
        rank, world_size: this process among all.

    Raises:
        DataError: fewer than two rows.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        epochs: float,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if size < 2:
            raise DataError(
                f"training needs at least 2 usable rows, the source has {size}: a contrastive "
                "loss compares each row with others. Check the paths in `data.train`."
            )
        self.size = size
        self.batch_size = min(batch_size, size)
        self.epochs = epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.batch_size

    def __len__(self) -> int:
        return max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def permutation(self, epoch: int) -> np.ndarray:
        """(size,) row numbers in the order in which `epoch` reads them."""
        return _generator(self.seed, (1 << 63) | epoch).permutation(self.size)

    def batch(self, step: int) -> list[SampleIndex]:
        """The rows of a step, of all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.permutation(epoch)
        start = place * self.batch_size
        return [SampleIndex(epoch, int(i)) for i in self._order[start : start + self.batch_size]]

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        share, more = divmod(self.batch_size, self.world_size)
        first = self.rank * share + min(self.rank, more)
        local = share + (self.rank < more)
        for step in range(len(self)):
            yield self.batch(step)[first : first + local]


class BalancedSampler(RunSampler):
    """The batches of a run, each with the same number of rows of every group.

    Rows of a group are read once in each of its passes, whose last incomplete share is dropped; a
    small group has several passes in an epoch, whose `SampleIndex.epoch` counts them, so that
    augmentation differs.

    Args:
        groups: row numbers of each group.
        balance: the share of a group is proportional to its size to the power of this: 1 keeps the
            proportions of the source, 0 gives every group the same.
        options: see `RunSampler`.

    References:
        Conneau et al. 2020, arXiv:1911.02116, section 3.1 (exponentially smoothed shares).

    Examples:
        >>> groups = [np.arange(90), np.arange(90, 100)]
        >>> sampler = BalancedSampler(groups, balance=0.0, batch_size=10, epochs=1, seed=0)
        >>> batches = list(sampler)
        >>> len(batches), [sum(index.row >= 90 for index in batch) for batch in batches[:3]]
        (10, [5, 5, 5])
    """

    def __init__(self, groups: Sequence[np.ndarray], *, balance: float, **options: Any) -> None:
        super().__init__(sum(len(rows) for rows in groups), **options)
        self.groups = [rows for rows in groups if len(rows)]
        self.counts = shares([len(rows) for rows in self.groups], self.batch_size, balance)

    def batch(self, step: int) -> list[SampleIndex]:
        """The rows of a step, of all processes."""
        found: list[SampleIndex] = []
        for number, (rows, count) in enumerate(zip(self.groups, self.counts, strict=True)):
            if count:
                past, place = divmod(step, len(rows) // count)
                key = (1 << 63) | (number + 1) << 40 | past
                order = _generator(self.seed, key).permutation(len(rows))
                chosen = rows[order[place * count : (place + 1) * count]]
                found += [SampleIndex(past, int(row)) for row in chosen]
        # Mixed, so that every process gets rows of every group.
        mixed = _generator(self.seed, (1 << 62) | step).permutation(len(found))
        return [found[place] for place in mixed]


def shares(sizes: Sequence[int], batch_size: int, balance: float) -> list[int]:
    """Rows of each group in a batch: no more than it has, and at least one where there is room.

    Examples:
        >>> shares([900, 100], 10, balance=1.0), shares([900, 100], 10, balance=0.0)
        ([9, 1], [5, 5])
        >>> shares([900, 3], 10, balance=0.0)  # no row twice in a batch
        [7, 3]
    """
    weights = np.array(sizes, dtype=np.float64) ** balance
    counts = np.ones(len(sizes), dtype=np.int64) if batch_size >= len(sizes) else weights * 0
    counts = counts.astype(np.int64)
    for _ in range(batch_size - int(counts.sum())):
        # The group that is farthest below its share gets the next row.
        lacking = np.where(counts < sizes, weights / weights.sum() - counts / batch_size, -np.inf)
        counts[lacking.argmax()] += 1
    return [int(count) for count in counts]


def _generator(seed: int, key: int) -> np.random.Generator:
    # As unsigned numbers: a list of a small and a large one would become floats, which cannot tell
    # the epochs apart.
    return np.random.Generator(np.random.Philox(key=np.array([seed, key], dtype=np.uint64)))
