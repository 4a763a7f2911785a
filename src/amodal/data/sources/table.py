"""Tables of paths (or file contents) and captions: CSV, TSV, JSONL, Parquet."""

from __future__ import annotations

import codecs
import csv
import glob
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow.parquet as pq

from amodal.data.record import DataError, StrictModel
from amodal.data.sources.rows import Columns, Places, RowSource, Style

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*DELIMITERS, *JSON, *PARQUET)
SHOW_PROGRESS_FROM = 1 << 28  # bytes; smaller tables are read in a moment


class TableConfig(StrictModel):
    """One or more tables with a row per image, or per image and caption.

    Args:
        path: file, glob, or several of them, all with the same columns.
        columns: which column holds what.
        group_by: rows with the same value here are one item with many captions; left out, it
            is the column `id` if one is named, else the path of the image.
        root: folder of relative media paths; left out, the folder of each table.
        encoding: of CSV, TSV and JSONL files.
        delimiter: of CSV files; left out, a comma, and a tab in .tsv files.
    """

    kind: Literal["table"] = "table"
    path: str | tuple[str, ...]
    columns: Columns = Columns()
    group_by: str | None = None
    root: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None

    def read_like(self, other: TableConfig) -> TableConfig:
        """The same source read as another of its kind, where it does not say otherwise."""
        update = {
            key: getattr(other, key)
            for key in ("columns", "group_by", "encoding", "delimiter")
            if key not in self.model_fields_set
        }
        if "columns" in update:
            update["columns"] = other.columns.model_copy(update={"label_optional": True})
        return self.model_copy(update=update)

    def with_styles(self, styles: Mapping[str, Style]) -> TableConfig:
        """The same source for a model that reads these inputs."""
        return self.model_copy(update={"columns": self.columns.with_styles(styles)})

    def open(self) -> RowSource:
        """The source; tables are read into the cache of `datasets`, media stay where they are.

        Raises:
            DataError: a file is missing, in another encoding, malformed, or lacks a column.
        """
        files = self._files()
        parts = [_read_table(file, self) for file in files]
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part))
        try:
            dataset = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path}: the tables have different columns: {error}") from None
        root = None if self.root is None else Path(self.root)
        places = Places(
            files=tuple(map(str, files)),
            starts=tuple(starts[:-1]),
            roots=tuple(file.parent if root is None else root for file in files),
        )
        name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
        return RowSource(name, dataset, self.columns, places, self.group_by)

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


def _read_table(file: Path, config: TableConfig) -> datasets.Dataset:
    suffix = file.suffix.lower()
    name = str(file)
    if suffix in PARQUET:
        try:
            there = pq.ParquetFile(file).schema_arrow.names
        except Exception as error:  # pyarrow raises several kinds
            raise DataError(f"{file}: not a Parquet file: {error}") from None
        config.columns.checked(there, name, config.group_by)
        return _loaded(file, lambda: datasets.Dataset.from_parquet(name))
    _check_encoding(file, config.encoding)
    if suffix in JSON:
        return _loaded(file, lambda: datasets.Dataset.from_json(name, encoding=config.encoding))
    delimiter = config.delimiter or DELIMITERS[suffix]
    header = _header(file, config.encoding, delimiter)
    columns = config.columns.checked(header, name, config.group_by)
    chosen = {*columns.used(), *([config.group_by] if config.group_by else [])}

    def read(**options: Any) -> datasets.Dataset:
        return datasets.Dataset.from_csv(
            name,
            sep=delimiter,
            encoding=config.encoding,
            keep_default_na=False,  # "None" and "NA" are words; only nothing is nothing
            na_values=[""],
            **options,
        )

    try:
        # A caption "123" is no number, and an id 007 is not 7.
        return _loaded(file, lambda: read(converters=dict.fromkeys(sorted(chosen), str)))
    except DataError as error:
        if not isinstance(error.__cause__, datasets.exceptions.DatasetGenerationError):
            raise
    # Perhaps a metadata column is not of one type all the way down: read everything as text.
    text = datasets.Features({column: datasets.Value("string") for column in header})
    return _loaded(file, lambda: read(features=text))


def _header(file: Path, encoding: str, delimiter: str) -> list[str]:
    """The names of the columns, after a look at the first row."""
    with file.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as stream:
        rows = (row for row in csv.reader(stream, delimiter=delimiter) if row)
        header, first = next(rows, []), next(rows, [])
    if not header:
        raise DataError(f"{file}: the table has no header")
    if not first:
        raise DataError(f"{file}: the table has a header and no rows")
    if len(first) > len(header):
        # pandas would take the spare fields for an index, and shift every column.
        raise DataError(
            f"{file}: row 1 has {len(first)} fields, the header {len(header)}; a field that "
            f"contains {delimiter!r} needs quotes"
        )
    return header


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
