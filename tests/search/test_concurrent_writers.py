"""An index under several writers, killed writers, damaged caches and merged files."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from amodal.search import index_cache
from amodal.search.ann import AnnIndex
from amodal.search.indexing import add_to_index
from amodal.search.rows import Row, plain_metadata
from amodal.search.store import VectorStore


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_of(vectors, first=0, **metadata):
    return [
        Row(f"item{i:05d}", "image", v, metadata=metadata)
        for i, v in enumerate(vectors, start=first)
    ]


@pytest.fixture
def store(tmp_path):
    return VectorStore.create(tmp_path / "index", 8, fingerprint="abc")


def _add_in_parts(folder, vectors):
    store = VectorStore.open(folder)
    for start in range(0, len(vectors), 10):
        store.add(rows_of(vectors[start : start + 10], start))


def test_two_processes_that_add_the_same_rows_make_no_duplicate(store):
    vectors = unit_rows(60, 8, 0)
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_add_in_parts, args=(store.folder, vectors)) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert store.count() == len(store.row_keys()) == 60
    assert store.search(vectors[41], 1)[0].id == "item00041"


def test_duplicates_of_older_writers_are_dropped_by_optimize(store):
    vectors = unit_rows(4, 8, 0)
    store.add(rows_of(vectors))
    table = store._table.to_arrow()
    store._table.add(table.slice(1, 2))  # as a second writer without a lock would
    assert store.count() == 6
    store.optimize()
    assert store.count() == len(store.row_keys()) == 4


@pytest.mark.parametrize("step", ["added", "dropped"])
def test_a_killed_widening_loses_no_value_and_blocks_nothing(store, step):
    v = unit_rows(3, 8, 0)
    store.add(rows_of(v[:2], size=3))
    table = store._table  # what `_widen` had done when it was killed
    table.add_columns({"unfinished_size": "cast(`size` as double)"})
    if step == "dropped":
        table.drop_columns(["size"])
    reopened = VectorStore.open(store.folder)
    assert "size" in reopened.columns
    assert "unfinished_size" not in reopened.columns
    assert {hit.metadata["size"] for hit in reopened.get(["item00000", "item00001"])} == {3}
    reopened.add(rows_of(v[2:], 2, size=2.5))
    sizes = [hit.metadata["size"] for hit in reopened.get([f"item0000{i}" for i in range(3)])]
    assert sizes == [3, 3, 2.5]


def test_metadata_named_like_an_unfinished_column_is_kept(store):
    metadata = plain_metadata({"unfinished_size": 4}, leave_out=())
    store.add([Row("a", "image", unit_rows(1, 8, 0)[0], metadata=metadata)])
    (hit,) = VectorStore.open(store.folder).get(["a"])
    assert hit.metadata == {"meta_unfinished_size": 4}


def test_flipped_bytes_in_the_cached_index_are_noticed(store):
    vectors = unit_rows(200, 8, 0)
    store.add(rows_of(vectors))
    want = [hit.id for hit in store.search(vectors[3], 5)]
    (file,) = (store.folder / "ann").glob("*.faiss")
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(100, len(data), 50):
        data[place] ^= 0xFF
    file.write_bytes(data)
    assert [hit.id for hit in VectorStore.open(store.folder).search(vectors[3], 5)] == want
    ids = file.with_name(f"{file.name}.rows.npy")
    ids.write_bytes(ids.read_bytes()[:-8] + b"\x05" + bytes(7))
    assert [hit.id for hit in VectorStore.open(store.folder).search(vectors[3], 5)] == want


@pytest.fixture
def graphs(monkeypatch):
    """Graphs from 50 rows on, and the number of rows of each that was built."""
    monkeypatch.setattr(index_cache, "EXACT_BELOW", 50)
    built = []
    build = AnnIndex.build.__func__

    def counted(cls, vectors, row_ids, exact_below=50):
        if exact_below == 50:
            built.append(len(vectors))
        return build(cls, vectors, row_ids, exact_below)

    monkeypatch.setattr(AnnIndex, "build", classmethod(counted))
    return built


def test_a_row_added_to_a_large_table_builds_no_other_graph(store, graphs):
    vectors = unit_rows(100, 8, 0)
    store.add(rows_of(vectors))
    store.build_index()
    store.add(rows_of(unit_rows(1, 8, 1), 100))
    store.delete(["item00004"])
    assert store.search(unit_rows(1, 8, 1)[0], 1)[0].id == "item00100"
    assert store.search(vectors[4], 1)[0].id != "item00004"
    store.optimize()  # gives every row another place
    assert store.search(vectors[70], 1)[0].id == "item00070"
    assert graphs == [100]
    # Another process reads the graph of the older version, and goes on from it.
    reopened = VectorStore.open(store.folder)
    assert reopened.search(unit_rows(1, 8, 1)[0], 1)[0].id == "item00100"
    assert reopened.search(vectors[4], 1)[0].id != "item00004"
    assert graphs == [100]


def test_a_graph_is_built_anew_in_the_background_once_much_has_changed(store, graphs, monkeypatch):
    monkeypatch.setattr("amodal.search.tail.FEW_CHANGED", 5)
    vectors = unit_rows(100, 8, 0)
    store.add(rows_of(vectors[:60]))
    store.build_index()
    store.add(rows_of(vectors[60:], 60))
    assert store.search(vectors[80], 1)[0].id == "item00080"  # at once, from the tail
    store._cache.wait()
    assert graphs == [60, 100]
    assert store.build_index()["image"].order.tolist() == list(range(100))
    for place in (0, 40, 80, 99):
        assert store.search(vectors[place], 1)[0].id == f"item{place:05d}"
    assert graphs == [60, 100]


def test_optimize_frees_old_files_and_readers_go_on(store):
    vectors = unit_rows(400, 8, 0)
    for start in range(0, 400, 20):
        store.add(rows_of(vectors[start : start + 20], start, note="x" * 1000))
    reader = VectorStore.open(store.folder)
    assert reader.search(vectors[7], 1)[0].id == "item00007"

    def size():
        return sum(f.stat().st_size for f in (store.folder / "lancedb").rglob("*") if f.is_file())

    before = size()
    # The reader has looked up the version when another process merges its files.
    snapshot = reader._snapshot()
    store.optimize()
    assert size() < 0.7 * before
    original = VectorStore._snapshot
    stale = iter([snapshot])
    VectorStore._snapshot = lambda self: next(stale, None) or original(self)
    try:
        assert reader.search(vectors[7], 1)[0].id == "item00007"
    finally:
        VectorStore._snapshot = original
    assert {hit.id for hit in reader.search(vectors[9], 3, where="note LIKE 'x%'")} >= {"item00009"}


def _index_until_stopped(folder, vectors, delay, number=signal.SIGKILL):
    """Index rows, in a process that sends itself a signal after `delay` seconds."""
    import lancedb  # noqa: F401  # takes seconds, before the clock runs

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # as the command does
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    if delay is not None:
        signal.setitimer(signal.ITIMER_REAL, delay)
    began = time.monotonic()
    store = VectorStore.create(folder, 8, fingerprint="abc", exist_ok=True)
    known = store.row_keys()
    rows = rows_of(vectors)
    for number, row in enumerate(rows):
        row.metadata["size"] = number if number < 150 else number + 0.5  # widened on the way
    add_to_index(store, [row for row in rows if row.key not in known], rows_per_version=20)
    store.optimize()
    store.build_index()
    (folder / "seconds").write_text(str(time.monotonic() - began))


@pytest.mark.slow
def test_stopped_at_any_moment_an_index_continues_to_the_same_end(tmp_path):
    vectors = unit_rows(300, 8, 0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["amodal.search.indexing"])  # lancedb must not be forked

    def run(folder, *stop):
        process = context.Process(target=_index_until_stopped, args=(folder, vectors, *stop))
        process.start()
        process.join()
        return process.exitcode

    assert run(tmp_path / "whole", None) == 0
    want = VectorStore.open(tmp_path / "whole")
    whole = float((tmp_path / "whole" / "seconds").read_text())
    rng = np.random.default_rng(0)
    stopped = 0
    for trial in range(8):
        folder = tmp_path / f"stopped{trial}"
        number = signal.SIGTERM if trial % 2 else signal.SIGKILL
        stopped += run(folder, rng.uniform(0.02, 0.6) * whole, number) != 0
        assert run(folder, None) == 0
        store = VectorStore.open(folder)
        assert store.row_keys() == want.row_keys()
        assert store.columns == want.columns
        for query in vectors[:20]:
            assert store.search(query, 5) == want.search(query, 5)
    assert stopped >= 4
