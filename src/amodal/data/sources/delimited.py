"""Rows of CSV and TSV files, every cell as it is written."""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from amodal.data.notes import Note
from amodal.data.record import DataError
from amodal.data.sources.table_cache import FileFacts

DELIMITERS = {".csv": ",", ".tsv": "\t"}
CHUNK = 10_000  # rows that become an Arrow table at once
CHUNK_LETTERS = 1 << 26
# Rows that may have been meant otherwise.
LETTERS = "rows with a quote that is not closed, or closed amid the text, read as letters"
SHORT = "rows with fewer fields than the header, the rest read as empty"
SWALLOWED = (
    "rows with a line break and a delimiter in one field; if its quote was never closed it has "
    "swallowed the next rows, and `quotes: false` reads quotes as letters"
)
AS_CSV = (
    "rows that look quoted as CSV is, their quotes read as letters; `quotes: true` reads them as "
    "quotes"
)
# What every cell of a column that is not empty can be read as; the first that fits is taken.
KINDS = {
    "int": r"^\s*-?(0|[1-9][0-9]{0,30})\s*$",
    # Longer whole numbers are names: as floats they would lose their last digits.
    "float": r"^\s*(-?((0|[1-9][0-9]{0,14})|(0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
    r"|[nN]a[nN])\s*$",
    "bool": r"^(true|True|TRUE|false|False|FALSE)$",
}


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Args:
        encoding: of the file, a byte order mark left out.
        delimiter: between fields.
        quotes: a field in double quotes may hold delimiters and line breaks; False: quotes are
            letters.
        skip: lines before the header.
    """

    encoding: str
    delimiter: str
    quotes: bool
    skip: int = 0


def dialect_of(
    file: Path, encoding: str, delimiter: str | None, quotes: bool | None
) -> tuple[Dialect, Note | None]:
    """How a file is written, where it is not said, and a note where that was a guess.

    A first line `sep=;` names the delimiter, as Excel writes it. A header without the usual
    delimiter is split at a semicolon, tab or bar that it has. Between tabs, quotes are letters.
    """
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    with file.open(encoding=encoding, newline="") as stream:
        lines = (line.lstrip("\ufeff").rstrip("\r\n") for line in stream)
        first = next((line for line in lines if line.strip()), "")

    def dialect(found: str, skip: int = 0) -> Dialect:
        return Dialect(encoding, found, found != "\t" if quotes is None else quotes, skip)

    named = re.fullmatch(r"\"?sep=(.)\"?", first)
    if named is not None:
        return dialect(delimiter or named[1], skip=1), None
    if delimiter is not None:
        return dialect(delimiter), None
    usual = DELIMITERS.get(file.suffix.lower(), ",")
    others = {d: first.count(d) for d in (";", "\t", "|", ",") if d != usual and d in first}
    if usual in first or not others:
        return dialect(usual), None
    found = max(others, key=lambda d: others[d])
    note = Note(f"delimiters found in the header in the place of {usual!r}", 1, (repr(found),))
    return dialect(found), note


def header_of(file: Path, dialect: Dialect) -> list[str]:
    """The names of the columns, after a look at the first row.

    Raises:
        DataError: there is no header, no row, or the first row has more fields than the header.
    """
    with file.open(encoding=dialect.encoding, newline="") as stream:
        rows = _rows(stream, dialect)
        header = next((row.fields for row in rows), [])
        first = next(rows, None)
    if not header:
        raise DataError(f"{file}: the table has no header")
    if first is None:
        raise DataError(f"{file}: the table has a header and no rows")
    if len(without_spare(first.fields, len(header))) > len(header):
        # Taken for an index, the spare fields would shift every column.
        raise DataError(
            f"{file}: row 1 has {len(first.fields)} fields, the header {len(header)}; a field that "
            f"contains {dialect.delimiter!r} needs quotes"
            + ("" if dialect.quotes else ", and `quotes: true`")
        )
    return distinct_names(header)


def read_delimited(
    file: Path, dialect: Dialect, header: Sequence[str]
) -> tuple[Iterator[pa.Table], FileFacts]:
    """The rows as tables of text, and what was found on the way; see `table_cache.Reader`.

    A row with more fields than the header is left empty and listed. Fields with an opening quote
    that is never closed, or is closed amid the text, are read as they are written.
    """
    facts = FileFacts()
    return _tables(file, dialect, header, facts), facts


def parse(kind: str | None, text: str | None) -> Any:
    """A cell as a value of its kind; None where it is empty."""
    if text is None or text == "":
        return None
    if kind == "int":
        return int(text)
    if kind == "float":
        number = float(text)
        return None if number != number else number
    if kind == "bool":
        return text.lower() == "true"
    return text


def common_kinds(parts: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, str]:
    """Column -> the kind that all files have in common; columns of text are left out."""
    found: dict[str, list[str]] = {}
    for kinds in parts:
        for column, possible in kinds.items():
            found[column] = [k for k in found.get(column, possible) if k in possible]
    return {column: kinds[0] for column, kinds in found.items() if kinds}


@dataclass(frozen=True)
class _Row:
    fields: list[str]
    lines: int
    as_letters: bool = False  # its quotes are not those of CSV


class _Lines:
    """The lines of a file, those since `start` kept to be read again."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._stream = iter(stream)
        self._again: list[str] = []
        self.kept: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._stream)
        self.kept.append(line)
        return line

    def start(self) -> None:
        self.kept = []

    def back_to_second(self) -> str:
        """The first kept line; those after it come again."""
        first, *rest = self.kept
        self._again += reversed(rest)
        self.kept = []
        return first


