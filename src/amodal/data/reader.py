"""Rows of a source as batches, for a `DataLoader`."""

from __future__ import annotations

from typing import Any

import torch

from amodal.data.batch import Batch
from amodal.data.collate import Collator
from amodal.data.record import BrokenRecordError, Source, sample_rng
from amodal.data.samplers import Draw


class BatchReader(torch.utils.data.Dataset[Batch]):
    """Reads the draws of one batch at once, so that decoding and augmentation are batched.

    Give it to a `DataLoader` with `RunSampler` as batch sampler and `take_batch` as collate
    function.
    """

    def __init__(self, source: Source, collate: Collator, seed: int) -> None:
        self.source = source
        self.collate = collate
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Draw) -> Batch:
        return self.__getitems__([draw])

    def __getitems__(self, draws: list[Draw]) -> Batch:
        records: list[Any] = []
        for draw in draws:
            try:
                records.append(self.source[draw.row])
            except BrokenRecordError as error:
                records.append(error)
        rngs = [sample_rng(self.seed, draw.epoch, draw.row) for draw in draws]
        return self.collate(records, rngs)


def take_batch(batch: Batch) -> Batch:
    """The collate function for `BatchReader`, which has already made the batch."""
    return batch
