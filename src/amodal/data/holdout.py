"""Held-out items of a source, for training without a validation source of its own."""

from __future__ import annotations

from collections.abc import Sequence

from amodal.data.batch import key64
from amodal.data.notes import notes_of
from amodal.data.record import BrokenRecordError, Record, Source

FEWEST = 20  # items; of fewer none are held out


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


def hold_out(source: Source, share: float) -> tuple[Source, Source | None]:
    """The source without some items, and these items.

    Which items are held out depends on their ids alone, so the same item is held out again after a
    resume, and when rows are added. Rows that cannot be read stay in the first part.

    Args:
        source: with random access.
        share: of the items, 0 … 1.

    Returns:
        The part for training, and the held-out part; None where nothing is held out.

    Examples:
        >>> class Numbers:
        ...     name, inputs = "numbers", frozenset({"text"})
        ...     def __len__(self):
        ...         return 100
        ...     def __getitem__(self, i):
        ...         return {"id": str(i), "origin": str(i), "text": [str(i)]}
        >>> train, validation = hold_out(Numbers(), 0.1)
        >>> len(train), len(validation)
        (90, 10)
    """
    keys, _ = _rows_by_key(source, "holdout")
    count = round(share * len(keys))
    if not share or len(keys) < FEWEST or count < 2:
        return source, None
    held = sorted(row for key in sorted(keys)[:count] for row in keys[key])
    chosen = set(held)
    rest = [row for row in range(len(source)) if row not in chosen]
    return Subset(source, rest, getattr(source, "broken_rows", ())), Subset(source, held)


def share_of(source: Source, share: float) -> Subset:
    """A share of the items of a source; a smaller share is a part of a larger one.

    Which items it has depends on their ids alone. Rows that cannot be read stay in it.

    Args:
        source: with random access.
        share: of the items, above 0 and up to 1; at least one item is kept.
    """
    keys, unread = _rows_by_key(source, "share")
    count = max(1, round(share * len(keys)))
    kept = [row for key in sorted(keys)[:count] for row in keys[key]]
    return Subset(source, sorted([*kept, *unread]), getattr(source, "broken_rows", ()))


def _rows_by_key(source: Source, purpose: str) -> tuple[dict[int, list[int]], list[int]]:
    """Key of an item, in an order of its own for each purpose -> its rows; and unreadable rows."""
    keys: dict[int, list[int]] = {}
    unread: list[int] = []
    for row in range(len(source)):
        try:
            keys.setdefault(key64(f"{purpose}\0{source[row]['id']}"), []).append(row)
        except BrokenRecordError:
            unread.append(row)
    return keys, unread
