"""Cells of a row as captions, names, labels, media and metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from amodal.data.content import embedded_content
from amodal.data.record import BrokenRecordError
from amodal.data.sources.files_below import existing_path

LONGEST_PATH = 1024  # letters; what is longer and has no suffix is no path
SHOWN = 24  # letters of a cell that an error shows


def cell(row: Mapping[str, Any], name: str) -> Any:
    """A cell, or a field of it: `caption.raw`; of a list of objects, the field of each."""
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("."):
        if isinstance(found, list):
            found = [item.get(part) for item in found if isinstance(item, Mapping)]
        else:
            found = found.get(part) if isinstance(found, Mapping) else None
    return found


def captions(value: Any, origin: str, column: str) -> list[str]:
    """The captions in a cell.

    Raises:
        BrokenRecordError: it holds an object, a list of lists, or bytes that are no text.
    """
    values = value if isinstance(value, list | tuple) else [value]
    found = (name_of(v, origin, column, option="text") for v in values)
    return [text.strip() for text in found if text is not None and text.strip()]


def name_of(value: Any, origin: str, column: str, option: str) -> str | None:
    """A cell as a name: whole numbers without a decimal point, dates as ISO 8601.

    Args:
        option: of `columns`, for the error.

    Raises:
        BrokenRecordError: it holds an object, a list, or bytes that are no text.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise BrokenRecordError(
                origin, f"column {column!r} holds bytes that are not UTF-8, expected text"
            ) from None
    if isinstance(value, Mapping | list | tuple):
        raise BrokenRecordError(origin, not_text(column, option, value))
    if isinstance(value, Decimal):
        return format(value, "f")
    plain = plain_value(value)
    return plain if isinstance(plain, str) else str(plain)


def not_text(column: str, option: str, value: Any) -> str:
    """Why a value is no text, and which field of it can be chosen."""
    inner = next((v for v in value if v is not None), None) if _is_list(value) else value
    if isinstance(inner, Mapping):
        what = f"{'lists of ' if _is_list(value) else ''}objects with {', '.join(inner)}"
        first = next(iter(inner), "field")
        return (
            f"column {column!r} holds {what}, expected text; choose a field: "
            f"`columns.{option}: {column}.{first}`"
        )
    what = "lists of lists" if _is_list(inner) else "lists"
    return f"column {column!r} holds {what}, expected text; join the tokens to one text each"


def label_of(
    value: Any, names: Sequence[str] | None, origin: str, column: str
) -> str | list[str] | None:
    """The class of a cell, or several; None where it says none, as -1 does of named classes."""
    if _is_list(value):
        found = [label_of(item, names, origin, column) for item in value]
        several = [label for label in found if isinstance(label, str)]
        return several[0] if len(several) == 1 else several or None
    if names is not None and isinstance(value, int):
        if value < 0:
            return None
        if value < len(names):
            return names[value]
    label = name_of(value, origin, column, option="label")
    return label if label is not None and label.strip() else None


def media(value: Any, root: Path | None, origin: str, column: str) -> tuple[Any, str | None]:
    """A handle that `decode` understands, and the path as it was written.

    Raises:
        BrokenRecordError: a long text that is neither a path nor the base64 of a file.
    """
    if isinstance(value, Mapping):  # a Hugging Face media column: {"bytes": ..., "path": ...}
        content = value.get("bytes")
        if isinstance(content, str) and content:
            return _decoded(content, origin, column), None
        if content:
            return content, None
        value = value.get("path")
    if not isinstance(value, str):
        return value, None
    if not value.strip():
        return None, None
    content = embedded_content(value)
    if content is not None:
        return content, None
    if len(value) > LONGEST_PATH:
        return _decoded(value, origin, column), None  # raises, with what was expected
    if "://" in value:
        return value, value
    return local_path(value, root), value


def local_path(value: str, root: Path | None) -> str:
    """A path below `root`; one that another system may have written is looked for."""
    if "\\" not in value and value.isascii():  # it is as it is: no look at the disk
        return value if root is None else str(root / value)
    return existing_path(root or Path(), value)


def plain_value(value: Any) -> Any:
    """Metadata as text, numbers, lists and objects; dates as ISO 8601."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {key: plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_value(inner) for inner in value]
    return value


def _decoded(text: str, origin: str, column: str) -> bytes:
    content = embedded_content(text)
    if content is None:
        raise BrokenRecordError(
            origin,
            f"column {column!r} holds no path: expected a path, or the base64 of a file that can "
            f"be read, got {len(text):,} letters that begin with {text[:SHOWN]!r}",
        )
    return content


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
