"""Tables of paths (or file contents) and captions: CSV, TSV, XLSX, JSONL, Parquet."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow.parquet as pq
from pydantic import field_validator

from amodal.data.notes import Note
from amodal.data.record import DataError, StrictModel
from amodal.data.sources.columns import Columns, Reading
from amodal.data.sources.delimited import (
    DELIMITERS,
    common_kinds,
    dialect_of,
    header_of,
    read_delimited,
)
from amodal.data.sources.json_lines import read_json_rows
from amodal.data.sources.rows import RowSource
from amodal.data.sources.table_cache import FileFacts, Reader, cached_table
from amodal.data.sources.table_parts import joined, places_of
from amodal.data.sources.worksheet import read_sheet, sheet_header

JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
WORKBOOK = (".xlsx", ".xlsm")
SUFFIXES = (*DELIMITERS, *JSON, *PARQUET, *WORKBOOK)
SHOW_PROGRESS_FROM = 1 << 28  # bytes; smaller tables are read in a moment


class TableConfig(StrictModel):
    """One or more tables with a row per image, or per image and caption.

    Args:
        path: file, glob, or several of them; a column that a file lacks is empty there.
        columns: which column holds what.
        group_by: rows with the same value here are one item with many captions; left out, it
            is the column `id` if one is named, else the path of the image. Without either, each
            row is an item for a fusion, and with `columns.empty_cells: missing`.
        root: folder of relative media paths; left out, the folder of each table.
        encoding: of CSV, TSV and JSONL files.
        delimiter: of CSV files; left out, a comma, and a tab in .tsv files, or another one that
            stands in the header in its place.
        quotes: a field in double quotes may hold delimiters and line breaks; left out, so it is
            unless the delimiter is a tab, where quotes are letters.
        sheet: of XLSX files; left out, the first one.
    """

    kind: Literal["table"] = "table"
    path: str | tuple[str, ...]
    columns: Columns = Columns()
    group_by: str | None = None
    root: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    quotes: bool | None = None
    sheet: str | None = None

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = {r"\t": "\t", "tab": "\t"}.get(str(value), value)
        if value is not None and (len(value) != 1 or value in '\r\n"\0'):
            raise ValueError(r"expected one character such as ';', '|' or \t")
        return value

    def read_like(self, other: TableConfig) -> TableConfig:
        """The same source read as another of its kind, where it does not say otherwise."""
        same_table = ("root",) if self.path == other.path else ()
        update = {
            key: getattr(other, key)
            for key in (
                "columns",
                "group_by",
                "encoding",
                "delimiter",
                "quotes",
                "sheet",
                *same_table,
            )
            if key not in self.model_fields_set
        }
        if "columns" in update:
            update["columns"] = other.columns.model_copy(update={"of_run": True})
        return self.model_copy(update=update)

    def read_as(self, reading: Reading) -> TableConfig:
        """The same source for a model that reads these inputs."""
        return self.model_copy(update={"columns": self.columns.read_as(reading)})

    def open(self) -> RowSource:
        """The source; tables are read into the cache of `datasets`, media stay where they are.

        Raises:
            DataError: a file is missing, in another encoding, malformed, or lacks a column.
        """
        files = self._files()
        read = [_read_table(file, self) for file in files]
        parts = [(dataset, facts) for dataset, facts, _ in read]
        dataset, notes = joined(files, [part for part, _ in parts])
        notes += [note for *_, note in read if note is not None]
        root = None if self.root is None else Path(self.root)
        places = places_of(
            files,
            [len(part) for part, _ in parts],
            [facts for _, facts in parts],
            roots=[file.parent if root is None else root for file in files],
            notes=notes,
        )
        name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
        kinds = common_kinds(facts.kinds for _, facts in parts)
        return RowSource(name, dataset, self.columns, places, self.group_by, kinds)

    def _files(self) -> list[Path]:
        patterns = (self.path,) if isinstance(self.path, str) else self.path
        if not patterns:
            raise DataError("table: `path` names no file")
        files: list[Path] = []
        for pattern in patterns:
            found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
            if not found:
                raise DataError(f"{pattern}: no such table")
            files += [Path(name) for name in found]
        for file in files:
            if not file.is_file() or file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{file}: expected a file that ends in {', '.join(SUFFIXES)}")
            if file.stat().st_size == 0:
                raise DataError(f"{file}: the table is empty (0 bytes)")
        return files


def _read_table(file: Path, config: TableConfig) -> tuple[datasets.Dataset, FileFacts, Note | None]:
    """The rows of one file, what was found in it, and a note on how it was read."""
    suffix = file.suffix.lower()
    if suffix in PARQUET:
        return _read_parquet(file, config), FileFacts(), None
    if suffix in WORKBOOK:
        header = sheet_header(file, config.sheet)
        sheet = ("worksheet", config.sheet)
        read = partial(read_sheet, file, config.sheet, header)
        return (*_read_cells(file, config, header, sheet, read), None)
    _check_encoding(file, config.encoding)
    if suffix in JSON:
        options: tuple[Any, ...] = ("json", config.encoding)
        dataset, facts = cached_table(file, options, lambda: read_json_rows(file, config.encoding))
        config.columns.checked(dataset.column_names, str(file), config.group_by)
        return dataset, facts, None
    dialect, note = dialect_of(file, config.encoding, config.delimiter, config.quotes)
    header = header_of(file, dialect)
    read = partial(read_delimited, file, dialect, header)
    return (*_read_cells(file, config, header, ("delimited", dialect), read), note)


def _read_cells(
    file: Path, config: TableConfig, header: Sequence[str], options: Sequence[Any], read: Reader
) -> tuple[datasets.Dataset, FileFacts]:
    """The rows of a file whose cells are all text, and what was found in it."""
    config.columns.checked(header, str(file), config.group_by)
    dataset, facts = cached_table(file, options, read)
    if len(facts.unreadable) == len(dataset):
        raise DataError(f"{file}: no row can be read; row 1: {facts.unreadable[0]}")
    return dataset, facts


def _read_parquet(file: Path, config: TableConfig) -> datasets.Dataset:
    try:
        there = pq.ParquetFile(file).schema_arrow.names
    except Exception as error:  # pyarrow raises several kinds
        raise DataError(f"{file}: not a Parquet file: {error}") from None
    config.columns.checked(there, str(file), config.group_by)
    return _loaded(file, lambda: datasets.Dataset.from_parquet(str(file)))


def _loaded(file: Path, load: Callable[[], datasets.Dataset]) -> datasets.Dataset:
    try:
        with _quiet(file):
            return load()
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise DataError(f"{file}: cannot be read as a table: {cause}") from error
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a table: {error}") from error


@contextmanager
def _quiet(file: Path) -> Iterator[None]:
    """No progress bar of `datasets` for a table that is read in a moment."""
    if file.stat().st_size >= SHOW_PROGRESS_FROM or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _check_encoding(file: Path, encoding: str) -> None:
    """Read the file once, so that a wrong byte is named by its place."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise DataError(f"{file}: unknown encoding {encoding!r}") from None
    offset, lines = 0, 0
    with file.open("rb") as stream:
        guess = (
            "utf-16" if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
        )
        stream.seek(0)
        while True:
            chunk = stream.read(1 << 20)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = offset - held + error.start
                line = lines + chunk[: max(error.start - held, 0)].count(b"\n") + 1
                raise DataError(
                    f"{file}: not {encoding} at byte {place} (line {line}): "
                    f"{error.object[error.start : error.start + 1]!r}; name its encoding with "
                    f"`encoding: {guess}`, or convert it: "
                    f"iconv -f {guess.upper()} -t UTF-8 {file} > {file.stem}.utf8{file.suffix}"
                ) from None
            if not chunk:
                return
            offset += len(chunk)
            lines += chunk.count(b"\n")
