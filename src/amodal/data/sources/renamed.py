"""Records of a source under the names that the inputs of a model have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from pydantic import Field

from amodal.data.notes import Note, notes_of
from amodal.data.record import BrokenRecordError, Record, Source, StreamingSource, StrictModel


class RenamingConfig(StrictModel):
    """Base of sources whose records have fixed keys.

    Args:
        columns: input -> key of the records that fills it, such as `{photo: image}`.
    """

    columns: dict[str, str] = Field(default_factory=dict)

    def read_like(self, other: Self) -> Self:
        """The same source with the columns of another, where it names none."""
        return self if self.columns else self.model_copy(update={"columns": other.columns})


class Renamed:
    """The records of a source with keys renamed.

    Args:
        source: with random access.
        columns: new key -> key of the records.
    """

    def __init__(self, source: Source, columns: Mapping[str, str]) -> None:
        self.source, self.columns = source, dict(columns)
        self.name = source.name
        self.inputs = renamed_keys(source.inputs, columns)
        self.broken_rows: tuple[BrokenRecordError, ...] = getattr(source, "broken_rows", ())
        self.notes = notes_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return renamed(self.source[index], self.columns)


class RenamedStream:
    """The same for a source that can only be read in order."""

    def __init__(self, source: StreamingSource, columns: Mapping[str, str]) -> None:
        self.source, self.columns = source, dict(columns)
        self.name = source.name
        self.inputs = renamed_keys(source.inputs, columns)

    @property
    def notes(self) -> Sequence[Note]:
        """The notes of the source, which grow as it is read."""
        return notes_of(self.source)

    def __iter__(self) -> Iterator[Record | BrokenRecordError]:
        for record in self.source:
            broken = isinstance(record, BrokenRecordError)
            yield record if broken else renamed(record, self.columns)  # type: ignore[arg-type]


def renamed(record: Record, columns: Mapping[str, str]) -> Record:
    """A record with keys renamed; a key that is missing stays missing."""
    moved = set(columns.values())
    kept = {key: value for key, value in record.items() if key not in moved}
    found = kept | {new: record[key] for new, key in columns.items() if key in record}
    if isinstance(found.get("text"), str):  # one caption, such as a label; not its letters
        found["text"] = [found["text"]]
    return found


def renamed_keys(keys: frozenset[str], columns: Mapping[str, str]) -> frozenset[str]:
    """The keys of renamed records."""
    return (keys - set(columns.values())) | {n for n, key in columns.items() if key in keys}
