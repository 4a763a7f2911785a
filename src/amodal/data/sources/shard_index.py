"""Random access to the items of tar shards on disk, from an index of where each member lies."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.webdataset import WebDatasetSource, is_read, record_of


class Member(NamedTuple):
    """Where the content of one file of a shard lies, in bytes."""

    suffix: str
    offset: int
    size: int


class Item(NamedTuple):
    """The members of one shard that share a name."""

    shard: int
    key: str
    members: tuple[Member, ...]


class IndexedShards:
    """The records of local tar shards in any order.

    Only headers are read to make it; a record is read where it lies, so nothing is unpacked and
    any number of processes may read at once.

    Args:
        source: shards that lie on this machine, not compressed.

    Raises:
        DataError: a shard is remote, compressed or no tar.
    """

    inputs = WebDatasetSource.inputs

    def __init__(self, source: WebDatasetSource) -> None:
        self.name = source.name
        self.shards = source.shards
        broken: list[BrokenRecordError] = []
        items: list[Item] = []
        for number, shard in enumerate(source.shards):
            items.extend(_items(number, shard, broken))
        self.items = items
        self.broken_rows = tuple(broken)
        self._files: dict[tuple[int, int], int] = {}  # process, shard -> descriptor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        number, key, members = self.items[index]
        origin = f"{self.shards[number]} {key}"
        sample: dict[str, str | bytes] = {"__key__": key}
        for member in members:
            try:
                content = os.pread(self._file(number), member.size, member.offset)
            except OSError as error:
                raise BrokenRecordError(origin, f"cannot be read: {error.strerror}") from None
            if len(content) < member.size:
                raise BrokenRecordError(origin, "the shard has become shorter since it was indexed")
            sample[member.suffix] = content
        return record_of(sample, origin)

    def _file(self, shard: int) -> int:
        # Descriptors are not shared with forked processes, where closing one would close all.
        here = (os.getpid(), shard)
        if here not in self._files:
            self._files[here] = os.open(self.shards[shard], os.O_RDONLY)
        return self._files[here]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for (process, _), descriptor in getattr(self, "_files", {}).items():
            if process == os.getpid():
                os.close(descriptor)


def _items(number: int, shard: str, broken: list[BrokenRecordError]) -> Iterator[Item]:
    """Items in the order of the shard; what cannot become one goes to `broken`."""
    if "://" in shard:
        raise DataError(
            f"{shard}: remote shards can only be read in order, and training draws rows at random; "
            "copy them to this machine"
        )
    path = Path(shard)
    if path.suffix != ".tar":
        raise DataError(
            f"{shard}: compressed shards can only be read in order, and training draws rows at "
            "random; store them as plain .tar"
        )
    key, members = "", list[Member]()

    def finished() -> Iterator[Item]:
        if not members:
            return
        if len({member.suffix for member in members}) < len(members):
            twice = next(
                m.suffix for m in members if [n.suffix for n in members].count(m.suffix) > 1
            )
            broken.append(BrokenRecordError(f"{shard} {key}", f"two members {twice} of one name"))
        else:
            yield Item(number, key, tuple(members))

    try:
        with tarfile.open(path, "r:") as tar:
            length = path.stat().st_size
            for info in tar:
                if not info.isfile() or not is_read(info.name):
                    continue
                folder, _, base = info.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                name = f"{folder}/{stem}" if folder else stem
                if name != key:
                    yield from finished()
                    key, members = name, []
                if info.offset_data + info.size > length:
                    broken.append(BrokenRecordError(f"{shard} {key}", "damaged tar: cut short"))
                    return
                members.append(Member(suffix.lower(), info.offset_data, info.size))
    except tarfile.TarError as error:
        yield from finished()
        broken.append(BrokenRecordError(shard, f"damaged tar: {error}"))
        return
    except OSError as error:
        raise DataError(f"{shard}: the shard cannot be read: {error.strerror}") from None
    yield from finished()
