"""One embedding with what is known about it, and its columns in Parquet and in the index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from amodal.data.surrogates import encodable

Key = tuple[str, str, int]  # (id, input, row): what makes a row unique
Scalar = bool | int | float | str

FIXED = ("id", "input", "row", "text", "path", "origin", "thumbnail", "embedding")
SPAN = ("start_seconds", "end_seconds")  # columns of rows that are a part of a file
UNFINISHED = "unfinished_"  # begins the name of a column that is being written


@dataclass(frozen=True)
class Row:
    """One embedding of one value of one item.

    Args:
        id: the item; all rows of an item carry the same id.
        input: "image", "text", …
        row: which of the item's values of this input, such as the caption number.
        embedding: (E,) float32, unit length.
        text: the caption itself; for other inputs the item's first caption, if it has one.
        path: where the item's file is, if it is a file.
        origin: file and row that the item came from.
        thumbnail: a small JPEG.
        metadata: what can be filtered on.
    """

    id: str
    input: str
    embedding: NDArray[np.float32]
    row: int = 0
    text: str | None = None
    path: str | None = None
    origin: str | None = None
    thumbnail: bytes | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return (self.id, self.input, self.row)


def plain_metadata(record: Mapping[str, Any], leave_out: Iterable[str]) -> dict[str, Scalar]:
    """The metadata of a record as values that a column can hold.

    Numbers, strings and truth values stay, dates become ISO 8601, lists and dicts JSON; media are
    left out.
    Keys become names that SQL takes without quotes.
    """
    hidden = set(leave_out)
    plain: dict[str, Scalar] = {}
    for key, value in record.items():
        if key in hidden or value is None:
            continue
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Path):
            value = str(value)
        if isinstance(value, date | time):
            value = value.isoformat()
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, (list, tuple, dict)):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (TypeError, ValueError):
                continue
        if isinstance(value, (bool, int, float, str)):
            plain[_column_name(key)] = value
    return plain


def _column_name(key: str) -> str:
    name = re.sub(r"\W", "_", key)
    if name.lower() in FIXED or not name[:1].isalpha() or name.startswith(UNFINISHED):
        name = f"meta_{name}"  # a leading underscore is Lance's own, a digit needs quotes in SQL
    return name


def value_type(value: Scalar) -> pa.DataType:
    """The column type that holds `value`."""
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return pa.int64()
    if isinstance(value, float):
        return pa.float64()
    return pa.string()


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both: the same, float64, or string."""
    if one == other:
        return one
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def metadata_columns(
    rows: Iterable[Row], known: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """Name and type of every metadata column of `rows`, on top of those already `known`.

    SQL does not tell "Count" from "count", so names that differ in case only are one column.
    """
    columns = dict(known)
    spelled = {name.lower(): name for name in columns}
    for row in rows:
        for key, value in row.metadata.items():
            name = spelled.setdefault(key.lower(), key)
            kind = value_type(value)
            columns[name] = wider(columns.get(name, kind), kind)
    return columns


def schema(dim: int, metadata: Mapping[str, pa.DataType], *, thumbnails: bool) -> pa.Schema:
    """Columns of a table of rows with embeddings of `dim` numbers."""
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("path", pa.string()),
        pa.field("origin", pa.string()),
        *([pa.field("thumbnail", pa.binary())] if thumbnails else []),
        pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False),
        *(pa.field(name, kind) for name, kind in metadata.items()),
    ]
    return pa.schema(fields)


def to_table(rows: Sequence[Row], layout: pa.Schema) -> pa.Table:
    """`rows` as a table with exactly the columns of `layout`."""
    dim = layout.field("embedding").type.list_size
    flat = np.concatenate([row.embedding for row in rows]) if rows else np.empty(0, np.float32)
    metadata = [{key.lower(): value for key, value in row.metadata.items()} for row in rows]
    columns: list[pa.Array] = []
    for column in layout:
        if column.name == "embedding":
            numbers = pa.array(flat.astype(np.float32, copy=False))
            columns.append(pa.FixedSizeListArray.from_arrays(numbers, dim))
        elif column.name in FIXED:
            fixed = [_encodable(getattr(row, column.name)) for row in rows]
            columns.append(pa.array(fixed, column.type))
        else:
            values = [_as_type(of_row.get(column.name.lower()), column.type) for of_row in metadata]
            columns.append(pa.array([_encodable(v) for v in values], column.type))
    return pa.Table.from_arrays(columns, schema=layout)


def _encodable(value: Any) -> Any:
    """Text that UTF-8 can hold: the bytes of a file name in another encoding become escapes."""
    return encodable(value) if isinstance(value, str) else value


def _as_type(value: Scalar | None, kind: pa.DataType) -> Scalar | None:
    if value is None:
        return None
    if kind == pa.string():
        return str(value).lower() if isinstance(value, bool) else str(value)
    return float(value) if kind == pa.float64() else value
