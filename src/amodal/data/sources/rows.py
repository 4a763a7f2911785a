"""Rows of a Hugging Face dataset as records: what each column is, which rows belong together."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from amodal.data.decode import SUFFIXES as IMAGES
from amodal.data.decode_audio import SUFFIXES as AUDIO
from amodal.data.record import BrokenRecordError, DataError, Record, StrictModel

LEGAL = "with `columns.empty_cells: missing` an item may lack it"
MEDIA_SUFFIXES = frozenset({*IMAGES, *AUDIO})
RESERVED = ("id", "origin", "image", "text", "audio", "label")


Style = Literal["media", "texts", "value"]
STYLES: dict[str, Style] = {"image": "media", "text": "texts", "audio": "media"}


class Columns(StrictModel):
    """Which column holds what; every other column is metadata.

    Any further key is an input of the user's choosing: `{photo: path_of_photo}`.

    Args:
        image: paths, file contents, or a Hugging Face image; None reads none.
        text: captions; several columns, or a column of lists, give several captions per row.
        audio: paths, file contents, or a Hugging Face audio; an empty cell is no audio.
        id: identity of the item.
        label: class name; left out, a column called `label` is taken if there is one.
        empty_cells: of `image` or `text`: an error, as captioned images need both, or a missing
            value, which a fusion does without.
        others: further inputs -> their columns.
        styles: input -> how its cells are read, for the model that the rows are for; None: there
            is none, and a further input is a file where its cell looks like one.
        label_optional: the label column may be missing, as in rows that are to be predicted.
    """

    image: str | None = "image"
    text: str | tuple[str, ...] | None = "caption"
    audio: str | None = None
    id: str | None = None
    label: str | None = None
    empty_cells: Literal["error", "missing"] = "error"
    others: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    styles: dict[str, Style] | None = Field(None, exclude=True)
    label_optional: bool = Field(False, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _inputs_beside_the_rest(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "others" in values:
            return values
        known = {key: value for key, value in values.items() if key in cls.model_fields}
        others = {key: value for key, value in values.items() if key not in known}
        return {**known, "others": others} if others else known

    @model_serializer(mode="wrap")
    def _flat(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A default column written out would be one that somebody named when it is read again.
        whole = {key: value for key, value in dump(self).items() if key in self.model_fields_set}
        others = whole.pop("others", {})
        return {**whole, **others}

    def with_styles(self, styles: Mapping[str, Style]) -> Columns:
        """The columns that a model reads; an input without a column of its own has its name."""
        named = {"image": self.image, "text": self.text, "audio": self.audio, **self.others}
        more = {name: name for name in styles if named.get(name) is None and name not in STYLES}
        update: dict[str, Any] = {"others": {**self.others, **more}, "styles": dict(styles)}
        if "audio" in styles and "audio" not in self.model_fields_set:
            update["audio"] = "audio"
        return self.model_copy(update=update)

    @property
    def texts(self) -> tuple[str, ...]:
        """The caption columns."""
        return (self.text,) if isinstance(self.text, str) else self.text or ()

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Input -> its columns."""
        named = {"image": self.image, "text": self.text, "audio": self.audio, **self.others}
        return {
            name: (columns,) if isinstance(columns, str) else columns
            for name, columns in named.items()
            if columns
        }

    def style(self, name: str) -> Style | None:
        """How the cells of an input are read; None if unspecified."""
        if self.styles is not None and name in self.styles:
            return self.styles[name]
        return STYLES.get(name)

    def reads(self, name: str) -> bool:
        """Whether the model that the rows are for takes this input; true where there is none."""
        return self.styles is None or name in self.styles or name in self.model_fields_set

    def checked(self, names: Iterable[str], where: str, group_by: str | None = None) -> Columns:
        """Itself, with `label` filled in, if all the columns are among `names`.

        Where a model says what it reads, `image` and `text` columns that nobody has named are
        left out if they are not there.

        Raises:
            DataError: names the missing column, the nearest one, and how to choose it.
        """
        there = list(names)
        update: dict[str, Any] = {}
        if self.styles is not None:
            for name in ("image", "text", "audio"):
                optional = name not in self.model_fields_set and name not in self.styles
                if optional and getattr(self, name) not in (None, *there):
                    update[name] = None
        if self.label_optional and self.label not in there:
            update["label"] = None
        wanted = self.model_copy(update=update)
        asked: list[tuple[str, str | None]] = [
            *((f"columns.{name}", c) for name, columns in wanted.inputs.items() for c in columns),
            ("columns.id", self.id),
            ("columns.label", wanted.label),
            ("group_by", group_by),
        ]
        for option, column in asked:
            if column is not None and column not in there:
                near = difflib.get_close_matches(column, there, n=1, cutoff=0.3)
                hint = f"; the nearest is {near[0]!r}" if near else ""
                raise DataError(
                    f"{where}: no column {column!r}, the columns are "
                    f"{', '.join(map(repr, there)) or 'none'}{hint}; choose with "
                    f"`{option}`, or leave it out with null"
                )
        if wanted.label is None and "label" in there and "label" not in wanted.used():
            return wanted.model_copy(update={"label": "label"})
        return wanted

    def used(self) -> set[str]:
        """Every column that is not metadata."""
        columns = {column for columns in self.inputs.values() for column in columns}
        return {*columns, *(name for name in (self.id, self.label) if name is not None)}

    def media_column(self) -> str | None:
        """The column of the first input that is a file, whose path names the item."""
        for name, columns in self.inputs.items():
            if self.style(name) == "media" and name != "audio":
                return columns[0]
        return None


