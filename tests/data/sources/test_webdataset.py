"""Tar shards: what belongs together is read together, and pickles are never opened."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import fsspec
import pytest

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Source, StreamingSource
from amodal.data.sources.webdataset import WebDatasetConfig


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def read(path):
    return list(WebDatasetConfig(path=path).open())


@pytest.fixture
def png(tmp_path, write_image):
    return write_image(tmp_path / "some.png").read_bytes()


def test_members_that_share_a_name_are_one_record(tmp_path, png):
    data = {"captions": ["a", "b"], "label": 3, "url": "u", "id": 17, "image": "x"}
    path = write_shard(
        tmp_path / "s.tar",
        [
            ("d/1.png", png),
            ("d/1.txt", "a dog\n一只狗\n\n"),
            ("d/1.cls", "dog"),
            ("2.json", json.dumps(data)),
            ("2.PNG", png),
            ("3.txt", "only words"),
        ],
    )
    source = WebDatasetConfig(path=path).open()
    assert isinstance(source, StreamingSource)
    assert not isinstance(source, Source)
    first, second, third = source
    assert (first["id"], first["text"], first["label"]) == ("s/d/1", ["a dog", "一只狗"], "dog")
    assert decode_image(first["image"], first["origin"]).shape == (16, 20, 3)
    assert first["origin"] == f"{path} d/1"
    assert (second["id"], second["text"], second["label"]) == ("17", ["a", "b"], "3")
    assert (second["url"], second["column_image"]) == ("u", "x")
    assert second["image"] == png
    assert third["text"] == ["only words"]
    assert "image" not in third
    assert [r["id"] for r in source] == ["s/d/1", "17", "s/3"]  # it can be read again


def test_audio_is_read_beside_images_and_captions(tmp_path, png):
    path = write_shard(
        tmp_path / "s.tar",
        [
            *(("1.jpg", png), ("1.FLAC", b"fLaC"), ("1.txt", "a")),
            *(("2.speech.wav", b"RIFF"), ("2.caption.txt", "b")),
            *(("3.0.ogg", b"OggS 0"), ("3.1.ogg", b"OggS 1"), ("3.txt", "c")),
            ("4.mp3", b""),
        ],
    )
    one, two, three, four = read(path)
    assert (one["image"], one["audio"], one["text"]) == (png, b"fLaC", ["a"])
    assert (two["audio"], two["text"]) == (b"RIFF", ["b"])
    assert three["audio"] == [b"OggS 0", b"OggS 1"]
    assert four.reason == "empty audio (0 bytes): mp3"


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


@pytest.mark.parametrize("suffix", ["pyd", "pickle", "pkl", "pth", "pt", "npy"])
def test_pickles_are_never_opened(tmp_path, png, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = pickle.dumps(Trap())
    path = write_shard(
        tmp_path / "s.tar",
        [("1.png", png), ("1.txt", "a"), (f"1.{suffix}", trap), (f"2.{suffix}", trap)],
    )
    (record,) = read(path)
    assert set(record) == {"id", "origin", "image", "text"}
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("1.png", b"IMAGE"), ("1.json", "{")], "damaged json"),
        ([("1.png", b"IMAGE"), ("1.json", "[1]")], "expected an object"),
        ([("1.png", b""), ("1.txt", "a")], "empty image"),
        ([("1.png", b"IMAGE"), ("1.txt", " \n")], "caption is empty"),
        ([("1.png", b"IMAGE"), ("1.txt", b"caf\xe9")], "not UTF-8"),
        ([("1.cls", "3")], "neither image nor audio nor video nor caption"),
    ],
)
def test_a_broken_record_is_yielded_and_reading_goes_on(tmp_path, members, reason):
    path = write_shard(tmp_path / "s.tar", [*members, ("2.txt", "a")])
    error, record = read(path)
    assert isinstance(error, BrokenRecordError)
    assert error.origin == f"{path} 1"
    assert reason in error.reason
    assert record["id"] == "s/2"


def test_a_shard_cut_short_keeps_what_came_before(tmp_path, png):
    path = Path(write_shard(tmp_path / "a.tar", [(f"{i}.png", png * 9) for i in range(6)]))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    write_shard(tmp_path / "b.tar", [("x.txt", "a")])
    got = read(str(tmp_path / "*.tar"))
    assert [r["id"] for r in got if isinstance(r, dict)][-1] == "b/x"
    (error,) = [r for r in got if isinstance(r, BrokenRecordError)]
    assert "a.tar" in error.origin
    whole = [r["id"] for r in got if isinstance(r, dict)][:-1]
    assert whole == [f"a/{i}" for i in range(len(whole))]
    assert len(whole) >= 1


def test_an_item_whose_last_member_is_cut_is_not_taken_for_whole(tmp_path, png):
    path = Path(write_shard(tmp_path / "a.tar", [("1.png", png), ("1.txt", "word " * 9000)]))
    path.write_bytes(path.read_bytes()[:20_000])
    (error,) = read(str(path))
    assert error.origin == f"{path} 1"
    assert "damaged tar" in error.reason


def test_a_member_that_occurs_twice_breaks_its_item(tmp_path):
    path = write_shard(tmp_path / "a.tar", [("1.txt", "a"), ("1.txt", "b"), ("2.txt", "c")])
    error, record = read(path)
    assert error.origin == f"{path} 1"
    assert record["id"] == "a/2"


def test_what_is_no_tar_is_one_broken_row(tmp_path):
    (tmp_path / "a.tar").write_text("hello " * 200)
    (error,) = read(str(tmp_path / "a.tar"))
    assert isinstance(error, BrokenRecordError)


def test_shards_are_named_by_globs_and_braces(tmp_path):
    for i in range(3):
        write_shard(tmp_path / f"s-{i:02d}.tar", [(f"{i}.txt", "a")])
    want = ["s-00/0", "s-01/1", "s-02/2"]
    assert [r["id"] for r in read(str(tmp_path / "s-*.tar"))] == want
    assert [r["id"] for r in read(str(tmp_path / "s-{00..02}.tar"))] == want
    assert [r["id"] for r in read((str(tmp_path / "s-02.tar"), str(tmp_path / "s-00.tar")))] == [
        "s-02/2",
        "s-00/0",
    ]
    with pytest.raises(DataError, match=r"s-03\.tar: no such shard"):
        WebDatasetConfig(path=str(tmp_path / "s-{00..03}.tar")).open()


def test_remote_shards_are_read_through_fsspec(tmp_path):
    path = Path(write_shard(tmp_path / "s.tar", [("1.txt", "a")]))
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/s-0.tar", path.read_bytes())
    assert [r["id"] for r in read("memory://bucket/s-*.tar")] == ["s-0/1"]
    assert [r["id"] for r in read("memory://bucket/s-{0..0}.tar")] == ["s-0/1"]
    (error,) = read("memory://bucket/gone.tar")
    assert "cannot be read" in error.reason


def test_commands_in_an_address_are_not_run(tmp_path):
    with pytest.raises(DataError):
        WebDatasetConfig(path=f"pipe:touch {tmp_path / 'sprung'}").open()
    assert not (tmp_path / "sprung").exists()
