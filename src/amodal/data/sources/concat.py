"""Several sources as one, such as images with captions and other images with audio."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from amodal.data.notes import Note, notes_of
from amodal.data.record import BrokenRecordError, Record, Source, StrictModel

if TYPE_CHECKING:  # the union of sources, which this one belongs to, is made later
    SourceConfig = Any


class ConcatConfig(StrictModel):
    """The records of several sources, one source after the other.

    A list of sources in the place of a source means the same.

    Args:
        sources: each with inputs and columns of its own.
        shared_ids: records with one id are one item, whichever source they come from; else the ids
            of each source are its own.
    """

    kind: Literal["concat"] = "concat"
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    shared_ids: bool = False

    def read_like(self, other: ConcatConfig) -> ConcatConfig:
        """The same source, each part read as the part of another with its place and kind."""
        pairs = zip(self.sources, other.sources, strict=False)
        alike = [one.read_like(like) if one.kind == like.kind else one for one, like in pairs]
        return self.model_copy(update={"sources": (*alike, *self.sources[len(alike) :])})


class Concatenated:
    """Records of several sources, one source after the other.

    Args:
        sources: with random access.
        shared_ids: see `ConcatConfig`.

    Examples:
        >>> from amodal.data import ScenesConfig
        >>> source = Concatenated([ScenesConfig(size=2).open(), ScenesConfig(size=3).open()])
        >>> len(source), source[1]["id"].partition("/")[0], source[2]["id"].partition("/")[0]
        (5, '0', '1')
    """

    def __init__(self, sources: Sequence[Source], shared_ids: bool = False) -> None:
        self.sources, self.shared_ids = tuple(sources), shared_ids
        self.name = " + ".join(source.name for source in sources)
        self.inputs = frozenset().union(*(source.inputs for source in sources))
        self.broken_rows: tuple[BrokenRecordError, ...] = tuple(
            error for source in sources for error in getattr(source, "broken_rows", ())
        )
        self._ends = list(accumulate(len(source) for source in sources))

    @property
    def notes(self) -> Sequence[Note]:
        """The notes of all sources."""
        return [note for source in self.sources for note in notes_of(source)]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        record = self.sources[number][index - (self._ends[number - 1] if number else 0)]
        return record if self.shared_ids else {**record, "id": f"{number}/{record['id']}"}


def single_sources(config: Any) -> Iterator[Any]:
    """The sources that a source is made of; itself, where it is one."""
    if isinstance(config, ConcatConfig):
        for one in config.sources:
            yield from single_sources(one)
    else:
        yield config
