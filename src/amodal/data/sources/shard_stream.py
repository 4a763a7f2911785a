"""Items of a remote or compressed shard, which can only be read forwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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
    wrong: str = ""


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
                if is_hidden(member.name) or last not in SUFFIXES:
                    note_unread(notes, member.name, suffix.lower())
                    continue
                yield from reading.before(stem, suffix)
                content = b"" if member.wrong else stream.read(member.size)
                if not member.wrong and len(content) < member.size:
                    reason = f"the archive is cut short at byte {stream.position:,}"
                    raise DamagedTarError(reason, member.name)
                wrong = f"{suffix}: {member.wrong}" if member.wrong else ""
                reading.add(_Held(suffix, member.name, content, wrong))
        except DamagedTarError as error:
            yield from reading.cut(error)
        except Exception as error:  # connections fail in many ways
            yield from reading.cut(DamagedTarError(f"{type(error).__name__}: {error}"))
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
        held, self.held, self.bytes = self.held, [], 0
        items, unread = grouped(self.stem, [member.suffix for member in held])
        for index, suffix in unread:
            note_unread(self.notes, held[index].name, suffix)
        for key, parts in items.items():
            yield self._record(key, [(part.kind, held[part.number]) for part in parts])

    def cut(self, error: DamagedTarError) -> Iterator[Record | BrokenRecordError]:
        """The records of what is held; the item of a member that is cut short is not whole."""
        reason = f"damaged tar: {error.reason}"
        told = False
        if error.name is not None:
            stem, suffix = place_of(error.name)
            if stem != self.stem:
                yield from self.rest()
                self.stem = stem
            self.held = [member for member in self.held if member.name != error.name]
            self.held.append(_Held(suffix, error.name, b"", reason))
        for record in self.rest():
            told |= isinstance(record, BrokenRecordError) and record.reason == reason
            yield record
        if not told:
            yield BrokenRecordError(self.shard, reason)

    def _record(self, key: str, found: Sequence[tuple[Kind, _Held]]) -> Record | BrokenRecordError:
        origin = f"{self.shard} {key}"
        wrong = next((member.wrong for _, member in found if member.wrong), None)
        if wrong is not None:
            return BrokenRecordError(origin, wrong)
        contents = [(kind, member.suffix.lower(), member.content) for kind, member in found]
        suffix, count = Counter(suffix for _, suffix, _ in contents).most_common(1)[0]
        if count > 1:
            return BrokenRecordError(origin, f"two members {suffix} of one name")
        if hash(key) in self.seen:
            return BrokenRecordError(origin, APART)
        self.seen.add(hash(key))
        self.keys.add(self.number, key)
        try:
            return record_of(contents, self.name, key, origin)
        except BrokenRecordError as error:
            return error
