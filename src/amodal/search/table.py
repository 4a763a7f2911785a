"""The table of an index: new and wider columns, and repair of what killed writers left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from amodal.search.rows import FIXED, UNFINISHED, Key, Row, metadata_columns, schema


def with_columns(table: Any, rows: Sequence[Row], dim: int) -> pa.Schema:
    """The table's schema after it can hold the metadata of `rows`."""
    known = {f.name: f.type for f in table.schema if f.name not in FIXED}
    wanted = metadata_columns(rows, known)
    missing = {name: kind for name, kind in wanted.items() if name not in known}
    if missing:
        table.add_columns(pa.schema(list(missing.items())))
    for name, kind in known.items():
        if wanted[name] != kind:
            _widen(table, name, wanted[name])
    fields = {f.name: f for f in schema(dim, wanted, thumbnails=True)}
    return pa.schema([fields[name] for name in table.schema.names])


def unfinished(table: Any) -> list[str]:
    """Columns that were being widened when the writer was killed."""
    return [name for name in table.schema.names if name.startswith(UNFINISHED)]


def finish(table: Any) -> None:
    """Complete or undo what `_widen` had begun; no value is lost."""
    for wider in unfinished(table):
        name = wider.removeprefix(UNFINISHED)
        if name in table.schema.names:
            table.drop_columns([wider])
        else:
            table.alter_columns({"path": wider, "rename": name})


def drop_duplicates(table: Any) -> None:
    """Keep the newest row of each key; two writers without a lock could write one each."""
    keys = table.search().select(["id", "input", "row"]).with_row_id(True).to_arrow()
    columns = (keys[name].to_pylist() for name in ("id", "input", "row"))
    newest: dict[Key, int] = {}
    old: list[int] = []
    for row_id, *parts in sorted(zip(keys["_rowid"].to_pylist(), *columns, strict=True)):
        key: Key = (parts[0], parts[1], parts[2])
        if key in newest:
            old.append(newest[key])
        newest[key] = row_id
    for start in range(0, len(old), 1000):
        listed = ", ".join(map(str, old[start : start + 1000]))
        table.delete(f"_rowid IN ({listed})")


def _widen(table: Any, name: str, kind: pa.DataType) -> None:
    """Give a column a type that holds more; Lance cannot change a type in place."""
    sql = "double" if kind == pa.float64() else "string"
    # Each line is a version of its own: killed between two of them, `finish` goes on.
    table.add_columns({f"{UNFINISHED}{name}": f"cast(`{name}` as {sql})"})
    table.drop_columns([name])
    table.alter_columns({"path": f"{UNFINISHED}{name}", "rename": name})
