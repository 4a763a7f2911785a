"""Which rows make up each batch of a run, as a pure function of the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from amodal.data.record import DataError


class SampleIndex(NamedTuple):
    """Row `row` of the source in epoch `epoch`: all that augmentation may depend on."""

    epoch: int
    row: int


class RunSampler:
    """The batches of a whole run, every epoch one after the other.

    One process sees batches `rank, rank + world_size, ...` of the same sequence, so that a run
    on several processes and a resumed run read the rows that a plain run reads, in that order.
    The last incomplete batch of an epoch is dropped: contrastive losses depend on the batch size.

    Args:
        size: rows of the source.
        batch_size: rows per optimizer step, over all processes; must divide by `world_size`.
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
        if batch_size % world_size:
            raise DataError(
                f"batch_size {batch_size} does not divide by the {world_size} processes; "
                f"use {batch_size // world_size * world_size or world_size}"
            )
        self.size = size
        self.batch_size = min(batch_size, size // world_size * world_size)
        self.epochs = epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.batch_size

    def __len__(self) -> int:
        return max(1, math.ceil(self.epochs * self.steps_per_epoch))

    def permutation(self, epoch: int) -> np.ndarray:
        """(size,) row numbers in the order in which `epoch` reads them."""
        # As unsigned numbers: a list of a small and a large one would become floats, which
        # cannot tell the epochs apart.
        key = np.array([self.seed, (1 << 63) | epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(self.size)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        local = self.batch_size // self.world_size
        for step in range(len(self)):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0:
                order = self.permutation(epoch)
            start = place * self.batch_size + self.rank * local
            yield [SampleIndex(epoch, int(i)) for i in order[start : start + local]]
