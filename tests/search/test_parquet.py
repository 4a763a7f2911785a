"""Folders of embeddings under killed and concurrent writers, and damaged shards."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from amodal.data.record import DataError
from amodal.search.parquet import write_parquet, written_keys
from amodal.search.rows import Row


def rows_of(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, v in enumerate(vectors):
        # The column appears late and widens later, so that the shards are rewritten at the end.
        metadata = {} if i < 50 else {"size": i if i < 150 else i + 0.5}
        yield Row(f"item{i:05d}", "image", v, metadata=metadata)


def write(folder, rows):
    return write_parquet(rows, folder, dim=8, fingerprint="abc", rows_per_shard=20)


def content(folder):
    table = pq.ParquetDataset(sorted(folder.glob("part-*.parquet"))).read()
    return table.sort_by("id").combine_chunks()


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path):
    write(tmp_path / "e", rows_of(10))
    with (
        FileLock(tmp_path / "e" / "writer.lock"),
        pytest.raises(DataError, match="another process is writing embeddings here"),
    ):
        write(tmp_path / "e", rows_of(20))
    assert write(tmp_path / "e", rows_of(20)).new == 10


def test_a_damaged_shard_is_named(tmp_path):
    write(tmp_path / "e", rows_of(30))
    shard = tmp_path / "e" / "part-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match=r"part-00001.parquet: cannot be read .* delete this file"):
        write(tmp_path / "e", rows_of(30))
    shard.unlink()
    assert write(tmp_path / "e", rows_of(30)).new == 10


def test_a_writer_killed_before_its_first_summary_blocks_nothing(tmp_path):
    folder = tmp_path / "e"
    folder.mkdir()
    (folder / "embeddings.json.tmp").write_text("{")
    (folder / "writer.lock").touch()
    assert written_keys(folder, "abc") == set()
    assert write(folder, rows_of(5)).new == 5


def _write_until(folder, number, delay):
    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # as the command does
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        write(folder, rows_of(300))
    except KeyboardInterrupt:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_at_any_moment_embedding_continues_to_the_same_end(tmp_path, number):
    began = time.monotonic()
    write(tmp_path / "whole", rows_of(300))
    whole = time.monotonic() - began
    want = content(tmp_path / "whole")
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    stopped = 0
    for trial in range(10):
        folder = tmp_path / f"stopped{trial}"
        for _ in range(2):
            args = (folder, number, rng.uniform(0.02, 0.7) * whole)
            process = context.Process(target=_write_until, args=args)
            process.start()
            process.join()
            stopped += process.exitcode != 0
        summary = write(folder, rows_of(300))
        assert (summary.complete, summary.rows, summary.items) == (True, {"image": 300}, 300)
        assert content(folder).equals(want)
    assert stopped >= 5
