"""Embeddings as Parquet shards that can be added to after an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from amodal.data.atomic import staged_file, write_text
from amodal.data.record import BrokenRecordError, DataError
from amodal.search.rows import FIXED, Key, Row, metadata_columns, schema, to_table, wider

FORMAT = 1
ROWS_PER_SHARD = 16_384
OWN_FILES = ("embeddings.json", "part-", "writer.lock")  # beginnings of the names we write


@dataclass
class EmbeddingSummary:
    """Content of a folder of embeddings.

    Args:
        dim: E.
        fingerprint: of the model.
        items: number of different ids.
        rows: input -> number of rows.
        broken: origin and reason of every value that could not be used.
        complete: False if the run was stopped; running it again goes on.
        new: rows written by the last run.
    """

    dim: int
    fingerprint: str
    items: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    broken: list[dict[str, str]] = field(default_factory=list)
    complete: bool = False
    new: int = 0


def written_keys(folder: Path | str, fingerprint: str) -> set[Key]:
    """Keys of the rows in a folder of `write_parquet`; empty if there is none.

    Raises:
        DataError: the folder holds embeddings of another model, a damaged shard, or something
            else.
    """
    folder = Path(folder)
    if not folder.exists():
        return set()
    if not (folder / "embeddings.json").is_file():
        if any(not file.name.startswith(OWN_FILES) for file in folder.iterdir()):
            raise DataError(f"{folder}: holds other files; choose another folder")
        return set()
    stored = json.loads((folder / "embeddings.json").read_text(encoding="utf-8"))
    if stored.get("fingerprint") != fingerprint:
        raise DataError(
            f"{folder}: holds embeddings of other weights ({stored.get('fingerprint')}, the model "
            f"now has {fingerprint}); choose another folder, or delete this one"
        )
    keys: set[Key] = set()
    for shard in _shards(folder):
        try:
            table = pq.read_table(shard, columns=["id", "input", "row"])
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{shard}: cannot be read ({reason}); delete this file, and its rows are "
                "embedded again"
            ) from None
        keys.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return keys


def write_parquet(
    rows: Iterable[Row | BrokenRecordError],
    folder: Path | str,
    *,
    dim: int,
    fingerprint: str,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> EmbeddingSummary:
    """Write rows as Parquet shards beside those already in `folder`, and `embeddings.json`.

    A shard is there whole or not at all. If the rows stop with an exception, Ctrl-C included,
    what came before it is written and the exception goes on; pass `written_keys(folder)` as
    `skip` of `embed_source` to continue. All shards end with the same columns.

    Raises:
        DataError: see `written_keys`; or another process is writing to `folder`.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from amodal.search import write_parquet
        >>> from amodal.search.rows import Row
        >>> rows = [Row(name, "text", np.array([0.6, 0.8], np.float32)) for name in ("a", "b")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = write_parquet(rows[:1], folder, dim=2, fingerprint="weights-1")
        ...     second = write_parquet(rows, folder, dim=2, fingerprint="weights-1")
        >>> first.new, second.new, second.rows  # what is there already is not written again
        (1, 1, {'text': 2})
    """
    folder = Path(folder)
    written_keys(folder, fingerprint)  # nothing is put into a folder of something else
    folder.mkdir(parents=True, exist_ok=True)
    with _writing(folder):
        return _write(rows, folder, EmbeddingSummary(dim, fingerprint), rows_per_shard)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "writer.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{folder}: another process is writing embeddings here; wait for it, or choose "
            "another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _write(
    rows: Iterable[Row | BrokenRecordError],
    folder: Path,
    summary: EmbeddingSummary,
    rows_per_shard: int,
) -> EmbeddingSummary:
    dim = summary.dim
    keys = written_keys(folder, summary.fingerprint)
    _write_summary(folder, summary)
    columns: dict[str, pa.DataType] = {}
    for shard in _shards(folder):
        for column in pq.read_schema(shard):
            if column.name not in FIXED:
                columns[column.name] = wider(columns.get(column.name, column.type), column.type)
    buffer: list[Row] = []

    def flush() -> None:
        nonlocal columns
        if buffer:
            # Taken out first: a writing that is interrupted is not repeated, or its shard, which
            # may be there already, would be there twice.
            ready = buffer[:]
            buffer.clear()
            columns = metadata_columns(ready, columns)
            table = to_table(ready, schema(dim, columns, thumbnails=False))
            number = max((int(s.stem.split("-")[1]) for s in _shards(folder)), default=-1) + 1
            _write_shard(table, folder / f"part-{number:05d}.parquet")
            keys.update(row.key for row in ready)
            summary.new += len(ready)

    try:
        for row in rows:
            if isinstance(row, BrokenRecordError):
                summary.broken.append({"origin": row.origin, "reason": row.reason})
            elif row.key not in keys:
                buffer.append(row)
                if len(buffer) >= rows_per_shard:
                    flush()
        summary.complete = True
    finally:
        flush()
        if summary.complete:
            _unify(folder, schema(dim, columns, thumbnails=False))
        summary.items = len({key[0] for key in keys})
        for _, input, _ in keys:
            summary.rows[input] = summary.rows.get(input, 0) + 1
        _write_summary(folder, summary)
    return summary


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _write_shard(table: pa.Table, file: Path) -> None:
    with staged_file(file) as staged:
        pq.write_table(table, staged, compression="zstd")


def _unify(folder: Path, layout: pa.Schema) -> None:
    """Rewrite the shards that lack a column, or hold it in a narrower type."""
    for shard in _shards(folder):
        if pq.read_schema(shard).equals(layout):
            continue
        table = pq.read_table(shard)
        columns = [
            pc.cast(table[column.name], column.type)
            if column.name in table.column_names
            else pa.nulls(len(table), column.type)
            for column in layout
        ]
        _write_shard(pa.Table.from_arrays(columns, schema=layout), shard)


def _write_summary(folder: Path, summary: EmbeddingSummary) -> None:
    document = {"format": FORMAT, **asdict(summary)}
    text = json.dumps(document, indent=2, ensure_ascii=False)
    write_text(folder / "embeddings.json", text + "\n")
