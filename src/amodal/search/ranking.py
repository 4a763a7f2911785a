"""The order of hits: exact scores, deterministic tie-breaking."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amodal.search.ann import AnnIndex

TIE_DECIMALS = 6  # scores that agree to this many decimals are a tie
MAX_CANDIDATES = 4096  # how far a tie at rank k is followed

Ranked = list[tuple[float, int]]  # (score, row id), best first


def nearest(indexes: dict[str, AnnIndex], queries: NDArray[np.float32], k: int) -> list[Ranked]:
    """(score, row id), best first, of each query over all indexes."""
    ranked: list[Ranked] = []
    found: dict[tuple[str, int], NDArray[np.int64]] = {
        (name, 2 * k): index.search(queries, 2 * k)[1] for name, index in indexes.items()
    }
    for number, query in enumerate(queries):
        merged: list[tuple[float, str, int, int]] = []
        for name, index in indexes.items():
            fetch = 2 * k
            positions = found[name, fetch][number]
            while True:
                positions = positions[positions >= 0]
                scores = exact_scores(query, index.vectors(positions))
                order = np.lexsort((positions, -scores))
                if not _tie_may_go_on(scores[order], k, min(fetch, len(index) + 1)):
                    break
                fetch *= 4
                positions = index.search(query[None], fetch)[1][0]
            merged += [
                (-float(scores[i]), name, int(positions[i]), int(index.row_ids[positions[i]]))
                for i in order[:k]
            ]
        merged.sort()
        ranked.append([(-score, row_id) for score, _, _, row_id in merged[:k]])
    return ranked


def nearest_filtered(
    table: Any, query: NDArray[np.float32], k: int, condition: str | None
) -> Ranked:
    """The same over the rows of a LanceDB table that `condition` keeps, by a full scan."""
    fetch = 2 * k
    columns = ["id", "input", "row", "embedding", "_distance"]
    while True:
        search = table.search(query, vector_column_name="embedding").distance_type("dot")
        search = search.where(condition, prefilter=True).limit(fetch).select(columns)
        found = search.with_row_id(True).to_arrow()
        vectors = found["embedding"].combine_chunks().flatten().to_numpy()
        scores = exact_scores(query, vectors.reshape(-1, len(query)))
        keys = [found[name].to_pylist() for name in ("input", "id", "row")]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], *(key[i] for key in keys)))
        if not _tie_may_go_on(scores[order], k, fetch):
            row_ids = found["_rowid"].to_pylist()
            return [(float(scores[i]), row_ids[i]) for i in order[:k]]
        fetch *= 4


def exact_scores(query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(P,) cosine similarities, equal for equal vectors.

    Matrix products may differ in the last bit between equal rows, which would make the order
    of ties a matter of chance.
    """
    exact = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    return np.round(np.clip(exact, -1.0, 1.0), TIE_DECIMALS)


def _tie_may_go_on(falling: NDArray[np.float64], k: int, fetched: int) -> bool:
    """Whether rows with the score of rank k may exist beyond the `fetched` candidates."""
    if len(falling) < fetched or len(falling) <= k or fetched >= MAX_CANDIDATES:
        return False
    return bool(falling[-1] == falling[k - 1])
