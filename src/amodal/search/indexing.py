"""Fill an index from a stream of rows, so that stopping it loses nothing that was embedded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from amodal.data.atomic import write_text
from amodal.data.record import BrokenRecordError
from amodal.search.rows import Row
from amodal.search.store import VectorStore

ROWS_PER_VERSION = 4096  # every addition is a version of the table, with files of its own
SECONDS_PER_VERSION = 30.0


@dataclass
class IndexSummary:
    """Counts of added rows, and the errors of those that could not be added."""

    new: int = 0
    items: set[str] = field(default_factory=set)
    broken: list[BrokenRecordError] = field(default_factory=list)


def add_to_index(
    store: VectorStore,
    rows: Iterable[Row | BrokenRecordError],
    *,
    rows_per_version: int = ROWS_PER_VERSION,
) -> IndexSummary:
    """Add rows as they come; the broken ones are listed in the index folder's `broken.json`.

    If the rows stop with an exception, Ctrl-C included, those that came before it are added and
    the exception goes on; pass `store.row_keys()` as `skip` of `embed_source` to continue.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from amodal.data import BrokenRecordError
        >>> from amodal.search import VectorStore, add_to_index
        >>> from amodal.search.rows import Row
        >>> z = np.array([0.6, 0.8], np.float32)
        >>> rows = [Row("a", "text", z), BrokenRecordError("b.jpg", "is no image")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = VectorStore.create(folder, dim=2, fingerprint="weights-1")
        ...     summary = add_to_index(store, rows)
        >>> summary.new, summary.items, len(summary.broken)
        (1, {'a'}, 1)
    """
    summary = IndexSummary()
    buffer: list[Row] = []
    adding = False
    since = time.monotonic()

    def flush() -> None:
        nonlocal adding, since
        adding = True
        summary.new += store.add(buffer)
        summary.items.update(row.id for row in buffer)
        adding = False
        buffer.clear()
        since = time.monotonic()

    try:
        for row in rows:
            if isinstance(row, BrokenRecordError):
                summary.broken.append(row)
                continue
            buffer.append(row)
            if len(buffer) >= rows_per_version or time.monotonic() - since > SECONDS_PER_VERSION:
                flush()
    finally:
        # An addition that was itself interrupted may still be on its way: it is not repeated.
        if buffer and not adding:
            flush()
        broken = [{"origin": error.origin, "reason": error.reason} for error in summary.broken]
        text = json.dumps(broken, indent=1, ensure_ascii=False)
        write_text(store.folder / "broken.json", text + "\n")
    return summary
