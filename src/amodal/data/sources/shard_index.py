"""Random access to the items of tar shards on disk, from an index of where each member lies."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from amodal.data.notes import Note, Notes
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.shard_items import (
    MAX_ITEM_BYTES,
    MEDIA,
    Kind,
    grouped,
    is_hidden,
    note_unread,
    place_of,
    record_of,
)
from amodal.data.sources.tar_members import (
    COMPRESSIONS,
    UNPACK,
    DamagedTarError,
    TarMember,
    TarStream,
    compression_of,
    members,
)

JOINED = "items whose members are not adjacent, joined by key"
REPEATED = "items that have the key of another shard's item, apart from which they are kept"
INPUTS: frozenset[str] = frozenset({*MEDIA, "text"})


class Member(NamedTuple):
    """Where the content of one file of a shard lies, in bytes."""

    kind: Kind
    suffix: str
    offset: int
    size: int


class Item(NamedTuple):
    """The members of one shard that share a key."""

    shard: int
    key: str
    members: tuple[Member, ...]


class IndexedShards:
    """The records of local tar shards in any order.

    Only headers are read to make it; a record is read where it lies, so nothing is unpacked and
    any number of processes may read at once.

    Args:
        name: of the source.
        shards: that lie on this machine, not compressed.

    Attributes:
        broken_rows: items and rests of shards that cannot be read.
        notes: members that are not read, items that were joined, keys that several shards have.

    Raises:
        DataError: a shard is remote, compressed or cannot be read.
    """

    inputs = INPUTS

    def __init__(self, name: str, shards: Sequence[str]) -> None:
        self.name = name
        self.shards = tuple(shards)
        self._names = shard_names(self.shards)
        broken: list[BrokenRecordError] = []
        notes = Notes()
        self.items: list[Item] = []
        for number, shard in enumerate(self.shards):
            reason = only_in_order(shard)
            if reason:
                raise DataError(f"{shard}: {reason}")
            try:
                self.items += items_of_shard(number, shard, broken, notes)
            except OSError as error:
                raise DataError(f"{shard}: cannot be read: {error.strerror or error}") from None
        keys = Keys(notes)
        for item in self.items:
            keys.add(item.shard, item.key)
        self.broken_rows = tuple(broken)
        self.notes: tuple[Note, ...] = notes.found()
        self._files: dict[tuple[int, int], int] = {}  # process, shard -> descriptor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        item = self.items[index]
        shard = self.shards[item.shard]
        return read_item(item, self._file(item.shard), shard, self._names[item.shard])

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


class Keys:
    """Keys that several shards have, counted as items are found."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._shards: dict[int, int] = {}  # hash of a key -> the first shard that has it

    def add(self, shard: int, key: str) -> None:
        if self._shards.setdefault(hash(key), shard) != shard:
            self._notes.add(REPEATED, key)


def read_item(item: Item, file: int, shard: str, name: str) -> Record:
    """The record of an item.

    Args:
        item: as it was indexed.
        file: descriptor of its shard.
        shard: path of it.
        name: of the shard among the others.

    Raises:
        BrokenRecordError: it is damaged, or has neither image nor caption.
    """
    origin = f"{shard} {item.key}"
    contents: list[tuple[Kind, str, bytes]] = []
    for member in item.members:
        try:
            content = os.pread(file, member.size, member.offset)
        except OSError as error:
            raise BrokenRecordError(origin, f"cannot be read: {error.strerror}") from None
        if len(content) < member.size:
            raise BrokenRecordError(origin, "the shard has become shorter since it was indexed")
        contents.append((member.kind, member.suffix, content))
    return record_of(contents, name, item.key, origin)


def only_in_order(shard: str) -> str:
    """Why the items of a shard cannot be read in any order; empty where they can.

    Raises:
        DataError: the shard cannot be read.
    """
    if "://" in shard:
        return (
            "remote shards can only be read in order, and training draws rows at random; "
            "copy them to this machine"
        )
    path = Path(shard)
    try:
        with path.open("rb") as stream:
            compression = compression_of(stream.read(max(map(len, COMPRESSIONS))))
    except OSError as error:
        raise DataError(f"{shard}: cannot be read: {error.strerror or error}") from None
    if compression is None:
        return ""
    named = " although it is named .tar" if path.suffix == ".tar" else ""
    return (
        f"compressed with {compression}{named}; compressed shards can only be read in order, and "
        "training draws rows at random; store them as plain .tar: "
        f"{UNPACK[compression]} < {path.name} > {path.name.split('.')[0]}.plain.tar"
    )


