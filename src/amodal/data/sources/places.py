"""Where rows come from, and what was found in their files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amodal.data.notes import Note


@dataclass(frozen=True)
class Places:
    """Where rows come from: file i holds the rows from starts[i] on.

    Args:
        files: names for errors.
        starts: first row of each file in the whole, ascending from 0.
        roots: folder of relative media paths per file; None leaves paths as they are.
        unreadable: row -> what is wrong with it.
        objects: column of text -> (N, 2) ranges of rows where it held objects or lists.
        notes: what was read otherwise than it may have been meant.
    """

    files: tuple[str, ...]
    starts: tuple[int, ...]
    roots: tuple[Path | None, ...]
    unreadable: Mapping[int, str] = field(default_factory=dict)
    objects: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def origin(self, row: int) -> str:
        """File and row; rows count from 1, without the header."""
        file = bisect_right(self.starts, row) - 1
        return f"{self.files[file]} row {row - self.starts[file] + 1}"

    def root(self, row: int) -> Path | None:
        return self.roots[bisect_right(self.starts, row) - 1]

    def holds_object(self, column: str, row: int) -> bool:
        """Whether the text of a cell was an object or a list in its file."""
        ranges = self.objects.get(column)
        if ranges is None:
            return False
        place = int(np.searchsorted(ranges[:, 0], row, side="right")) - 1
        return place >= 0 and row < ranges[place, 1]
