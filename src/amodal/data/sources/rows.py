"""Rows of a Hugging Face dataset as items: which rows belong together, and what that changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from amodal.data.notes import LISTED, Note
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.columns import RESERVED, Columns
from amodal.data.sources.places import Places
from amodal.data.sources.row_groups import Groups, empty_cells, grouped, shared_keys
from amodal.data.sources.row_record import row_record
from amodal.data.sources.row_types import check_text_columns, is_string, label_names, undecoded

LOOKED_AT = 8  # rows whose files are looked for at the start


class RowSource:
    """Items of one or more rows each; rows that share the key are one item with many captions.

    The key is `group_by`, else the column `id`, else the path of the image; rows without a key
    stand alone. Rows with one key and different images (or other inputs, or labels) are several
    items with one id. Where rows are items of their own, `Reading.rows_are_items`, only rows that
    have the same `id` and differ in nothing but the caption are one. What is neither an input nor
    a label is taken from the first row of the item.

    Attributes:
        broken_rows: rows without a caption in items that have others.
        notes: what was put together, or read otherwise than it may have been meant.
    """

    def __init__(
        self,
        name: str,
        dataset: datasets.Dataset,
        columns: Columns,
        places: Places,
        group_by: str | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.columns = columns = columns.checked(dataset.column_names, name, group_by)
        # A column whose name is taken is metadata: `columns.image: null` gives no image.
        free = set(dataset.column_names) - columns.used() - set(RESERVED)
        self.inputs = frozenset({*columns.inputs, *free})
        self._places = places
        self._roots = len(set(places.roots))
        self._dataset = undecoded(dataset)
        check_text_columns(columns, self._dataset.features, name)
        as_written = columns.used() | columns.as_written
        self._kinds = {c: k for c, k in (kinds or {}).items() if c not in as_written}
        media_column = columns.media_column()
        self._first_media = next((n for n, c in columns.inputs.items() if media_column in c), None)
        texts = list(dict.fromkeys(_top(name, dataset.column_names) for name in columns.texts))
        self._texts = self._dataset.select_columns(texts) if texts else None
        self._label_names = label_names(self._dataset.features, columns.label)
        named = [("text", c) for c in columns.texts]
        named += [("id", columns.id or ""), ("label", columns.label or "")]
        features = self._dataset.features
        self._mixed = [
            (n, c) for n, c in named if c in places.objects and is_string(features.get(c))
        ]
        self._check_root()
        if group_by is not None and columns.id is None:
            self.columns = columns = columns.model_copy(update={"id": group_by})
        groups = self._groups(group_by)
        self._named_by_row = self._ambiguous_ids()
        item, lost = self._usable(groups.item)
        self.broken_rows = tuple(
            BrokenRecordError(places.origin(int(row)), "the caption is empty") for row in lost
        )
        # Rows item by item; the first row of an item has its image, if one has.
        self._order = np.lexsort((self._without_media(), item))
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(item))])
        self.notes = (*places.notes, *self._group_notes(groups, group_by))

    @property
    def rows(self) -> datasets.Dataset:
        """The rows as they are stored, files of images and audio left undecoded."""
        return self._dataset

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} items, asked for {index}")
        rows = self._order[self._starts[index] : self._starts[index + 1]].tolist()
        first = rows[0]
        origin = self._places.origin(first)
        if first in self._places.unreadable:
            raise BrokenRecordError(origin, self._places.unreadable[first])
        self._refuse_objects(rows, origin)
        more: list[Mapping[str, Any]] = []
        if len(rows) > 1 and self._texts is not None:
            more = [self._texts[row] for row in rows[1:]]
        record = row_record(
            [self._dataset[first], *more],
            self.columns,
            origin=origin,
            root=self._places.root(first),
            label_names=self._label_names,
            kinds=self._kinds,
        )
        if self.columns.id is None and self._roots > 1:
            named = self._first_media and record.get(self._first_media)
            if isinstance(named, str):
                record["id"] = named  # the same path below another folder is another file
        if self._named_by_row is not None and self._named_by_row[first]:
            record["id"] = origin
        return record

    def _groups(self, group_by: str | None) -> Groups:
        columns = self.columns
        key = group_by or columns.id or (None if columns.rows_are_items else self._path_column())
        names = self._dataset.column_names
        captions = {_top(name, names) for name in columns.texts}
        inputs = [c for cs in columns.inputs.values() for c in cs]
        wanted = names if columns.rows_are_items else [*inputs, columns.label]
        apart = {_top(name, names) for name in wanted if name is not None} - captions - {key}
        return grouped(
            self._column,
            len(self._dataset),
            key,
            file=self._file_of_row(key) if key is not None else None,
            apart=[name for name in names if name in apart],
            free=[name for name in names if name not in {*apart, *captions, key}],
            empty_agrees=not columns.rows_are_items,
        )

    def _usable(self, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The item of each row, and rows without a caption in items that have others.

        Rows of an item that lacks an image or a caption stand alone: each is broken, and listed.
        """
        columns = self.columns
        empty = self._empty_captions()
        written = np.bincount(item[~empty], minlength=item.max(initial=-1) + 1) > 0
        alone = np.zeros(len(item), dtype=bool)
        if columns.empty_cells == "error" and columns.reads("text"):
            alone |= ~written[item]
        if columns.empty_cells == "error" and columns.image is not None and columns.reads("image"):
            there = ~self._without_media()
            alone |= ~(np.bincount(item[there], minlength=len(written)) > 0)[item]
        _, first = np.unique(item, return_index=True)
        _, found = np.unique(
            np.where(alone, np.arange(len(item)), first[item]), return_inverse=True
        )
        return found, np.flatnonzero(empty & written[item] & ~alone)

    def _group_notes(self, groups: Groups, group_by: str | None) -> list[Note]:
        notes = []
        key = group_by or self.columns.id or self._path_column()
        if groups.differing:
            rows = np.unique(np.concatenate(list(groups.differing.values())))
            what = (
                f"rows merged into the item of an earlier row with the same {key!r}, though their "
                f"{' and '.join(map(repr, groups.differing))} differ: the first row counts, and "
                "a `columns.id` of their own keeps rows apart"
            )
            notes.append(self._note(what, rows))
        if len(groups.repeated):
            what = (
                f"rows with the {key!r} of an earlier row that differ in more than the caption: "
                "items of the same id"
            )
            notes.append(self._note(what, groups.repeated))
        if self._named_by_row is not None and self._named_by_row.any():
            what = (
                f"rows with the {key!r} of another row: items of their own, whose id is file and "
                "row; `columns.id` names another"
            )
            notes.append(self._note(what, np.flatnonzero(self._named_by_row)))
        return notes

    def _note(self, what: str, rows: np.ndarray) -> Note:
        listed = [self._places.origin(int(row)) for row in rows[:LISTED]]
        return Note(what, len(rows), (*listed, *(["..."] if len(rows) > LISTED else [])))

    def _refuse_objects(self, rows: Sequence[int], origin: str) -> None:
        for option, column in self._mixed:
            for row in rows:
                if self._places.holds_object(column, row):
                    raise BrokenRecordError(
                        self._places.origin(row),
                        f"column {column!r} holds an object here and texts elsewhere, expected "
                        f"text for `columns.{option}`",
                    )

    def _ambiguous_ids(self) -> np.ndarray | None:
        """(rows,) bool: True where the path that would name an item is that of others too."""
        key = self._path_column()
        if not self.columns.rows_are_items or self.columns.id is not None or key is None:
            return None
        return shared_keys(self._column(key))

    def _check_root(self) -> None:
        """Refuse paths that lead to files from the working directory, and to none from the root.

        Raises:
            DataError: names one, and the `root` that is right.
        """
        column = self._path_column()
        if column is None:
            return
        count = min(LOOKED_AT, len(self._dataset))
        paths = [
            (self._places.root(row), path)
            for row, path in enumerate(self._dataset.select_columns([column])[:count][column])
            if path and path.strip() and "://" not in path
        ]
        here = [Path(path) for _, path in paths if len(path) < 1024]
        if not paths or len(here) < len(paths) or not all(map(_is_file, here)):
            return
        root, path = paths[0]
        if root is not None and not any(_is_file(root / path) for root, path in paths if root):
            raise DataError(
                f"{self.name}: {path!r} is no file below {root}, where the paths of column "
                f"{column!r} begin; from the working directory it is one: set `root: .`"
            )

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._dataset.with_format("arrow")[name][:]

    def _path_column(self) -> str | None:
        name = self.columns.media_column()
        if name is None or not is_string(self._dataset.features.get(name)):
            return None
        return name

    def _file_of_row(self, key: str) -> np.ndarray | None:
        """Which file each row is from, where equal keys in two files mean different images."""
        if key != self.columns.media_column() or self._roots < 2:
            return None
        return np.searchsorted(self._places.starts, np.arange(len(self._dataset)), side="right")

    def _without_media(self) -> np.ndarray:
        """(rows,) bool: True where the cell of the first image or other file is empty."""
        name = self.columns.media_column()
        if name is None or name not in self._dataset.column_names:
            return np.zeros(len(self._dataset), dtype=bool)
        return empty_cells(self._column(name))

    def _empty_captions(self) -> np.ndarray:
        """(rows,) bool: True where all caption columns are empty strings or null."""
        empty = np.full(len(self._dataset), bool(self.columns.texts))
        for name in self.columns.texts:
            if not is_string(self._dataset.features.get(name)):
                return np.zeros(len(self._dataset), dtype=bool)  # lists: found out on reading
            empty &= empty_cells(self._column(name))
        empty[list(self._places.unreadable)] = False  # they are broken for another reason
        return empty


def _top(name: str, there: Sequence[str]) -> str:
    """The column that holds a field such as `caption.raw`."""
    return name if name in there else name.split(".")[0]


def _quoted(names: Mapping[str, Any]) -> str:
    return " and ".join(map(repr, names))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