def _rows(stream: Iterable[str], dialect: Dialect) -> Iterator[_Row]:
    """The rows that are not blank, the header among them."""
    csv.field_size_limit(sys.maxsize)
    lines = _Lines(stream)
    for _ in range(dialect.skip):
        next(lines, None)
    first = True
    while True:
        reader = _reader(lines, dialect)
        lines.start()
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                if not lines.kept:
                    raise
                line = lines.back_to_second()
                yield _Row(_as_letters(line, dialect), 1, as_letters=True)
                first = False
                break  # with a reader that knows nothing of the open quote
            if fields:
                if first:
                    fields[0] = fields[0].lstrip("\ufeff")
                first = False
                yield _Row(fields, len(lines.kept))
            lines.start()


def _reader(lines: Iterable[str], dialect: Dialect) -> Any:
    if not dialect.quotes:
        return csv.reader(lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=dialect.delimiter, strict=True)


def _as_letters(line: str, dialect: Dialect) -> list[str]:
    return next(csv.reader([line], delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE), [line])


def _as_quoted(fields: Sequence[str], dialect: Dialect) -> list[str]:
    """The fields of a line with text after a closing quote, which then belongs to the field."""
    line = dialect.delimiter.join(fields)
    return next(csv.reader([line], delimiter=dialect.delimiter), list(fields))


def without_spare(fields: list[str], width: int) -> list[str]:
    """Without empty fields beyond the header."""
    while len(fields) > width and not fields[-1].strip():
        fields = fields[:-1]
    return fields


def _tables(
    file: Path, dialect: Dialect, header: Sequence[str], facts: FileFacts
) -> Iterator[pa.Table]:
    kinds = {column: list(KINDS) for column in header}
    schema = pa.schema([(column, pa.string()) for column in header])
    width = len(header)
    chunk: list[list[str | None]] = []
    letters = 0
    with file.open(encoding=dialect.encoding, newline="") as stream:
        rows = _rows(stream, dialect)
        next(rows, None)  # the header
        for number, row in enumerate(rows):
            fields = without_spare(row.fields, width)
            if row.as_letters and len(fields) != width:
                fields = _as_quoted(row.fields, dialect)
            if len(fields) > width:
                facts.unreadable[number] = (
                    f"{len(fields)} fields, the header has {width}; a field that contains "
                    f"{dialect.delimiter!r} needs quotes"
                )
                chunk.append([None] * width)
            else:
                _note(facts, number, row, fields, width, dialect)
                letters += sum(map(len, fields))
                chunk.append([*fields, *[None] * (width - len(fields))])
            if len(chunk) >= CHUNK or letters >= CHUNK_LETTERS:
                yield text_table(chunk, schema, kinds)
                chunk, letters = [], 0
    if chunk:
        yield text_table(chunk, schema, kinds)
    facts.kinds = kinds


def text_table(
    rows: Sequence[Sequence[str | None]], schema: pa.Schema, kinds: dict[str, list[str]]
) -> pa.Table:
    """Rows of text as a table; kinds that a cell cannot be read as are taken out of `kinds`."""
    columns = [pa.array(cells, pa.string()) for cells in zip(*rows, strict=True)]
    for field, column in zip(schema, columns, strict=True):
        if not kinds[field.name]:
            continue
        written = column.drop_null()
        written = written.filter(pc.not_equal(written, ""))
        kinds[field.name] = [
            kind
            for kind in kinds[field.name]
            if pc.all(pc.match_substring_regex(written, KINDS[kind]), min_count=0).as_py()
        ]
    return pa.Table.from_arrays(columns, schema=schema)


def _note(
    facts: FileFacts, number: int, row: _Row, fields: list[str], width: int, dialect: Dialect
) -> None:
    """Note a row that may have been meant otherwise."""
    if row.as_letters:
        facts.note(LETTERS, number)
    if len(fields) < width:
        facts.note(SHORT, number)
    if row.lines > 1 and any("\n" in f and dialect.delimiter in f for f in fields):
        facts.note(SWALLOWED, number)
    if not dialect.quotes and any(_looks_quoted(f, len(fields) < width) for f in fields):
        facts.note(AS_CSV, number)


def _looks_quoted(field: str, short: bool) -> bool:
    """Whether CSV may have quoted this field; short: the row ends before the header does."""
    if not field.startswith('"'):
        return False
    return short or (len(field) > 1 and field.endswith('"') and '""' in field[1:-1])


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names of columns, a repeated one numbered and an empty one named by its place."""
    found: list[str] = []
    for place, name in enumerate(names):
        name = name or f"Unnamed: {place}"
        same, count = name, 0
        while same in found:
            count += 1
            same = f"{name}.{count}"
        found.append(same)
    return found
