"""A durable index of embeddings: LanceDB keeps the rows, FAISS finds the nearest of them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from amodal.search.ann import RowIndex
from amodal.search.description import FILE, IndexDescription, StoreError
from amodal.search.filter import filter_sql
from amodal.search.index_cache import IndexCache
from amodal.search.limits import MAX_K
from amodal.search.ranking import Ranked, nearest, nearest_filtered
from amodal.search.rows import FIXED, SPAN, Key, Row, schema, to_table
from amodal.search.table import drop_duplicates, finish, unfinished, with_columns

if TYPE_CHECKING:
    from amodal.metrics.match_threshold import Match

TABLE = "rows"
LOCK = "writer.lock"
OWN_FILES = ("lancedb", LOCK, FILE)  # beginnings of names in a folder of an index
UNIT_TOLERANCE = 1e-3
T = TypeVar("T")
HIDDEN = frozenset({"embedding", "thumbnail"})  # columns that no filter uses


@dataclass(frozen=True)
class Hit:
    """One row that a search found.

    Args:
        score: its cosine similarity to the query.
        match: what the score says about a match; None where the run is not calibrated.
    """

    score: float
    id: str
    input: str
    row: int = 0
    text: str | None = None
    path: str | None = None
    origin: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = field(default=None, repr=False)  # JPEG
    match: Match | None = None

    @property
    def span(self) -> tuple[float, float] | None:
        """The part of its file that the row is, (start, end) in seconds; None: the whole file."""
        start, end = (self.metadata.get(name) for name in SPAN)
        return None if start is None or end is None else (start, end)

    def as_dict(self) -> dict[str, Any]:
        """The values that can be written as JSON: all but the thumbnail."""
        names = ("score", "id", "input", "row", "text", "path", "origin", "metadata")
        match = None if self.match is None else self.match._asdict()
        return {**{name: getattr(self, name) for name in names}, "match": match}


@dataclass
class _Snapshot:
    """One version of the table, pinned, so that row ids found in it still mean the same rows."""

    version: int
    table: Any
    counts: dict[str, int]  # input -> rows
    indexes: dict[str, RowIndex] = field(default_factory=dict)


class VectorStore:
    """Embeddings of one model, on disk, with cosine search and filters.

    Rows are unique by (id, input, row): adding one again replaces it. Every change is a new
    version of the table; other processes see it at their next search. Safe to share between
    threads for searching; processes that write at the same time wait for each other.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from amodal.search import VectorStore
        >>> from amodal.search.rows import Row
        >>> rows = [Row(str(i), "image", row) for i, row in enumerate(np.eye(3, dtype=np.float32))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = VectorStore.create(folder, dim=3, fingerprint="weights-1")
        ...     print(store.add(rows), [hit.id for hit in store.search(rows[1].embedding, k=1)])
        3 ['1']
    """

    def __init__(self, folder: Path, description: IndexDescription) -> None:
        self.folder = folder
        self.dim = description.dim
        self.fingerprint = description.fingerprint
        self._description = description
        import lancedb  # late: its threads do not survive the fork of data workers

        self._database: Any = lancedb.connect(str(folder / "lancedb"))
        self._table: Any = self._database.open_table(TABLE)
        self._lock = threading.RLock()
        self._file_lock = FileLock(folder / LOCK, thread_local=False)
        self._cache = IndexCache(folder / "ann", self.dim)
        self._pinned: _Snapshot | None = None
        if unfinished(self._table):
            with self._writing():  # a writer at work completes its change first
                pass

    @classmethod
    def create(
        cls,
        folder: Path | str,
        dim: int,
        *,
        fingerprint: str,
        model_path: Path | str | None = None,
        exist_ok: bool = False,
    ) -> VectorStore:
        """A new, empty index in `folder`; with `exist_ok`, the one that is already there.

        Args:
            folder: where it will be; missing or empty.
            dim: E, the width of the vectors.
            fingerprint: names the weights that the vectors come from.
            model_path: the run folder, so that a search finds the model again.
            exist_ok: open the index that is there, if it is one of this model.

        Raises:
            StoreError: something else is there, or an index of another model or dimension.
        """
        folder = Path(folder)
        if (folder / FILE).exists():
            if not exist_ok:
                raise StoreError(f"{folder} already holds an index; open it, or choose another")
            store = cls.open(folder, fingerprint=fingerprint)
            if store.dim != dim:
                raise StoreError(f"{folder} holds vectors of {store.dim} numbers, expected {dim}")
            return store
        if dim < 1:
            raise StoreError(f"dim must be at least 1, got {dim}")
        # A creation that was cut short leaves an empty table behind, and files of ours.
        occupied = folder.is_file() or (
            folder.is_dir() and any(not p.name.startswith(OWN_FILES) for p in folder.iterdir())
        )
        if occupied:
            raise StoreError(f"{folder} exists and is no index; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        import lancedb  # late: its threads do not survive the fork of data workers

        with FileLock(folder / LOCK):
            first = not (folder / FILE).exists()
            if first:
                database: Any = lancedb.connect(str(folder / "lancedb"))
                database.drop_table(TABLE, ignore_missing=True)
                database.create_table(TABLE, schema=schema(dim, {}, thumbnails=True))
                IndexDescription.write(
                    folder, dim=dim, fingerprint=fingerprint, model_path=model_path
                )
        if first:
            return cls.open(folder)
        # Another process has made one meanwhile.
        return cls.create(
            folder, dim, fingerprint=fingerprint, model_path=model_path, exist_ok=exist_ok
        )

    @classmethod
    def open(cls, folder: Path | str, *, fingerprint: str | None = None) -> VectorStore:
        """The index in `folder`.

        Args:
            folder: what `create` made.
            fingerprint: of the model that will search it; see `check_fingerprint`.

        Raises:
            StoreError: there is no index, or it was built with other weights.
        """
        folder = Path(folder)
        description = IndexDescription.read(folder)
        try:
            store = cls(folder, description)
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(f"{folder / 'lancedb'} cannot be opened: {error}") from None
        if fingerprint is not None:
            store.check_fingerprint(fingerprint)
        return store

    def check_fingerprint(self, fingerprint: str, *comparable: str) -> None:
        """Refuse a model with other weights: embeddings of different models are not comparable.

        Args:
            fingerprint: of the weights of the model.
            comparable: of other weights whose embeddings it shares, such as those of its base.

        Raises:
            StoreError: the index was built with another model.
        """
        if self.fingerprint not in (fingerprint, *comparable):
            raise StoreError(
                f"{self.folder} was built with other weights (fingerprint {self.fingerprint}, "
                f"the model now has {fingerprint}); build the index again with this model, "
                "or use the run it was built with"
            )

    @property
    def model_path(self) -> Path | None:
        """The run folder the index was built with, where it is now.

        Raises:
            StoreError: it is neither where it was, nor beside the index as it was.
        """
        return self._description.run_folder(self.folder)

    @property
    def version(self) -> int:
        """Number of the newest version of the table; every change makes a higher one."""
        self._table.checkout_latest()
        return int(self._table.version)

    @property
    def columns(self) -> dict[str, str]:
        """Name and type of every column that `where` can use."""
        self._table.checkout_latest()
        return {f.name: str(f.type) for f in self._table.schema if f.name not in HIDDEN}

    def check_filter(self, where: str) -> None:
        """Refuse a filter that cannot be read; see `amodal.search.filter`.

        Raises:
            StoreError: says where, what was expected, and the columns.
        """
        self._table.checkout_latest()
        _condition(self._table, where)

    def count(self, input: str | None = None, where: str | None = None) -> int:
        """Number of rows, of one input and of those that `where` keeps."""
        self._table.checkout_latest()
        condition = _condition(self._table, where, input)
        try:
            return int(self._table.count_rows(condition))
        except (ValueError, RuntimeError) as error:
            raise self._bad_filter(where or "", error) from None

    def counts(self) -> dict[str, int]:
        """Modality -> number of rows."""
        return dict(self._snapshot().counts)

    def row_keys(self) -> set[Key]:
        """(id, input, row) of every row."""
        self._table.checkout_latest()
        table = self._table.search().select(["id", "input", "row"]).to_arrow()
        columns = (table[name].to_pylist() for name in ("id", "input", "row"))
        return set(zip(*columns, strict=True))

    def add(self, rows: Iterable[Row]) -> int:
        """Add rows, replacing those with the same (id, input, row), in one version.

        Returns:
            How many rows were written.

        Raises:
            StoreError: a vector has another dimension, is not finite or not of unit length.
        """
        unique = {row.key: row for row in rows}
        if not unique:
            return 0
        new = list(unique.values())
        for row in new:
            self._check(row)
        with self._writing():
            layout = with_columns(self._table, new, self.dim)
            table = to_table(new, layout)
            if self._table.count_rows() == 0:
                self._table.add(table)
            else:
                (
                    self._table.merge_insert(["id", "input", "row"])
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .execute(table)
                )
        return len(new)

    def _check(self, row: Row) -> None:
        where = f"id {row.id!r}, {row.input} row {row.row}"
        vector = np.asarray(row.embedding)
        if not row.id or not row.input:
            raise StoreError(f"{where}: id and input must not be empty")
        if vector.shape != (self.dim,):
            raise StoreError(
                f"{where}: expected a vector of shape ({self.dim},), got {vector.shape}"
            )
        if not np.isfinite(vector).all():
            raise StoreError(f"{where}: the vector holds NaN or infinity")
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        if abs(norm - 1) > UNIT_TOLERANCE:
            raise StoreError(f"{where}: expected a vector of length 1, got {norm:.6g}")

    def delete(self, ids: Iterable[str] | None = None, *, where: str | None = None) -> int:
        """Delete the rows of these items, or the rows that `where` keeps; returns how many."""
        if (ids is None) == (where is None):
            raise StoreError("give either ids or where")
        with self._writing():
            before = self._table.count_rows()
            if where is not None:
                condition = _condition(self._table, where)
                try:
                    self._table.delete(condition)
                except (ValueError, RuntimeError) as error:
                    raise self._bad_filter(where, error) from None
            else:
                names = sorted(set(ids or ()))
                for start in range(0, len(names), 1000):
                    quoted = ", ".join(_quote(name) for name in names[start : start + 1000])
                    self._table.delete(f"id IN ({quoted})")
            return int(before - self._table.count_rows())

    def get(self, ids: Sequence[str], input: str | None = None) -> list[Hit]:
        """All rows of these items, with score 1, in the order of `ids`, then input and row."""
        if not ids:
            return []
        condition = f"id IN ({', '.join(_quote(name) for name in ids)})"
        if input is not None:
            condition += f" AND input = {_quote(input)}"

        def read(snapshot: _Snapshot) -> list[dict[str, Any]]:
            query = snapshot.table.search().where(condition)
            rows: list[dict[str, Any]] = (
                query.select(self._shown(snapshot.table)).to_arrow().to_pylist()
            )
            return rows

        found = self._read(read)
        place = {name: number for number, name in reversed(list(enumerate(ids)))}
        found.sort(key=lambda row: (place[row["id"]], row["input"], row["row"]))
        return [_hit(row, 1.0) for row in found]

    def search(
        self,
        vector: NDArray[np.floating[Any]],
        k: int = 10,
        *,
        where: str | None = None,
        input: str | None = None,
    ) -> list[Hit]:
        """The `k` rows most similar to one query vector, (E,) or (1, E); see `search_many`."""
        queries = np.asarray(vector)
        if queries.ndim == 2 and len(queries) != 1:
            raise StoreError(f"search takes one query, got {len(queries)}; use search_many")
        return self.search_many(queries.reshape(1, -1), k, where=where, input=input)[0]

    def search_many(
        self,
        vectors: NDArray[np.floating[Any]],
        k: int = 10,
        *,
        where: str | None = None,
        input: str | None = None,
    ) -> list[list[Hit]]:
        """The `k` rows most similar to each of the (Q, E) queries, best first.

        With `where` the search is exact over the rows that the filter keeps. Without it, it is
        exact below 20,000 rows per input and approximate (HNSW) above. The scores are exact
        in all cases; ties are ordered by input, id and row.

        Args:
            vectors: (Q, E) queries; they need not be of unit length.
            k: how many hits per query, at most 1,000.
            where: condition on `columns`, such as "label = 'dog' AND width > 200", in the grammar
                of `amodal.search.filter`.
            input: search the rows of this input only.

        Raises:
            StoreError: wrong dimension, NaN, zero vector, `k` out of range, unknown input, or a
                filter that cannot be used.
        """
        queries = self._unit_queries(vectors)
        if k < 1:
            raise StoreError(f"k must be at least 1, got {k}")
        if k > MAX_K:
            raise StoreError(
                f"k must be at most {MAX_K:,}, got {k:,}; narrow the search with a filter, or read "
                "the embeddings of `amodal embed` to rank all rows"
            )
        return self._read(lambda snapshot: self._found(snapshot, queries, k, where, input))

    def _found(
        self,
        snapshot: _Snapshot,
        queries: NDArray[np.float32],
        k: int,
        where: str | None,
        input: str | None,
    ) -> list[list[Hit]]:
        if input is not None and snapshot.counts and input not in snapshot.counts:
            raise StoreError(
                f"the index has no {input!r} rows; it has {', '.join(snapshot.counts)}"
            )
        condition = _condition(snapshot.table, where, input)
        if not snapshot.counts:
            return [[] for _ in queries]
        if where is not None:
            try:
                ranked = [nearest_filtered(snapshot.table, q, k, condition) for q in queries]
            except (ValueError, RuntimeError) as error:
                if _merged_away(error):
                    raise
                raise self._bad_filter(where, error) from None
        else:
            names = [input] if input is not None else list(snapshot.counts)
            indexes = {name: self._index(snapshot, name) for name in names}
            ranked = nearest(indexes, queries, k)
        return self._hits(snapshot, ranked)

    def build_index(self) -> dict[str, RowIndex]:
        """Build (or read) the in-memory index of every input now, not at the first search."""

        def build(snapshot: _Snapshot) -> dict[str, RowIndex]:
            return {name: self._index(snapshot, name) for name in snapshot.counts}

        indexes = self._read(build)
        self._cache.wait()
        return indexes

    def optimize(self) -> None:
        """Merge the small files that many additions leave behind, and free the old ones."""
        with self._writing(), warnings.catch_warnings():
            # Writers wait for the lock, and readers of an old version read the new one instead.
            warnings.filterwarnings("ignore", message=r"optimize\(cleanup_older_than")
            drop_duplicates(self._table)
            self._table.optimize(cleanup_older_than=timedelta(0))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The newest version, and no other writer, in this process or another."""
        with self._lock, self._file_lock:
            self._table.checkout_latest()
            finish(self._table)
            yield

    def _read(self, read: Callable[[_Snapshot], T]) -> T:
        """The result of `read` on the newest version; again where files were merged meanwhile."""
        for _ in range(3):
            try:
                return read(self._snapshot())
            except (ValueError, RuntimeError, OSError) as error:
                if not _merged_away(error):
                    raise
                self._pinned = None
        return read(self._snapshot())

    def _unit_queries(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        queries = np.asarray(vectors, dtype=np.float64)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise StoreError(f"expected queries of shape (Q, {self.dim}), got {queries.shape}")
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise StoreError("a query vector holds NaN or infinity")
        if (norms == 0).any():
            raise StoreError("a query vector is zero: it has no direction to compare")
        return (queries / norms).astype(np.float32)

    def _snapshot(self) -> _Snapshot:
        with self._lock:
            version = self.version
            if self._pinned is None or self._pinned.version != version:
                table = self._database.open_table(TABLE)
                table.checkout(version)
                inputs = table.search().select(["input"]).to_arrow()["input"]
                counts = {
                    str(entry["values"]): int(entry["counts"])
                    for entry in inputs.value_counts().to_pylist()
                }
                self._pinned = _Snapshot(version, table, dict(sorted(counts.items())))
            return self._pinned

    def _index(self, snapshot: _Snapshot, input: str) -> RowIndex:
        with self._lock:
            known = snapshot.indexes.get(input)
            if known is None or self._cache.renewed(input, known):
                keys = (
                    snapshot.table.search()
                    .where(f"input = {_quote(input)}")
                    .select(["id", "row"])
                    .with_row_id(True)
                    .to_arrow()
                )
                # In key order the position breaks ties, and the graph does not depend on the
                # order of insertion.
                keys = keys.sort_by([("id", "ascending"), ("row", "ascending")])
                row_ids = keys["_rowid"].to_numpy()
                read = partial(self._vectors, snapshot, input, row_ids)
                snapshot.indexes[input] = self._cache.of(input, snapshot.version, row_ids, read)
            return snapshot.indexes[input]

    def _vectors(
        self,
        snapshot: _Snapshot,
        input: str,
        row_ids: NDArray[np.uint64],
        places: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """(P, E) vectors of the rows at `places` in `row_ids`."""
        if len(places) == 0:
            return np.empty((0, self.dim), np.float32)
        wanted = row_ids[places]
        columns = ["embedding"]
        if len(wanted) == len(row_ids):  # a scan is faster than so many rows taken one by one
            scan = snapshot.table.search().where(f"input = {_quote(input)}").select(columns)
            found = scan.with_row_id(True).to_arrow()
        else:
            taken = snapshot.table.take_row_ids(wanted.tolist()).select(columns)
            found = taken.with_row_id().to_arrow()
        flat = found["embedding"].combine_chunks().flatten().to_numpy()
        order = np.argsort(found["_rowid"].to_numpy())
        sorted_rows = flat.reshape(-1, self.dim)[order]
        return sorted_rows[np.searchsorted(found["_rowid"].to_numpy()[order], wanted)]

    def _hits(self, snapshot: _Snapshot, ranked: Sequence[Ranked]) -> list[list[Hit]]:
        wanted = sorted({row_id for of_query in ranked for _, row_id in of_query})
        if not wanted:
            return [[] for _ in ranked]
        query = snapshot.table.take_row_ids(wanted).select(self._shown(snapshot.table))
        rows = {row.pop("_rowid"): row for row in query.with_row_id().to_arrow().to_pylist()}
        return [[_hit(rows[row_id], score) for score, row_id in of_query] for of_query in ranked]

    @staticmethod
    def _shown(table: Any) -> list[str]:
        return [name for name in table.schema.names if name != "embedding"]

    def _bad_filter(self, where: str, error: Exception) -> StoreError:
        reason = str(error).splitlines()[0].partition(", /")[0]  # a place in the engine's source
        return StoreError(f"the filter {where[:80]!r} cannot be computed: {reason}")


def _condition(table: Any, where: str | None, input: str | None = None) -> str | None:
    """SQL of a filter and of an input; None where all rows are meant."""
    parts = [f"({filter_sql(where, table.schema, HIDDEN)})"] if where is not None else []
    if input is not None:
        parts.append(f"input = {_quote(input)}")
    return " AND ".join(parts) or None


def _merged_away(error: Exception) -> bool:
    """Whether a file of an old version was freed while it was read."""
    return not isinstance(error, StoreError) and "Not found" in str(error)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hit(row: dict[str, Any], score: float) -> Hit:
    fixed = {name: row[name] for name in FIXED if name in row}
    metadata = {n: value for n, value in row.items() if n not in FIXED and value is not None}
    return Hit(score=score, metadata=metadata, **fixed)