@dataclass(frozen=True)
class Places:
    """Where rows come from: file i holds the rows from starts[i] on.

    Args:
        files: names for errors.
        starts: first row of each file in the whole, ascending from 0.
        roots: folder of relative media paths per file; None leaves paths as they are.
    """

    files: tuple[str, ...]
    starts: tuple[int, ...]
    roots: tuple[Path | None, ...]

    def origin(self, row: int) -> str:
        """File and row; rows count from 1, without the header."""
        file = bisect_right(self.starts, row) - 1
        return f"{self.files[file]} row {row - self.starts[file] + 1}"

    def root(self, row: int) -> Path | None:
        return self.roots[bisect_right(self.starts, row) - 1]


class RowSource:
    """Items of one or more rows each; rows that share the key are one item with many captions.

    The key is `group_by`, else the column `id`, else the path of the image; rows without a key
    stand alone. What is not a caption is taken from the first row of the item.

    Attributes:
        broken_rows: rows without a caption in items that have others.
    """

    def __init__(
        self,
        name: str,
        dataset: datasets.Dataset,
        columns: Columns,
        places: Places,
        group_by: str | None = None,
    ) -> None:
        self.name = name
        self.columns = columns = columns.checked(dataset.column_names, name, group_by)
        # A column whose name is taken is metadata: `columns.image: null` gives no image.
        free = set(dataset.column_names) - columns.used() - set(RESERVED)
        self.inputs = frozenset({*columns.inputs, *free})
        self._places = places
        self._roots = len(set(places.roots))
        self._dataset = undecoded(dataset)
        media = columns.media_column()
        self._first_media = next((n for n, c in columns.inputs.items() if media in c), None)
        self._texts = self._dataset.select_columns(list(columns.texts)) if columns.texts else None
        self._label_names = label_names(self._dataset.features, columns.label)
        if group_by is not None and columns.id is None:
            self.columns = columns = columns.model_copy(update={"id": group_by})
        key = group_by or columns.id or self._path_column()
        first = _first_of_key(self._column(key), self._file_of_row(key)) if key else None
        rows = np.arange(len(self._dataset)) if first is None else first
        _, group, counts = np.unique(rows, return_inverse=True, return_counts=True)
        empty = self._empty_captions()
        written = np.bincount(group[~empty], minlength=len(counts))
        lost = np.flatnonzero(empty & (written[group] > 0))
        self.broken_rows = tuple(
            BrokenRecordError(places.origin(int(row)), "the caption is empty") for row in lost
        )
        self._order = np.argsort(group, kind="stable")  # rows, item by item
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} items, asked for {index}")
        rows = self._order[self._starts[index] : self._starts[index + 1]].tolist()
        more: list[Mapping[str, Any]] = []
        if len(rows) > 1 and self._texts is not None:
            more = [self._texts[row] for row in rows[1:]]
        record = row_record(
            [self._dataset[rows[0]], *more],
            self.columns,
            origin=self._places.origin(rows[0]),
            root=self._places.root(rows[0]),
            label_names=self._label_names,
        )
        if self.columns.id is None and self._roots > 1:
            named = self._first_media and record.get(self._first_media)
            if isinstance(named, str):
                record["id"] = named  # the same path below another folder is another file
        return record

    def _column(self, name: str) -> pa.ChunkedArray:
        return self._dataset.with_format("arrow")[name][:]

    def _path_column(self) -> str | None:
        name = self.columns.media_column()
        if name is None or not _is_string(self._dataset.features[name]):
            return None
        return name

    def _file_of_row(self, key: str) -> np.ndarray | None:
        """Which file each row is from, where equal keys in two files mean different images."""
        if key != self.columns.media_column() or self._roots < 2:
            return None
        return np.searchsorted(self._places.starts, np.arange(len(self._dataset)), side="right")

    def _empty_captions(self) -> np.ndarray:
        """(rows,) bool: True where all caption columns are empty strings or null."""
        empty = np.full(len(self._dataset), bool(self.columns.texts))
        for name in self.columns.texts:
            if not _is_string(self._dataset.features[name]):
                return np.zeros(len(self._dataset), dtype=bool)  # lists: found out on reading
            text = pc.utf8_trim_whitespace(self._column(name))
            empty &= pc.fill_null(pc.equal(text, ""), True).to_numpy().astype(bool)
        return empty


