"""Shards on disk are read in any order, as they are read in theirs."""

import io
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import pytest

from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.sources.shard_index import IndexedShards
from amodal.data.sources.webdataset import WebDatasetConfig


def write(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def indexed_shards(path):
    source = WebDatasetConfig(path=path).open()
    return IndexedShards(source.name, source.shards)


@pytest.fixture
def shards(tmp_path, write_image):
    png = write_image(tmp_path / "some.png").read_bytes()
    for shard in range(2):
        members = []
        for i in range(5):
            members += [
                (f"d/{shard}{i}.PNG", png),
                (f"d/{shard}{i}.txt", f"image {i}".encode()),
                (f"d/{shard}{i}.pickle", b"never read"),
            ]
        write(tmp_path / f"{shard}.tar", members)
    return WebDatasetConfig(path=str(tmp_path / "*.tar")).open()


def test_records_are_those_of_reading_in_order(shards):
    indexed = IndexedShards(shards.name, shards.shards)
    assert isinstance(indexed, Source)
    want = list(shards)
    assert len(indexed) == len(want) == 10
    assert [indexed[i] for i in (7, 0, 9)] == [want[i] for i in (7, 0, 9)]
    assert [indexed[i] for i in range(10)] == want


def _read(indexed, i, answers):
    answers.put(indexed[i]["id"])


def test_other_processes_read_too(shards):
    indexed = IndexedShards(shards.name, shards.shards)
    assert indexed[0]["id"] == "0/d/00"  # the file is open before the fork
    answers = multiprocessing.get_context("fork").Queue()
    other = multiprocessing.get_context("fork").Process(target=_read, args=(indexed, 3, answers))
    other.start()
    assert answers.get(timeout=30) == "0/d/03"
    other.join()
    assert indexed[4]["id"] == "0/d/04"
    assert pickle.loads(pickle.dumps(indexed))[8]["id"] == "1/d/13"


def test_damage_is_listed_and_the_rest_is_kept(tmp_path, shards):
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "2.tar", [("1.txt", b"a"), ("1.txt", b"b"), ("2.txt", b"c")])
    indexed = indexed_shards(str(tmp_path / "*.tar"))
    names = [indexed[i]["id"] for i in range(len(indexed))]
    assert names[-6:] == [*(f"1/d/1{i}" for i in range(5)), "2/2"]
    assert 1 <= len(names) - 6 <= 3
    first, second = indexed.broken_rows
    assert "0.tar" in first.origin
    assert "damaged tar" in first.reason
    assert (second.origin, second.reason) == (
        f"{tmp_path / '2.tar'} 1",
        "two members txt of one name",
    )


def test_a_shard_that_shrinks_later_breaks_its_rows_only(tmp_path, shards):
    indexed = IndexedShards(shards.name, shards.shards)
    path = Path(indexed.shards[0])
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BrokenRecordError, match="shorter since it was indexed"):
        indexed[4]
    assert indexed[5]["id"] == "1/d/10"


def test_remote_and_compressed_shards_are_refused(tmp_path):
    with pytest.raises(DataError, match="copy them to this machine"):
        indexed_shards("memory://a.tar")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"plain \.tar"):
        indexed_shards(str(tmp_path / "a.tar.gz"))
