"""Records, the sources that yield them, and the two ways in which a record can be broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict

from amodal.data.surrogates import encodable

# One item of a data set: input -> value, plus `id`, `origin` and metadata.
#   id      str, unique per item; rows with the same id are positives of each other
#   origin  str, where the record comes from ("captions.json row 7"), printed in every error
#   image   str or Path, bytes, uint8 array (H, W, 3) or PIL image, or a list of them; decoded
#           late, by `data.decode`
#   text    list of str, one entry per caption
#   label   str, a class name, or a list of several
# Every other key is metadata: it is kept, indexed and can be filtered on.
Record = dict[str, Any]


class DataError(ValueError):
    """A source cannot be used at all: the message names the file, what was expected and the fix."""


class BrokenRecordError(ValueError):
    """One record cannot be used; it is skipped, counted and listed.

    Args:
        origin: file and row of the record.
        reason: what was expected and what came.
    """

    def __init__(self, origin: str, reason: str) -> None:
        # Paths may hold bytes that are no UTF-8, which no report could be written with.
        self.origin = encodable(origin)
        self.reason = encodable(reason)
        super().__init__(f"{self.origin}: {self.reason}")

    def __reduce__(self) -> tuple[type[BrokenRecordError], tuple[str, str]]:
        return type(self), (self.origin, self.reason)  # so that it crosses process borders whole


@runtime_checkable
class Source(Protocol):
    """A data set with a length and random access.

    `source[i]` is cheap (no media is decoded) and raises `BrokenRecordError` where row i
    cannot be used.
    """

    name: str
    inputs: frozenset[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class StreamingSource(Protocol):
    """A data set that can only be read in order, such as remote tar shards.

    A row that cannot be used is yielded as its `BrokenRecordError`, so that reading goes on.
    """

    name: str
    inputs: frozenset[str]

    def __iter__(self) -> Iterator[Record | BrokenRecordError]: ...


def captions_of(record: Record) -> list[str]:
    """The captions of a record; a string is one caption, not a list of letters.

    Examples:
        >>> captions_of({"text": "a dog"}), captions_of({"text": ["a", "b"]}), captions_of({})
        (['a dog'], ['a', 'b'], [])
    """
    value = record.get("text")
    if value is None:
        return []
    return [str(text) for text in value] if isinstance(value, list | tuple) else [str(value)]


def images_of(record: Record) -> list[Any]:
    """The images of a record; several ones stand in a list."""
    return media_of(record, "image")


def videos_of(record: Record) -> list[Any]:
    """The videos of a record; several ones stand in a list."""
    return media_of(record, "video")


def media_of(record: Record, name: str) -> list[Any]:
    """The media under a key of a record; several ones stand in a list."""
    value = record.get(name)
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def readable_records(source: Source) -> Iterator[Record]:
    """The records of a source that can be read; training lists the others when it draws them."""
    for i in range(len(source)):
        try:
            yield source[i]
        except BrokenRecordError:
            continue


class StrictModel(BaseModel):
    """Base of every part of a recipe: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random numbers that depend on nothing but (seed, epoch, index).

    Augmentation drawn from it is the same for any number of workers, and after a resume.
    """
    key = np.array([seed, (epoch << 40) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
