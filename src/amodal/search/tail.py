"""A graph that follows a table: rows added since it was built lie beside it, in an exact index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from amodal.search.ann import AnnIndex

MOST_CHANGED = 0.1  # of the rows of the graph; beyond it, it is built again
FEW_CHANGED = 2_000  # rows that are scanned in no time, whatever the size of the graph


class TailedIndex:
    """A graph, the rows of it that are still there, and the rows that came since.

    Positions below `len(graph)` are those of the graph, the others those of the tail.

    Args:
        graph: what was built of an earlier version of the table.
        kept: (G,) whether each row of the graph is still there.
        row_ids: (G,) where the rows of the graph lie now; anything where they are not kept.
        tail: exact index of the other rows.
        order: (G + T,) rank among the keys of the rows.
    """

    exact = False

    def __init__(
        self,
        graph: AnnIndex,
        kept: NDArray[np.bool_],
        row_ids: NDArray[np.uint64],
        tail: AnnIndex,
        order: NDArray[np.int64],
    ) -> None:
        self.graph = graph
        self.row_ids = np.concatenate([row_ids, tail.row_ids])
        self.order = order
        self._kept = None if kept.all() else np.flatnonzero(kept)
        self._dropped = int((~kept).sum())
        self._tail = tail

    def __len__(self) -> int:
        return len(self.graph) - self._dropped + len(self._tail)

    @property
    def dim(self) -> int:
        return self.graph.dim

    @property
    def stale(self) -> bool:
        """Whether so much has changed that the graph should be built again."""
        changed = len(self._tail) + self._dropped
        return changed > max(FEW_CHANGED, MOST_CHANGED * len(self.graph))

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` rows nearest to each of the (Q, E) queries; see `AnnIndex.search`."""
        near, places = self.graph.search(queries, k, among=self._kept)
        near_tail, places_tail = self._tail.search(queries, k)
        places_tail = np.where(places_tail < 0, -1, places_tail + len(self.graph))
        scores = np.concatenate([near, near_tail], axis=1)
        positions = np.concatenate([places, places_tail], axis=1)
        scores = np.where(positions < 0, -np.inf, scores).astype(np.float32)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(positions, best, 1)

    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(P, E) rows at `positions`, as they were given."""
        rows = np.empty((len(positions), self.dim), np.float32)
        old = positions < len(self.graph)
        rows[old] = self.graph.vectors(positions[old])
        rows[~old] = self._tail.vectors(positions[~old] - len(self.graph))
        return rows


def follow(
    graph: AnnIndex,
    row_ids: NDArray[np.uint64],
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> TailedIndex:
    """`graph` for the table as it is now.

    A row keeps its row id until it is changed or the table's files are merged. After a merge,
    rows are recognised by their vectors, which is far cheaper than another graph.

    Args:
        graph: index of an earlier version.
        row_ids: (N,) of the table now, in the order of the keys.
        read: places in `row_ids` -> their (P, E) vectors.
    """
    place = np.full(len(graph), -1, np.int64)  # position in the graph -> place in `row_ids`
    known, at_graph, at_now = np.intersect1d(
        graph.row_ids, row_ids, assume_unique=True, return_indices=True
    )
    place[at_graph] = at_now
    new = np.setdiff1d(np.arange(len(row_ids)), at_now, assume_unique=True)
    vectors = read(new)
    if len(known) < len(graph) and len(new) > 0:
        gone = np.flatnonzero(place < 0)
        of_gone, of_new = _equal_rows(graph.vectors(gone), vectors)
        place[gone[of_gone]] = new[of_new]
        rest = np.setdiff1d(np.arange(len(new)), of_new, assume_unique=True)
        new, vectors = new[rest], vectors[rest]
    kept = place >= 0
    tail = AnnIndex.build(vectors, row_ids[new], exact_below=len(new) + 1)
    return TailedIndex(graph, kept, row_ids[place], tail, np.concatenate([place, new]))


def _equal_rows(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (P,) and (P,) of rows that are equal bit for bit, each row in one pair at most."""
    first, second = _numbered(_hashes(one)), _numbered(_hashes(other))
    _, at_one, at_other = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    same = (one[at_one] == other[at_other]).all(axis=1)
    return at_one[same], at_other[same]


def _hashes(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    factors = np.random.default_rng(0).integers(2**64, size=rows.shape[1], dtype=np.uint64)
    words = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
    return (words * (factors | np.uint64(1))).sum(axis=1, dtype=np.uint64)


def _numbered(hashes: NDArray[np.uint64]) -> NDArray[np.void]:
    """Hashes with the number of their occurrence, so that equal rows pair off one by one."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else order
    number = np.empty(len(hashes), np.uint64)
    lengths = np.diff(np.r_[starts, len(ordered)])
    number[order] = np.arange(len(ordered)) - np.repeat(starts, lengths)
    pairs = np.empty(len(hashes), [("hash", np.uint64), ("number", np.uint64)])
    pairs["hash"], pairs["number"] = hashes, number
    return pairs
