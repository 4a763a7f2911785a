"""Features of frozen encoders in the place of values: in records and in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amodal.data.inputs import BatchContext, InputRows, spread
from amodal.data.notes import notes_of
from amodal.data.record import BrokenRecordError, Record, Source

# Key of a record: input -> `FeatureRows`. The value itself stays under the name of the input.
FEATURES = "amodal:features"
# Names of the tensors of a batch; an encoder is not run where they are there.
TOKENS, KEEP = "cached_tokens", "cached_keep"


@dataclass(frozen=True)
class FeatureTable:
    """Token features of R values.

    Args:
        shards: (T, D) each, the tokens of its values one after the other.
        shard, start, length: (R,) int64, where the tokens of each value are.
        truncated: (R,) bool, True where the value was cut to the encoder's maximum length.
    """

    shards: Sequence[Tensor]
    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def gather(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """(R, N, D) float32 tokens; where lengths differ, also a mask of those that are kept.

        They are called `cached_tokens` and `cached_keep`, the latter (R, N) bool.

        Examples:
            >>> tokens = torch.arange(6.0).view(3, 2)  # of one value, then two of another
            >>> at, there = np.array([0, 1]), np.zeros(2, bool)
            >>> table = FeatureTable([tokens], 0 * at, at, at + 1, there)
            >>> table.gather(np.array([1, 0]))["cached_keep"]
            tensor([[ True,  True],
                    [ True, False]])
        """
        length = self.length[rows]
        longest = int(length.max(initial=1))
        width = self.shards[0].shape[1]
        found = torch.zeros(len(rows), longest, width)
        for number in np.unique(self.shard[rows]).tolist():
            there = np.flatnonzero(self.shard[rows] == number)
            start = self.start[rows[there]]
            for step in range(longest):
                some = length[there] > step
                found[there[some], step] = self.shards[number][start[some] + step].float()
        keep = torch.from_numpy(np.arange(longest)[None] < length[:, None])
        return {TOKENS: found} if bool(keep.all()) else {TOKENS: found, KEEP: keep}


class FeatureRows(NamedTuple):
    """The features of the values of one input of an item.

    Args:
        table: that has them.
        rows: (V, W) int64 rows of the table: of each value as it is, then of its augmented views.
        content: (V,) int64 keys as in `Batch.content`, or None.
    """

    table: FeatureTable
    rows: NDArray[np.int64]
    content: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class FeatureChoice:
    """Number of cached values per item in a batch: as many as its input would take.

    Args:
        most: values per item; None: all.
        copies: rows per value.
        shuffled: take random values instead of the first, and of each a random view instead of
            the value as it is.
    """

    most: int | None = 1
    copies: int = 1
    shuffled: bool = False

    def batch(self, values: Sequence[FeatureRows | None], context: BatchContext) -> InputRows:
        """B items as (B * V, N, D) features; an item without values has absent rows."""
        given = [value for value in values if value is not None]
        most = self.most or max(len(value.rows) for value in given)
        width = most * self.copies
        place = np.full((len(values), width), -1, dtype=np.int64)
        content = np.zeros((len(values), width), dtype=np.int64)
        for i, (value, rng) in enumerate(zip(values, context.rngs, strict=True)):
            if value is None:
                continue
            chosen = np.arange(len(value.rows))
            if self.shuffled and len(chosen) > 1:
                chosen = rng.permutation(len(chosen))
            chosen = np.repeat(chosen[:most], self.copies)
            views = value.rows.shape[1]
            drawn = self.shuffled and views > 1
            view = rng.integers(views, size=len(chosen)) if drawn else np.zeros_like(chosen)
            place[i, : len(chosen)] = value.rows[chosen, view]
            if value.content is not None:
                content[i, : len(chosen)] = value.content[chosen]
        present = place >= 0
        table, has_content = given[0].table, given[0].content is not None
        rows = place[present]
        return InputRows(
            spread(table.gather(rows), torch.from_numpy(present.reshape(-1))),
            torch.from_numpy(present),
            torch.from_numpy(content) if has_content else None,
            int(table.truncated[rows].sum()) if has_content else None,
        )


@dataclass(frozen=True)
class SourceFeatures:
    """The features of one input of all records of a source.

    Args:
        table: that has them.
        first: (R + 1,) int64: the values of record r have the places first[r] to first[r + 1].
        rows: (V, W) int64 as in `FeatureRows`.
        content: (V,) int64 keys as in `Batch.content`, or None.
    """

    table: FeatureTable
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    content: NDArray[np.int64] | None = None

    def __getitem__(self, record: int) -> FeatureRows:
        part = slice(self.first[record], self.first[record + 1])
        content = self.content[part] if self.content is not None else None
        return FeatureRows(self.table, self.rows[part], content)


class FeatureSource:
    """A source whose records carry features beside their values, once these are known.

    Args:
        source: with random access.

    Attributes:
        features: input -> the features of its values.
        broken: number of a record -> why none of it can be used.

    Examples:
        >>> from amodal.data import parse_source
        >>> source = FeatureSource(parse_source("scenes:size=2").open())
        >>> at = np.array([0, 1])
        >>> table = FeatureTable([torch.ones(2, 4)], 0 * at, at, 0 * at + 1, np.zeros(2, bool))
        >>> source.features["image"] = SourceFeatures(table, np.array([0, 1, 2]), at[:, None])
        >>> source[1][FEATURES]["image"].rows
        array([[1]])
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.inputs = source.name, source.inputs
        self.broken_rows: tuple[BrokenRecordError, ...] = getattr(source, "broken_rows", ())
        self.notes = notes_of(source)
        self.features: dict[str, SourceFeatures] = {}
        self.broken: dict[int, BrokenRecordError] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        if index in self.broken:
            raise self.broken[index]
        record = self.source[index]
        if not self.features:
            return record
        features: Mapping[str, FeatureRows] = {n: f[index] for n, f in self.features.items()}
        return {**record, FEATURES: features}
