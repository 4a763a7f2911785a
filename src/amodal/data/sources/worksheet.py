"""Rows of a sheet of an Excel workbook (.xlsx), every cell as text."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa

from amodal.data.record import DataError
from amodal.data.sources.delimited import (
    CHUNK,
    KINDS,
    distinct_names,
    text_table,
    without_spare,
)
from amodal.data.sources.table_cache import FileFacts

LARGEST = 1 << 32  # bytes that a workbook may take when it is unpacked
WHOLE = 1e15  # from here on floats are no longer exact whole numbers
NO_VALUE = (
    "rows with a formula whose result the file does not hold, read as empty; open the workbook "
    "and save it, so that results are stored"
)
ERROR = "rows with an error such as #N/A in a cell, read as empty"


def sheet_header(file: Path, sheet: str | None) -> list[str]:
    """The names of the columns of a sheet: its first row that is not empty.

    Args:
        file: the workbook.
        sheet: its name; None: the first one.

    Raises:
        DataError: this is no workbook, it has no such sheet, or the sheet has no rows.
    """
    with _opened(file, sheet) as rows:
        filled = (row for row in rows if any(text for text, _ in row))
        header = [text or "" for text, _ in next(filled, [])]
        first = next(filled, None)
    while header and not header[-1].strip():
        header.pop()
    if not header:
        raise DataError(f"{file}: the sheet is empty; another one is chosen with `sheet: NAME`")
    if first is None:
        raise DataError(f"{file}: the sheet has a header and no rows")
    return distinct_names(header)


def read_sheet(
    file: Path, sheet: str | None, header: Sequence[str]
) -> tuple[Iterator[pa.Table], FileFacts]:
    """The rows as tables of text, and what was found on the way; see `table_cache.Reader`.

    Formulas give their stored results, dates are ISO 8601, and rows without any value are left out.
    """
    facts = FileFacts()
    return _tables(file, sheet, header, facts), facts


def _tables(
    file: Path, sheet: str | None, header: Sequence[str], facts: FileFacts
) -> Iterator[pa.Table]:
    kinds = {column: list(KINDS) for column in header}
    schema = pa.schema([(column, pa.string()) for column in header])
    width = len(header)
    chunk: list[list[str | None]] = []
    number = -1
    with _opened(file, sheet) as rows:
        filled = (row for row in rows if any(text or problem for text, problem in row))
        next(filled, None)  # the header
        for number, row in enumerate(filled):
            for problem in dict.fromkeys(problem for _, problem in row if problem is not None):
                facts.note(problem, number)
            cells = without_spare([text or "" for text, _ in row], width)
            if len(cells) > width:
                facts.unreadable[number] = f"{len(cells)} cells, the header has {width}"
                cells = []
            chunk.append([*(cell or None for cell in cells), *[None] * (width - len(cells))])
            if len(chunk) >= CHUNK:
                yield text_table(chunk, schema, kinds)
                chunk = []
    if chunk:
        yield text_table(chunk, schema, kinds)
    facts.kinds = kinds


Cells = list[tuple[str | None, str | None]]  # the text of each cell, and what is wrong with it


@contextmanager
def _opened(file: Path, sheet: str | None) -> Iterator[Iterator[Cells]]:
    """The rows of a sheet.

    The workbook is read twice side by side: with the results of formulas, and with the formulas,
    to tell a formula without a stored result from an empty cell.
    """
    from openpyxl import load_workbook

    _check_size(file)
    try:
        books = [
            load_workbook(file, read_only=True, data_only=results) for results in (True, False)
        ]
    except Exception as error:  # damaged archives and XML fail in many ways
        raise DataError(f"{file}: not an Excel workbook (.xlsx): {error}") from None
    try:
        name = _sheet_name(file, books[0].sheetnames, sheet)
        values, formulas = (book[name].iter_rows() for book in books)
        yield (
            [_cell(cell, formula) for cell, formula in zip(row, row_of_formulas, strict=False)]
            for row, row_of_formulas in zip(values, formulas, strict=False)
        )
    finally:
        for book in books:
            book.close()


def _sheet_name(file: Path, there: Sequence[str], sheet: str | None) -> str:
    if sheet is None:
        return there[0]
    if sheet not in there:
        near = difflib.get_close_matches(sheet, there, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{file}: no sheet {sheet!r}{hint} (sheets: {', '.join(there)})")
    return sheet


def _check_size(file: Path) -> None:
    """Refuse an archive that would take all the memory when it is unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file}: not an Excel workbook (.xlsx): {error}") from None
    if size > LARGEST:
        raise DataError(
            f"{file}: {size:,} bytes when it is unpacked, expected at most {LARGEST:,}; store it "
            "as CSV or Parquet"
        )


def _cell(cell: Any, formula: Any) -> tuple[str | None, str | None]:
    if cell.value is None:
        return None, NO_VALUE if formula.data_type == "f" else None
    if cell.data_type == "e":
        return None, ERROR
    return _text(cell.value), None


def _text(value: Any) -> str:
    """A value as a CSV file would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE:
        return str(int(value))
    if isinstance(value, datetime):
        return (value.date() if value.time() == time() else value).isoformat()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
