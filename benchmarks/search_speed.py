"""Queries per second and recall of the index: LanceDB alone, FAISS, and both behind the store.

    python benchmarks/search_speed.py --rows 100000 --dim 256

The rows are unit vectors around random centres, the queries are further rows of the same kind;
recall is measured against a full scan. One thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lancedb
import numpy as np
import pyarrow as pa

from amodal.search.ann import AnnIndex
from amodal.search.rows import Row
from amodal.search.store import VectorStore

K = 10


def clustered(count: int, dim: int, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """(count, dim) float32 unit rows; each lies about 40 degrees from one of the centres."""
    noise = rng.normal(size=(count, dim)) * 0.85 / np.sqrt(dim)
    rows = centres[rng.integers(len(centres), size=count)] + noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recall(found: list[list[int]], true: np.ndarray) -> float:
    """Recall of the true neighbours."""
    hits = [len(set(a) & set(b.tolist())) / K for a, b in zip(found, true, strict=True)]
    return float(np.mean(hits))


def timed(work: Callable[[], list[list[int]]]) -> tuple[list[list[int]], float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    centres = clustered(max(1, options.rows // 100), options.dim, rng, np.zeros((1, options.dim)))
    vectors = clustered(options.rows, options.dim, rng, centres)
    queries = clustered(options.queries, options.dim, rng, centres)
    true = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
    print(
        f"{options.rows:,} x {options.dim}, {options.queries} queries, k={K}, "
        f"{os.environ['OMP_NUM_THREADS']} thread(s) for FAISS, {os.cpu_count()} cores, "
        f"{platform.machine()}"
    )

    def report(name: str, found: list[list[int]], seconds: float) -> None:
        rate = len(queries) / seconds
        print(f"{name:44} {rate:10,.0f} queries/s   recall@{K} {recall(found, true):.4f}")

    with tempfile.TemporaryDirectory() as folder:
        numbers = pa.array(vectors.ravel())
        table = lancedb.connect(folder).create_table(
            "rows",
            pa.table(
                {
                    "id": np.arange(len(vectors)),
                    "vector": pa.FixedSizeListArray.from_arrays(numbers, options.dim),
                }
            ),
        )

        def lance() -> list[list[int]]:
            searches = (table.search(q).distance_type("dot").limit(K) for q in queries)
            columns = ["id", "_distance"]
            return [s.select(columns).to_arrow()["id"].to_pylist() for s in searches]

        report("LanceDB alone, full scan", *timed(lance))

    for name, exact_below in (("FAISS, full scan", len(vectors) + 1), ("FAISS, HNSW", 0)):
        start = time.perf_counter()
        index = AnnIndex.build(vectors, np.arange(len(vectors)), exact_below=exact_below)
        built = time.perf_counter() - start
        one = timed(lambda index=index: [index.search(q[None], K)[1][0].tolist() for q in queries])
        report(f"{name}, one at a time (built in {built:.1f} s)", *one)
        report(f"{name}, batched", *timed(lambda index=index: index.search(queries, K)[1].tolist()))

    with tempfile.TemporaryDirectory() as folder:
        store = VectorStore.create(Path(folder) / "index", options.dim, fingerprint="benchmark")
        store.add(Row(str(i), "image", vector) for i, vector in enumerate(vectors))
        store.build_index()

        def alone() -> list[list[int]]:
            return [[int(hit.id) for hit in store.search(q, K)] for q in queries]

        def alone_known() -> list[list[int]]:
            found = [store.search(q, K) for q in queries]
            return [[-1 if h.id.startswith("new") else int(h.id) for h in hits] for hits in found]

        def batched() -> list[list[int]]:
            return [[int(hit.id) for hit in hits] for hits in store.search_many(queries, K)]

        report("VectorStore, one at a time, whole rows", *timed(alone))
        report("VectorStore, batched, whole rows", *timed(batched))
        more = clustered(2, options.dim, rng, centres)
        for place, (name, change) in enumerate(
            {
                "one row added": lambda: None,
                "one row added, files merged": store.optimize,
            }.items()
        ):
            store.add([Row(f"new{place}", "image", more[place])])
            change()
            hits, seconds = timed(lambda place=place: [store.search(more[place], 1)])
            assert hits[0][0].id == f"new{place}"
            print(f"{name}: next search after {seconds:.2f} s, then ", end="")
            report("one at a time", *timed(alone_known))


if __name__ == "__main__":
    main()
