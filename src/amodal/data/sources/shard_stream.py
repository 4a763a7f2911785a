"""Items of a remote or compressed shard, which can only be read forwards."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

import fsspec

from amodal.data.notes import Notes
from amodal.data.record import BrokenRecordError, Record
from amodal.data.sources.shard_index import Keys
from amodal.data.sources.shard_items import (
    MAX_ITEM_BYTES,
    SUFFIXES,
    Kind,
    grouped,
    is_hidden,
    note_unread,
    place_of,
    record_of,
)
from amodal.data.sources.tar_members import DamagedTarError, TarStream, members

HELD_MEMBERS = 64  # of one stem; where there are more, its keys go on after the first dot
HELD_BYTES = 64 << 20
APART = (
    "the members of this item are not adjacent; in a remote or compressed shard they have to be: "
    "sort them, or store it as plain .tar on this machine"
)


class _Held(NamedTuple):
    suffix: str
    name: str
    content: bytes


def records_of_stream(
    number: int, shard: str, name: str, keys: Keys, notes: Notes
) -> Iterator[Record | BrokenRecordError]:
    """The records of a shard in its order, and what cannot be read as its error.

    Args:
        number: of the shard.
        shard: path or address of it.
        name: of the shard among the others.
        keys: of items are counted here.
        notes: members that are not read are counted here.

    Raises:
        OSError: the shard cannot be opened.
    """
    with fsspec.open(shard, "rb") as file:
        reading = _Reading(number, shard, name, keys, notes)
        try:
            stream = TarStream(file)
            for member in members(stream):
                stem, suffix = place_of(member.name)
                last = suffix.rpartition(".")[2].lower()
                if member.unreadable or is_hidden(member.name):
                    note_unread(notes, member.name, member.unreadable or "hidden")
                    continue
                if last not in SUFFIXES:
                    note_unread(notes, member.name, suffix.lower())
                    continue
                yield from reading.before(stem, suffix)
                content = stream.read(member.size)
                if len(content) < member.size:
                    reason = f"the archive is cut short at byte {stream.position:,}"
                    raise DamagedTarError(reason, member.name)
                reading.add(_Held(suffix, member.name, content))
        except DamagedTarError as error:
            yield from reading.cut(error)
        except (OSError, EOFError) as error:
            yield from reading.cut(DamagedTarError(str(error)))
        else:
            yield from reading.rest()


class _Reading:
    """The members of one stem, held until the next one comes."""

    def __init__(self, number: int, shard: str, name: str, keys: Keys, notes: Notes) -> None:
        self.number, self.shard, self.name = number, shard, name
        self.keys, self.notes = keys, notes
        self.stem = ""
        self.held: list[_Held] = []
        self.bytes = 0
        self.seen: set[int] = set()  # hashes of keys

    def before(self, stem: str, suffix: str) -> Iterator[Record | BrokenRecordError]:
        """The records that are complete when a member of this name comes."""
        if stem != self.stem:
            yield from self.rest()
            self.stem = stem
        elif len(self.held) >= HELD_MEMBERS or self.bytes >= HELD_BYTES:
            items, _ = grouped(stem, [member.suffix for member in self.held])
            if stem not in items:
                # Only the last key can go on.
                before = suffix.rpartition(".")[0]
                same = [m for m in self.held if m.suffix.rpartition(".")[0] == before]
                self.held = [m for m in self.held if m.suffix.rpartition(".")[0] != before]
                yield from self.rest()
                for member in same:
                    self.add(member)

    def add(self, member: _Held) -> None:
        self.bytes += len(member.content)
        if self.bytes > MAX_ITEM_BYTES:
            raise DamagedTarError(
                f"an item of more than {MAX_ITEM_BYTES:,} bytes, the rest is not read", member.name
            )
        self.held.append(member)

    def rest(self) -> Iterator[Record | BrokenRecordError]:
        """The records of what is held."""
        yield from self._records(None)

    def cut(self, error: DamagedTarError) -> Iterator[Record | BrokenRecordError]:
        """The records of what is held, without the item of a member that is cut short."""
        lost = None
        if error.name is not None:
            stem, suffix = place_of(error.name)
            if stem != self.stem:
                yield from self.rest()
                self.stem = stem
            lost = _Held(suffix, error.name, b"")
            self.held.append(lost)
        broken = yield from self._records(lost)
        origin = f"{self.shard} {broken}" if broken else self.shard
        yield BrokenRecordError(origin, f"damaged tar: {error.reason}")

    def _records(
        self, lost: _Held | None
    ) -> Generator[Record | BrokenRecordError, None, str | None]:
        """The records of what is held; returns the key of the item that is not whole."""
        held, self.held, self.bytes = self.held, [], 0
        items, unread = grouped(self.stem, [member.suffix for member in held])
        broken = None
        for index, suffix in unread:
            if held[index] is not lost:
                note_unread(self.notes, held[index].name, suffix)
        for key, parts in items.items():
            found = [held[part.number] for part in parts]
            if any(member is lost for member in found):
                broken = key
                continue
            yield self._record(
                key,
                [(p.kind, m.suffix.lower(), m.content) for p, m in zip(parts, found, strict=True)],
            )
        return broken

    def _record(
        self, key: str, contents: list[tuple[Kind, str, bytes]]
    ) -> Record | BrokenRecordError:
        origin = f"{self.shard} {key}"
        suffixes = [suffix for _, suffix, _ in contents]
        twice = next((suffix for suffix in suffixes if suffixes.count(suffix) > 1), None)
        if twice is not None:
            return BrokenRecordError(origin, f"two members {twice} of one name")
        if hash(key) in self.seen:
            return BrokenRecordError(origin, APART)
        self.seen.add(hash(key))
        self.keys.add(self.number, key)
        try:
            return record_of(contents, self.name, key, origin)
        except BrokenRecordError as error:
            return error
