"""Rows of JSON files: an object per line, or one list of objects."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from amodal.data.record import DataError
from amodal.data.sources.arrow_types import array_of
from amodal.data.sources.table_cache import FileFacts
from amodal.data.surrogates import half_pair

CHUNK = 10_000  # rows that become an Arrow table at once
CHUNK_LETTERS = 1 << 26
HALF_PAIR = "rows with half of a surrogate pair, as of a cut emoji, read as U+FFFD"


class _Repaired(dict[str, Any]):
    """A row with text that was cut within an emoji."""


def read_json_rows(file: Path, encoding: str) -> tuple[Iterator[pa.Table], FileFacts]:
    """The rows as tables, and what was found on the way; see `table_cache.Reader`.

    A line that is no object is left empty and listed. A text that looks like a date stays a text.

    Raises:
        DataError: while reading: not one line is an object.
    """
    facts = FileFacts()
    return _tables(file, encoding, facts), facts


def _tables(file: Path, encoding: str, facts: FileFacts) -> Iterator[pa.Table]:
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    chunk: list[dict[str, Any]] = []
    letters, rows, readable = 0, 0, False
    for place, text, value in _values(file, encoding):
        if isinstance(value, dict):
            if isinstance(value, _Repaired):
                facts.note(HALF_PAIR, rows + len(chunk))
            chunk.append(value)
            readable = True
        else:
            facts.unreadable[rows + len(chunk)] = f"{place}: {value}"
            chunk.append({})
        letters += text
        if len(chunk) >= CHUNK or letters >= CHUNK_LETTERS:
            yield _table(chunk, rows, facts)
            rows += len(chunk)
            chunk, letters = [], 0
    if not readable:
        reason = next(iter(facts.unreadable.values()), "the table has no rows")
        raise DataError(f"{file}: cannot be read as a table: {reason}")
    if chunk:
        yield _table(chunk, rows, facts)


def _values(file: Path, encoding: str) -> Iterator[tuple[str, int, Any]]:
    """Where each value stands, its size in letters, and the value; a text says what is wrong."""
    with file.open(encoding=encoding, newline="\n") as stream:
        start = stream.read(4096).lstrip("\ufeff \t\r\n")
        stream.seek(0)
        if start.startswith("["):
            yield from _elements(stream.read().lstrip("\ufeff"))
            return
        for number, line in enumerate(stream, start=1):
            if not line.strip("\ufeff \t\r\n"):
                continue
            try:
                value = json.loads(line.lstrip("\ufeff"))
            except (ValueError, RecursionError) as error:
                yield f"line {number}", 0, _reason(error, "expected an object on each line")
                continue
            if re.search(r"\\u[dD][89a-fA-F]", line) and half_pair(value):
                value = _Repaired(value)
            yield f"line {number}", len(line), _object(value)


def _elements(text: str) -> Iterator[tuple[str, int, Any]]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield "the file", 0, _reason(error, "expected a list of objects")
        return
    size = len(text) // max(len(values), 1)
    for number, value in enumerate(values, start=1):
        yield f"element {number}", size, _object(value)


def _object(value: Any) -> Any:
    return value if isinstance(value, dict) else f"expected an object, got {json.dumps(value):.40}"


def _reason(error: Exception, expected: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at column {error.colno}: {error.msg}; {expected}"
    return f"cannot be read: {str(error).splitlines()[0]}; {expected}"


def _table(rows: Sequence[dict[str, Any]], first: int, facts: FileFacts) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        column = array_of(values)
        if pa.types.is_nested(column.type):
            facts.add_objects(name, first, first + len(rows))
        elif pa.types.is_string(column.type):
            for place, value in enumerate(values, start=first):
                if isinstance(value, dict | list):
                    facts.add_objects(name, place, place + 1)
        columns.append(column)
    return pa.Table.from_arrays(columns, names=names)
