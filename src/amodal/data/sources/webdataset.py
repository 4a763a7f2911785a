"""Tar shards in WebDataset form, read in order, local or remote."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Literal

import fsspec
from braceexpand import braceexpand

from amodal.data.notes import Note, Notes
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.renamed import RenamingConfig
from amodal.data.sources.shard_index import (
    INPUTS,
    Keys,
    items_of_shard,
    only_in_order,
    read_item,
    shard_names,
)
from amodal.data.sources.shard_stream import records_of_stream


class WebDatasetConfig(RenamingConfig):
    """Tar files whose members share a name per item: 0001.jpg, 0001.txt, 0001.json.

    Image: jpg, png, webp, bmp, gif, tiff; several are images of one item. Audio: wav, flac, ogg,
    opus, mp3. Video: mp4, mov, webm, mkv, avi. Captions: txt or caption, one per line, or in json a
    list `captions` or a string `caption` or `text`. Class name: cls, or `label` in json. What else
    the json holds is metadata, and its `id`, if any, the identity of the item, which else is shard
    and key.

    The key ends at the first dot of the name. What follows may say what a member is, as in
    0001.image.png and 0001.caption.txt, or number the files of an item: 0001.0.png, 0001.1.png
    beside 0001.txt. Where nothing else has the key, it goes on to the last dot: v1.0.jpg, v1.0.txt.

    Args:
        path: file, glob, braces ("shard-{000..099}.tar"), or an address that fsspec knows
            ("s3://bucket/shard-*.tar", "https://..."); or several of them.
    """

    kind: Literal["webdataset"] = "webdataset"
    path: str | tuple[str, ...]

    def open(self) -> WebDatasetSource:
        """The source; shards are listed now and read when it is iterated.

        Raises:
            DataError: there is no such shard, or the address cannot be reached.
        """
        patterns = (self.path,) if isinstance(self.path, str) else self.path
        shards = [shard for pattern in patterns for shard in _shards(pattern)]
        if not shards:
            raise DataError("webdataset: `path` names no shard")
        name = shards[0].rsplit("/", 1)[-1]
        return WebDatasetSource(name if len(shards) == 1 else f"{name} and more", tuple(shards))


class WebDatasetSource:
    """The records of tar shards, one shard after the other.

    What cannot be read is yielded as its error: a member, or the rest of a shard. The members of an
    item may lie anywhere in a shard on disk; in a remote or compressed one they have to be
    adjacent.
    """

    inputs = INPUTS

    def __init__(self, name: str, shards: tuple[str, ...]) -> None:
        self.name = name
        self.shards = shards
        self._notes = Notes()

    @property
    def notes(self) -> tuple[Note, ...]:
        """Members that the last reading left out or joined, as far as it has come."""
        return self._notes.found()

    def __iter__(self) -> Iterator[Record | BrokenRecordError]:
        self._notes = notes = Notes()
        keys = Keys(notes)
        for number, (shard, name) in enumerate(
            zip(self.shards, shard_names(self.shards), strict=True)
        ):
            try:
                if only_in_order(shard):
                    yield from records_of_stream(number, shard, name, keys, notes)
                else:
                    yield from _records_on_disk(number, shard, name, keys, notes)
            except Exception as error:  # file systems behind fsspec fail in many ways
                yield BrokenRecordError(shard, f"the shard cannot be read: {error}")


def _records_on_disk(
    number: int, shard: str, name: str, keys: Keys, notes: Notes
) -> Iterator[Record | BrokenRecordError]:
    broken: list[BrokenRecordError] = []
    items = list(items_of_shard(number, shard, broken, notes))
    yield from broken
    file = os.open(shard, os.O_RDONLY)
    try:
        for item in items:
            keys.add(number, item.key)
            try:
                yield read_item(item, file, shard, name)
            except BrokenRecordError as error:
                yield error
    finally:
        os.close(file)


def _shards(pattern: str) -> list[str]:
    try:
        expanded = list(braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"{pattern}: {error}") from None
    found: list[str] = []
    for name in expanded:
        try:
            if "://" not in name:
                matches = sorted(glob.glob(name))
            elif glob.has_magic(name.split("://", 1)[1].split("?", 1)[0]):
                system, path = fsspec.core.url_to_fs(name)
                matches = sorted(system.unstrip_protocol(match) for match in system.glob(path))
            else:
                matches = [name]
        except (OSError, ImportError, ValueError) as error:
            raise DataError(f"{name}: shards cannot be listed: {error}") from None
        if not matches:
            raise DataError(f"{name}: no such shard")
        found += matches
    return found
