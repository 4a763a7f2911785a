"""Held-out items of a source, for training without a validation source of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from amodal.data.batch import key64
from amodal.data.near_duplicates import Fingerprints, near_duplicate_groups
from amodal.data.notes import notes_of
from amodal.data.record import BrokenRecordError, Record, Source
from amodal.data.record_facts import in_threads, records_in_order

FEWEST = 20  # items; of fewer none are held out
THREADS = 4  # that read records and take the fingerprints of their values


class Subset:
    """Some rows of a source.

    Args:
        source: with random access.
        rows: their numbers, in order.
        broken_rows: rows of the source that became part of no item.
    """

    def __init__(
        self, source: Source, rows: Sequence[int], broken_rows: Sequence[BrokenRecordError] = ()
    ) -> None:
        self.source, self.rows = source, list(rows)
        self.name, self.inputs = source.name, source.inputs
        self.broken_rows = tuple(broken_rows)
        self.notes = notes_of(source)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} items here, asked for {index}")
        return self.source[self.rows[index]]


class Split(NamedTuple):
    """A source without some items, and these items.

    Args:
        train: the part for training.
        held_out: the rest; None where nothing is held out.
        groups: groups of near-duplicate items, each of which is on one side.
        grouped: items in these groups.
    """

    train: Source
    held_out: Source | None
    groups: int = 0
    grouped: int = 0


def hold_out(
    source: Source,
    share: float,
    fingerprints: Callable[[Record], Fingerprints] | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Split:
    """The source without some items, and these items.

    Which items are held out depends on their ids, and on which are near-duplicates: the same items
    are held out again after a resume, and nearly the same when rows are added. Rows that cannot be
    read stay in the first part.

    Args:
        source: with random access.
        share: of the items, 0 … 1.
        fingerprints: of the values of a record; items linked by them stay on one side. None: only
            rows of one id do.
        progress: called with the number of records read so far.

    Examples:
        >>> from amodal.data.near_duplicates import content_fingerprint
        >>> class Numbers:
        ...     name, inputs = "numbers", frozenset({"text"})
        ...     def __len__(self):
        ...         return 100
        ...     def __getitem__(self, i):
        ...         return {"id": str(i), "origin": str(i), "text": [str(i)]}
        >>> train, held_out, *_ = hold_out(Numbers(), 0.1)
        >>> len(train), len(held_out)
        (90, 10)
        >>> halves = lambda record: {"half": [content_fingerprint(bytes([int(record["id"]) // 2]))]}
        >>> split = hold_out(Numbers(), 0.1, halves)
        >>> split.groups, split.grouped, len(split.held_out)
        (50, 100, 10)
    """
    if not share:
        return Split(source, None)
    rows: list[int] = []
    keys: list[int] = []
    found: list[Fingerprints] = []

    def facts(record: Record) -> tuple[int, Fingerprints]:
        key = key64(f"holdout\0{record['id']}")
        try:
            return key, fingerprints(record) if fingerprints is not None else {}
        except BrokenRecordError:
            return key, {}  # listed when training draws it

    with ThreadPoolExecutor(THREADS) as pool:
        reading = in_threads(records_in_order(source, None), facts, pool, ahead=8 * THREADS)
        for row, one in enumerate(reading):
            if not isinstance(one, BrokenRecordError):
                rows.append(row)
                keys.append(one[0])
                found.append(one[1])
            if progress is not None:
                progress(row + 1)
    items = len(set(keys))
    count = round(share * items)
    groups: dict[int, set[int]] = {}
    group_of = near_duplicate_groups(found, keys).tolist()
    for group, key in zip(group_of, keys, strict=True):
        groups.setdefault(group, set()).add(key)
    several = [len(members) for members in groups.values() if len(members) > 1]
    chosen = _chosen(groups, count) if items >= FEWEST and count >= 2 else set()
    if not chosen:
        return Split(source, None, len(several), sum(several))
    held = [row for row, group in zip(rows, group_of, strict=True) if group in chosen]
    there = set(held)
    rest = [row for row in range(len(source)) if row not in there]
    train = Subset(source, rest, getattr(source, "broken_rows", ()))
    return Split(train, Subset(source, held), len(several), sum(several))


def _chosen(groups: dict[int, set[int]], count: int) -> set[int]:
    """Groups of `count` items together, in the order of their keys; one that is too large is
    left out, and the next that fits is taken."""
    chosen: set[int] = set()
    for group in sorted(groups, key=lambda group: min(groups[group])):
        if len(groups[group]) <= count:
            chosen.add(group)
            count -= len(groups[group])
    return chosen


def share_of(source: Source, share: float) -> Subset:
    """A share of the items of a source; a smaller share is a part of a larger one.

    Which items it has depends on their ids alone. Rows that cannot be read stay in it.

    Args:
        source: with random access.
        share: of the items, above 0 and up to 1; at least one item is kept.
    """
    keys: dict[int, list[int]] = {}
    unread: list[int] = []
    for row in range(len(source)):
        try:
            keys.setdefault(key64(f"share\0{source[row]['id']}"), []).append(row)
        except BrokenRecordError:
            unread.append(row)
    count = max(1, round(share * len(keys)))
    kept = [row for key in sorted(keys)[:count] for row in keys[key]]
    return Subset(source, sorted([*kept, *unread]), getattr(source, "broken_rows", ()))
