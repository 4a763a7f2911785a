"""Nearest neighbours in memory: exact for small tables, a graph for large ones (FAISS)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import xxhash
from numpy.typing import NDArray

EXACT_BELOW = 20_000  # rows; under this a full scan is as fast as the graph, and never wrong
NEIGHBOURS = 32  # links per node of the graph
BUILD_EFFORT = 100  # candidates looked at for each row while the graph is built
SEARCH_EFFORT = 128  # the same for a query, at least


class RowIndex(Protocol):
    """Nearest rows of one input: `AnnIndex`, or one with additions beside it."""

    row_ids: NDArray[np.uint64]  # (N,) where each position lies in the table
    order: NDArray[np.int64]  # (N,) rank of each position among the keys, which breaks ties

    def __len__(self) -> int: ...
    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]: ...


class AnnIndex:
    """Inner-product search over rows of unit length; positions count the rows it was built from.

    Below `EXACT_BELOW` rows the result is exact. Above, it is an HNSW graph.

    Examples:
        >>> import numpy as np
        >>> from amodal.search import AnnIndex
        >>> rows = np.eye(3, dtype=np.float32)
        >>> index = AnnIndex.build(rows, row_ids=np.arange(3, dtype=np.uint64))
        >>> similarities, positions = index.search(np.array([[0.0, 0.8, 0.6]], np.float32), k=2)
        >>> positions.tolist(), similarities, index.exact
        ([[1, 2]], array([[0.8, 0.6]], dtype=float32), True)

    References:
        Malkov and Yashunin 2016, arXiv:1603.09320 (HNSW).
        Douze et al. 2024, arXiv:2401.08281 (FAISS).
    """

    def __init__(self, index: faiss.Index, row_ids: NDArray[np.uint64]) -> None:
        if index.ntotal != len(row_ids):
            raise ValueError(f"index holds {index.ntotal} rows, expected {len(row_ids)}")
        self._index = index
        self.row_ids = row_ids
        self.order = np.arange(len(row_ids))  # it is built in the order of the keys

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.float32],
        row_ids: NDArray[np.uint64],
        exact_below: int = EXACT_BELOW,
    ) -> AnnIndex:
        """Index of `vectors`, (N, E) unit-norm rows; HNSW from `exact_below` rows on."""
        count, dim = vectors.shape
        index: Any
        if count < exact_below:
            index = faiss.IndexFlatIP(dim)
        else:
            index = faiss.IndexHNSWFlat(dim, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILD_EFFORT
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return cls(index, np.asarray(row_ids, dtype=np.uint64))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    @property
    def exact(self) -> bool:
        """Whether the results are those of a full scan."""
        return not isinstance(self._index, faiss.IndexHNSW)

    def search(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` rows nearest to each of the (Q, E) queries.

        Args:
            queries: (Q, E) unit-norm rows.
            k: how many.
            among: (P,) the positions that count; all of them if None.

        Returns:
            (Q, k) cosine similarities, falling, and (Q, k) positions; where there are fewer
            than `k` rows, the position is -1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        selected: Any = None if among is None else faiss.IDSelectorBatch(among)
        parameters: Any
        if self.exact:
            parameters = faiss.SearchParameters(sel=selected)  # type: ignore[call-arg]
        else:
            parameters = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
                efSearch=max(SEARCH_EFFORT, 2 * k), sel=selected
            )
        return self._index.search(queries, k, params=parameters)

    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(P, E) rows at `positions`, as they were given."""
        return self._index.reconstruct_batch(np.ascontiguousarray(positions, dtype=np.int64))

    def save(self, file: Path) -> None:
        """Write the index, its row ids and the checksums of both; a reader sees all or nothing."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as stream:
            np.save(stream, self.row_ids, allow_pickle=False)
        checksums = {"row_ids": _checksum(temporary)}
        temporary.replace(_ids_file(file))
        faiss.write_index(self._index, str(temporary))
        checksums["index"] = _checksum(temporary)
        temporary.replace(file)
        temporary.write_text(json.dumps(checksums), encoding="utf-8")
        temporary.replace(_checksum_file(file))

    @classmethod
    def load(cls, file: Path) -> AnnIndex | None:
        """The index that `save` wrote, or None where there is none that can be used."""
        # It is a cache: where a byte has changed, the caller builds it again.
        try:
            checksums = json.loads(_checksum_file(file).read_text(encoding="utf-8"))
            found = {"row_ids": _checksum(_ids_file(file)), "index": _checksum(file)}
            if checksums != found:
                return None
            row_ids = np.load(_ids_file(file), allow_pickle=False)
            return cls(faiss.read_index(str(file)), row_ids)
        except (OSError, RuntimeError, ValueError):
            return None


def _ids_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.rows.npy")


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.xxh3")


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
