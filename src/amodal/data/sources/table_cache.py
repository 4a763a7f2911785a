"""Tables of text read once into Arrow files, in the cache of `datasets`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from amodal.data.atomic import full_disk_as_data_error
from amodal.data.notes import LISTED
from amodal.data.sources.arrow_types import widened, wider_schema

VERSION = 1  # of what is written; a change of the readers needs another one


@dataclass
class FileFacts:
    """Findings of reading a file, beside its rows.

    Args:
        unreadable: row -> what is wrong with it; its cells are empty.
        notes: what was read otherwise than it may have been meant -> how many rows, and the first.
        kinds: column -> what its text can be read as; see `delimited.KINDS`.
        objects: column -> ranges of rows in which it held objects or lists.
    """

    unreadable: dict[int, str] = field(default_factory=dict)
    notes: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, list[list[int]]] = field(default_factory=dict)

    def note(self, what: str, row: int) -> None:
        """Note one row more."""
        count, first = self.notes.get(what, (0, []))
        self.notes[what] = (count + 1, [*first, row] if count < LISTED else first)

    def add_objects(self, column: str, start: int, stop: int) -> None:
        """Note that rows start … stop - 1 hold objects in a column."""
        ranges = self.objects.setdefault(column, [])
        if ranges and ranges[-1][1] == start:
            ranges[-1][1] = stop
        else:
            ranges.append([start, stop])


# Starts reading a file: its tables one after the other, and the facts, complete after the last one.
Reader = Callable[[], tuple[Iterator[pa.Table], FileFacts]]


def cached_table(
    file: Path, options: Sequence[Any], read: Reader
) -> tuple[datasets.Dataset, FileFacts]:
    """The rows of a file as a data set on disk; it is read again after it has changed.

    Args:
        file: what is read.
        options: everything else that the rows depend on.
        read: see `Reader`; called a second time where the types of the first rows do not hold
            later ones.
    """
    status = file.stat()
    about = [VERSION, str(file.resolve()), status.st_size, status.st_mtime_ns, *map(repr, options)]
    key = blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "amodal_tables"
    rows, facts_file = folder / f"{key}.arrow", folder / f"{key}.json"
    if facts_file.is_file() and rows.is_file():
        facts = _facts(json.loads(facts_file.read_text("utf-8")))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        text = "free some space, or name another folder in HF_DATASETS_CACHE"
        with full_disk_as_data_error(folder, text):
            facts = _write(rows, read)
            # The facts come last and each file at once: several processes may do this at a time.
            content = json.dumps(asdict(facts))
            _replace(facts_file, lambda partial: partial.write_text(content, "utf-8"))
    return datasets.Dataset.from_file(str(rows)), facts


def _facts(values: dict[str, Any]) -> FileFacts:
    found = FileFacts(**values)
    found.unreadable = {int(row): reason for row, reason in found.unreadable.items()}
    return found


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then put it there."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        write(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write(file: Path, read: Reader) -> FileFacts:
    grown = pa.schema([])
    while True:
        tables, facts = read()
        before = grown

        def write(partial: Path, tables: Iterator[pa.Table] = tables) -> None:
            nonlocal before, grown
            before, grown = _write_tables(partial, tables, grown)

        _replace(file, write)
        if before == grown:
            return facts


def _write_tables(
    file: Path, tables: Iterator[pa.Table], known: pa.Schema
) -> tuple[pa.Schema, pa.Schema]:
    """Write tables as long as the schema of the first one holds them.

    Args:
        file: where to.
        tables: what to write.
        known: columns that an earlier attempt has found.

    Returns:
        The schema that was written, and the one that holds all tables.
    """
    writer, written, grown = None, known, known
    for table in tables:
        grown = wider_schema(grown, table.schema)
        if writer is None:
            written = _without_null_types(grown)
            writer = pa.ipc.new_stream(str(file), written)
        if _without_null_types(grown) == written:
            writer.write_table(widened(table, written))
    if writer is not None:
        writer.close()
    return written, _without_null_types(grown) if writer is not None else grown


def _without_null_types(schema: pa.Schema) -> pa.Schema:
    """A column without one value is one of text."""
    return pa.schema(
        [(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in schema]
    )