def items_of_shard(
    number: int, shard: str, broken: list[BrokenRecordError], notes: Notes
) -> Iterator[Item]:
    """The items of a shard on disk, in the order of their first members.

    Args:
        number: of the shard.
        shard: path of it.
        broken: what cannot become an item is added here.
        notes: members that are not read are counted here.

    Raises:
        OSError: the file cannot be read.
    """
    groups: defaultdict[str, list[_Found]] = defaultdict(list)
    cut: DamagedTarError | None = None
    with open(shard, "rb") as file:
        stream = TarStream(file, length=os.fstat(file.fileno()).st_size)
        try:
            for order, member in enumerate(members(stream)):
                stem, suffix = place_of(member.name)
                if is_hidden(member.name):
                    note_unread(notes, member.name, suffix)
                else:
                    groups[stem].append(_Found(suffix, member, order))
        except DamagedTarError as error:
            cut = error
    if cut is not None and cut.name is not None:
        # The header of a member that is cut short is there: its item is known, and not whole.
        stem, suffix = place_of(cut.name)
        lost = TarMember(cut.name, 0, 0, f"damaged tar: {cut.reason}")
        groups[stem].append(_Found(suffix, lost, len(groups)))
    targets: dict[str, TarMember] | None = None
    for stem, found in groups.items():
        items, unread = grouped(stem, [one.suffix for one in found])
        for index, suffix in unread:
            note_unread(notes, found[index].member.name, suffix)
        for key, parts in items.items():
            ones = [found[part.number] for part in parts]
            if any(one.member.target for one in ones):
                if targets is None:
                    targets = {o.member.name: o.member for group in groups.values() for o in group}
                ones = [one._replace(member=_linked(one.member, targets)) for one in ones]
            reason = _wrong(ones)
            if reason:
                broken.append(BrokenRecordError(f"{shard} {key}", reason))
                continue
            orders = [one.order for one in ones]
            if max(orders) - min(orders) >= len(found):
                notes.add(JOINED, f"{shard} {key}")
            pairs = zip(parts, ones, strict=True)
            yield Item(number, key, tuple(one.as_part(part.kind) for part, one in pairs))
    if cut is not None and not any(cut.reason in error.reason for error in broken):
        broken.append(BrokenRecordError(shard, f"damaged tar: {cut.reason}"))


class _Found(NamedTuple):
    """A member with the suffix of its name and its place among all of the shard."""

    suffix: str
    member: TarMember
    order: int

    def as_part(self, kind: Kind) -> Member:
        return Member(kind, self.suffix.lower(), self.member.offset, self.member.size)


def _linked(member: TarMember, targets: dict[str, TarMember]) -> TarMember:
    """A hard link as what it is linked to, where that is in the shard."""
    target = targets.get(member.target or "", member)
    return target._replace(name=member.name) if target.target is None else member


def _wrong(ones: Sequence[_Found]) -> str:
    """Why these members are no item; empty where they are."""
    for one in ones:
        if one.member.wrong:
            damaged = one.member.wrong.startswith("damaged")
            return one.member.wrong if damaged else f"{one.suffix}: {one.member.wrong}"
    suffix, count = Counter(one.suffix.lower() for one in ones).most_common(1)[0]
    if count > 1:
        return f"two members {suffix} of one name"
    size = sum(one.member.size for one in ones)
    if size > MAX_ITEM_BYTES:
        return f"{size:,} bytes, more than {MAX_ITEM_BYTES:,}"
    return ""


def shard_names(shards: Sequence[str]) -> list[str]:
    """A name for each shard: that of its file, and as many of its folders as keep names apart.

    Examples:
        >>> shard_names(["a/s0.tar", "a/s1.tar.gz"]), shard_names(["a/s0.tar", "b/s0.tar"])
        (['s0', 's1'], ['a/s0', 'b/s0'])
    """
    parts = [shard.split("?", 1)[0].split("/") for shard in shards]
    for names in parts:
        names[-1] = names[-1].removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
    depth, different = 1, len({tuple(names) for names in parts})
    while len({tuple(names[-depth:]) for names in parts}) < different:
        depth += 1
    return ["/".join(names[-depth:]) for names in parts]
