"""Rows of a source as batches, for a `DataLoader`."""

from __future__ import annotations

from typing import Any

import torch

from amodal.data.batch import Batch
from amodal.data.collate import Collator
from amodal.data.record import BrokenRecordError, Source, sample_rng
from amodal.data.samplers import SampleIndex


class BatchReader(torch.utils.data.Dataset[Batch]):
    """Reads the rows of one batch at once, so that decoding and augmentation are batched.

    Give it to a `DataLoader` with `RunSampler` as batch sampler and `take_batch` as collate
    function.

    Examples:
        >>> from torch.utils.data import DataLoader
        >>> from amodal.data import BatchReader, Collator, parse_source
        >>> from amodal.data.reader import take_batch
        >>> from amodal.data.samplers import RunSampler
        >>> from amodal.encoders import SmallCNNConfig
        >>> from amodal.modalities.image import ImageInput
        >>> source = parse_source("scenes:size=8").open()
        >>> collator = Collator([ImageInput("image", SmallCNNConfig(size=32).preprocessor())])
        >>> loader = DataLoader(
        ...     BatchReader(source, collator, seed=0),
        ...     batch_sampler=RunSampler(8, batch_size=4, epochs=1, seed=0),
        ...     collate_fn=take_batch,
        ... )
        >>> [tuple(batch.tensors["image"]["pixel_values"].shape) for batch in loader]
        [(4, 3, 32, 32), (4, 3, 32, 32)]
    """

    def __init__(self, source: Source, collate: Collator, seed: int) -> None:
        self.source = source
        self.collate = collate
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SampleIndex) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[SampleIndex]) -> Batch:
        records: list[Any] = []
        for index in indices:
            try:
                records.append(self.source[index.row])
            except BrokenRecordError as error:
                records.append(error)
        rngs = [sample_rng(self.seed, index.epoch, index.row) for index in indices]
        return self.collate(records, rngs)


def take_batch(batch: Batch) -> Batch:
    """The collate function for `BatchReader`, which has already made the batch."""
    return batch
