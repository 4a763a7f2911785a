"""The record that rows of one item make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amodal.data.media import MEDIA_SUFFIXES
from amodal.data.record import BrokenRecordError, Record
from amodal.data.sources.cells import (
    captions,
    cell,
    label_of,
    media,
    name_of,
    plain_value,
)
from amodal.data.sources.columns import RESERVED, STYLES, Columns
from amodal.data.sources.delimited import parse

LEGAL = "with `columns.empty_cells: missing` an item may lack it"


def row_record(
    rows: Sequence[Mapping[str, Any]],
    columns: Columns,
    *,
    origin: str,
    root: Path | None,
    label_names: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Record:
    """The record of the rows of one item.

    Args:
        rows: the first one whole; of the others only the caption columns are read.
        columns: as `Columns.checked` returned them.
        root: folder of relative media paths.
        label_names: names of integer labels.
        kinds: column of text -> what its cells are, see `delimited.parse`.

    Raises:
        BrokenRecordError: there is no image or no caption, or a cell is of a wrong type.
    """
    first, kinds = rows[0], kinds or {}
    used = columns.used()
    record: Record = {
        _free_name(key, first): plain_value(parse(kinds[key], value) if key in kinds else value)
        for key, value in first.items()
        if key not in used
    }
    record["origin"] = origin
    record["id"] = origin
    for name, read in columns.inputs.items():
        if name not in STYLES:
            value, path = _value(name, columns, first, read, root, origin)
            if value is not None:
                record[name] = value
            if path is not None and read[0] == columns.media_column():
                record["id"] = path
    if columns.image is not None:
        image, path = media(cell(first, columns.image), root, origin, columns.image)
        if image is None and columns.empty_cells == "error" and columns.reads("image"):
            raise BrokenRecordError(origin, f"no image: column {columns.image!r} is empty; {LEGAL}")
        if image is not None:
            record["image"] = image
            record["id"] = path or origin
    if columns.audio is not None:
        audio, path = media(cell(first, columns.audio), root, origin, columns.audio)
        if audio is not None:
            record["audio"] = audio
            if columns.image is None and path is not None:
                record["id"] = path
    if columns.id is not None:
        named = name_of(cell(first, columns.id), origin, columns.id, option="id")
        if named is not None and named.strip():
            record["id"] = named
    if columns.texts:
        texts = [
            t for row in rows for c in columns.texts for t in captions(cell(row, c), origin, c)
        ]
        if texts:
            record["text"] = texts
        elif columns.empty_cells == "error" and columns.reads("text"):
            named = " and ".join(map(repr, columns.texts))
            raise BrokenRecordError(origin, f"the caption is empty: column {named}; {LEGAL}")
    if columns.label is not None:
        label = label_of(cell(first, columns.label), label_names, origin, columns.label)
        if label is not None:
            record["label"] = label
    return record


def _value(
    name: str,
    columns: Columns,
    row: Mapping[str, Any],
    cells: Sequence[str],
    root: Path | None,
    origin: str,
) -> tuple[Any, str | None]:
    """The value of a further input, and the path of its file as it was written, if it is one."""
    style = columns.style(name)
    if style == "texts":
        return [t for c in cells for t in captions(cell(row, c), origin, c)] or None, None
    value = cell(row, cells[0])
    looks_like_file = isinstance(value, str) and Path(value).suffix[1:].lower() in MEDIA_SUFFIXES
    if style == "media" or (style is None and (looks_like_file or isinstance(value, Mapping))):
        return media(value, root, origin, cells[0])
    if isinstance(value, str) and not value.strip():
        return None, None
    return value, None


def _free_name(key: str, row: Mapping[str, Any]) -> str:
    """The name of a metadata column, changed where a key of every record has it."""
    if key not in RESERVED:
        return key
    name = f"column_{key}"
    while name in row:
        name += "_"
    return name