def row_record(
    rows: Sequence[Mapping[str, Any]],
    columns: Columns,
    *,
    origin: str,
    root: Path | None,
    label_names: Sequence[str] | None = None,
) -> Record:
    """The record of the rows of one item.

    Args:
        rows: the first one whole; of the others only the caption columns are read.
        columns: as `Columns.checked` returned them.
        root: folder of relative media paths.
        label_names: names of integer labels.

    Raises:
        BrokenRecordError: there is no image or no caption.
    """
    first = rows[0]
    record: Record = {
        f"column_{key}" if key in RESERVED else key: value
        for key, value in first.items()
        if key not in columns.used()
    }
    record["origin"] = origin
    record["id"] = origin
    for name, cells in columns.inputs.items():
        if name not in STYLES:
            value, path = _value(name, columns, [first[cell] for cell in cells], root)
            if value is not None:
                record[name] = value
            if path is not None and cells[0] == columns.media_column():
                record["id"] = path
    if columns.image is not None:
        image, path = _media(first[columns.image], root)
        if image is None and columns.empty_cells == "error" and columns.reads("image"):
            raise BrokenRecordError(origin, f"no image: column {columns.image!r} is empty; {LEGAL}")
        if image is not None:
            record["image"] = image
            record["id"] = path or origin
    if columns.audio is not None:
        audio, path = _media(first[columns.audio], root)
        if audio is not None:
            record["audio"] = audio
            if columns.image is None and path is not None:
                record["id"] = path
    if columns.id is not None and first[columns.id] is not None:
        record["id"] = str(first[columns.id])
    if columns.texts:
        record["text"] = [t for row in rows for name in columns.texts for t in _captions(row[name])]
        if not record["text"] and columns.empty_cells == "error" and columns.reads("text"):
            named = " and ".join(map(repr, columns.texts))
            raise BrokenRecordError(origin, f"the caption is empty: column {named}; {LEGAL}")
        if not record["text"]:
            del record["text"]
    if columns.label is not None and first[columns.label] is not None:
        label = first[columns.label]
        if label_names is not None and isinstance(label, int) and 0 <= label < len(label_names):
            label = label_names[label]
        record["label"] = str(label)
    return record


def undecoded(dataset: Any) -> Any:
    """The dataset with images, audio and videos left as they are stored."""
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video) and feature.decode:
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def label_names(features: Mapping[str, Any] | None, column: str | None) -> list[str] | None:
    """Names of the classes of an integer label column, if the dataset knows them."""
    feature = (features or {}).get(column) if column is not None else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _media(value: Any, root: Path | None) -> tuple[Any, str | None]:
    """A handle that `decode` understands, and the path as it was written."""
    if isinstance(value, Mapping):  # a Hugging Face media column: {"bytes": ..., "path": ...}
        path = value.get("path")
        if value.get("bytes"):
            return value["bytes"], None
        value = path
    if isinstance(value, str):
        if not value.strip():
            return None, None
        return (value if root is None or "://" in value else str(root / value)), value
    return value, None


def _value(
    name: str, columns: Columns, cells: Sequence[Any], root: Path | None
) -> tuple[Any, str | None]:
    """The value of a further input, and the path of its file as it was written, if it is one."""
    style = columns.style(name)
    if style == "texts":
        return [text for cell in cells for text in _captions(cell)] or None, None
    cell = cells[0]
    looks_like_file = isinstance(cell, str) and Path(cell).suffix[1:].lower() in MEDIA_SUFFIXES
    if style == "media" or (style is None and (looks_like_file or isinstance(cell, Mapping))):
        return _media(cell, root)
    if isinstance(cell, str) and not cell.strip():
        return None, None
    return cell, None


def _captions(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(v).strip() for v in values if v is not None and str(v).strip()]


def _is_string(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _first_of_key(column: pa.ChunkedArray, file: np.ndarray | None) -> np.ndarray:
    """(rows,) int: the first row with the same key, and the row itself where there is no key."""
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise DataError(f"rows cannot be grouped by a column of type {column.type}")
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())  # 32-bit offsets overflow past 2 GiB of keys
    encoded = pa.concat_arrays(column.chunks).dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    keyless = codes < 0
    if pa.types.is_large_string(column.type):
        blank = pc.equal(pc.utf8_trim_whitespace(encoded.dictionary), "")
        keyless |= np.isin(codes, np.flatnonzero(blank.to_numpy(zero_copy_only=False)))
    if file is not None:
        codes = codes * (int(file.max()) + 1) + file
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rows = first[inverse]
    return np.where(keyless, np.arange(len(rows)), rows)
