"""Packed shards hold the same records, byte for byte."""

import fcntl
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import video_files
from forked_commands import start

from amodal.data.decode import decode_image
from amodal.data.decode_audio import load_audio
from amodal.data.pack import pack
from amodal.data.record import DataError
from amodal.data.scenes.source import ScenesConfig, write_dataset
from amodal.data.sources.coco_captions import CocoCaptionsConfig
from amodal.data.sources.specification import parse_source


@pytest.fixture
def coco(tmp_path):
    folder = write_dataset(ScenesConfig(size=7, languages=("en", "zh")).open(), tmp_path / "coco")
    return CocoCaptionsConfig(
        images=str(folder / "images"), annotations=str(folder / "captions.json")
    ).open()


def test_files_come_back_byte_for_byte_with_captions_and_metadata(tmp_path, coco):
    index = pack(coco, tmp_path / "packed", records_per_shard=3)
    assert [shard.records for shard in index.shards] == [3, 3, 1]
    assert (index.records, index.images, index.captions) == (7, 7, 35)
    assert json.loads((tmp_path / "packed" / "index.json").read_text())["records"] == 7
    back = list(parse_source(str(tmp_path / "packed")).open())
    assert len(back) == 7
    for record, want in zip(back, (coco[i] for i in range(7)), strict=True):
        assert record["image"] == Path(want["image"]).read_bytes()
        assert {k: v for k, v in record.items() if k not in ("image", "origin")} == {
            k: v for k, v in want.items() if k not in ("image", "origin")
        }


def test_arrays_come_back_pixel_for_pixel(tmp_path):
    source = ScenesConfig(size=3).open()
    pack(source, tmp_path / "packed")
    for record, want in zip(
        parse_source(str(tmp_path / "packed")).open(), (source[i] for i in range(3)), strict=True
    ):
        np.testing.assert_array_equal(
            decode_image(record["image"], record["origin"]), want["image"]
        )
        assert (record["id"], record["text"], record["label"], record["count"]) == (
            want["id"],
            want["text"],
            want["label"],
            want["count"],
        )


def test_shards_end_at_their_size(tmp_path, coco):
    index = pack(coco, tmp_path / "packed", shard_size_bytes=1)
    assert [shard.records for shard in index.shards] == [1] * 7
    for shard in index.shards:
        assert (tmp_path / "packed" / shard.name).stat().st_size == shard.bytes


def test_the_same_records_make_the_same_shards(tmp_path, coco):
    for name in ("one", "two"):
        pack(coco, tmp_path / name)
    shards = [(tmp_path / name / "shard-000000.tar").read_bytes() for name in ("one", "two")]
    assert shards[0] == shards[1]


def test_broken_records_are_left_out_and_listed(tmp_path, coco):
    cut = Path(coco[2]["image"])
    cut.write_bytes(cut.read_bytes()[:100])
    Path(coco[4]["image"]).unlink()
    index = pack(coco, tmp_path / "packed")
    assert (index.records, index.broken) == (5, 2)
    assert [row.reason.split(":")[0] for row in index.broken_rows] == [
        "damaged image",
        "no such image file",
    ]
    assert len(list(parse_source(str(tmp_path / "packed")).open())) == 5


def test_packed_shards_can_be_packed_again(tmp_path, coco):
    pack(coco, tmp_path / "one")
    pack(parse_source(str(tmp_path / "one")).open(), tmp_path / "two")
    name = "shard-000000.tar"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_shards_that_are_there_are_kept_unless_asked(tmp_path, coco):
    pack(coco, tmp_path / "packed", records_per_shard=2)
    with pytest.raises(DataError, match="holds 4 shards already"):
        pack(coco, tmp_path / "packed")
    pack(coco, tmp_path / "packed", overwrite=True)
    assert sorted(f.name for f in (tmp_path / "packed").iterdir()) == [
        "index.json",
        "shard-000000.tar",
    ]


def test_stopping_leaves_complete_shards_only(tmp_path, coco):
    def stop(done):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(coco, tmp_path / "packed", records_per_shard=2, progress=stop)
    names = sorted(f.name for f in (tmp_path / "packed").iterdir())
    assert names == [".pack.json", "shard-000000.tar", "shard-000001.tar"]


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path, coco):
    (tmp_path / "file").write_text("I am no folder")
    with pytest.raises(DataError, match=r"file/packed: cannot be written: Not a directory"):
        pack(coco, tmp_path / "file" / "packed")
    with pytest.raises(DataError, match="positive shard size"):
        pack(coco, tmp_path / "packed", records_per_shard=0)


class Listed:
    """A source of the records that it is given."""

    name = "listed"
    inputs = frozenset({"image", "text"})

    def __init__(self, *records):
        self.records = [{"id": str(i), "origin": f"row {i}", **r} for i, r in enumerate(records)]

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


def files(folder):
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def read_back(folder):
    return list(parse_source(str(folder)).open())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 6])
def test_an_interrupted_pack_goes_on_and_ends_as_one_that_was_not(
    tmp_path, coco, stop_at, streamed
):
    Path(coco[3]["image"]).write_bytes(b"no image")

    def stop(done):
        if done == stop_at:
            raise KeyboardInterrupt

    source = coco
    if streamed:
        pack(coco, tmp_path / "shards")
        source = parse_source(str(tmp_path / "shards")).open()
    pack(source, tmp_path / "whole", records_per_shard=2)
    told = []
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "cut", records_per_shard=2, progress=stop)
    pack(source, tmp_path / "cut", records_per_shard=2, tell=told.append)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert bool(told) == (stop_at > 1)


def test_an_interrupted_pack_does_not_go_on_with_something_else(tmp_path, coco):
    def stop(done):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(coco, tmp_path / "packed", records_per_shard=2, progress=stop)
    with pytest.raises(DataError, match="records_per_shard 2, now 3"):
        pack(coco, tmp_path / "packed", records_per_shard=3)
    coco._entries[3]["id"] = 99
    with pytest.raises(DataError, match="record 4 of captions is no longer 3"):
        pack(coco, tmp_path / "packed", records_per_shard=2)
    (tmp_path / "packed" / "shard-000000.tar").write_bytes(b"other")
    with pytest.raises(DataError, match=r"shard-000000\.tar: expected .* bytes"):
        pack(coco, tmp_path / "packed", records_per_shard=2)
    assert pack(coco, tmp_path / "packed", records_per_shard=3, overwrite=True).records == 7


def test_two_packs_into_one_folder_are_refused(tmp_path, coco):
    (tmp_path / "packed").mkdir()
    other = os.open(tmp_path / "packed", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another process is packing into it"):
        pack(coco, tmp_path / "packed")
    os.close(other)
    assert pack(coco, tmp_path / "packed").records == 7


def test_a_caption_that_is_a_string_is_one_caption(tmp_path):
    assert pack(Listed({"text": "a dog"}), tmp_path / "packed").captions == 1
    assert read_back(tmp_path / "packed")[0]["text"] == ["a dog"]


def test_several_images_of_an_item_come_back_as_several(tmp_path, write_image):
    images = [write_image(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    index = pack(
        Listed({"image": images, "text": ["a"]}, {"image": images[0]}), tmp_path / "packed"
    )
    assert (index.records, index.images) == (2, 4)
    first, second = read_back(tmp_path / "packed")
    assert first["image"] == [image.read_bytes() for image in images]
    assert second["image"] == images[0].read_bytes()


def test_metadata_named_as_captions_does_not_become_captions(tmp_path, write_image):
    image = write_image(tmp_path / "0.png")
    pack(Listed({"image": image, "caption": "a file name", "captions": 3}), tmp_path / "packed")
    (record,) = read_back(tmp_path / "packed")
    assert "text" not in record
    assert (record["column_caption"], record["column_captions"]) == ("a file name", 3)


def test_values_that_shards_cannot_hold_are_counted(tmp_path):
    index = pack(
        Listed(
            {"text": ["a"], "mask": b"\x00"},
            {"text": ["b"], "mask": [b"\x00"], "mixed": {1: 2, "a": 3}},
            {"sound": "a.wav"},
        ),
        tmp_path / "packed",
    )
    assert index.left_out == {"mask": 2, "mixed": 1}
    assert (index.records, index.broken) == (2, 1)
    assert "neither image nor audio nor video file nor caption" in index.broken_rows[0].reason


def test_audio_comes_back_byte_for_byte_and_waveforms_sample_for_sample(tmp_path):
    files = [tmp_path / name for name in ("a.wav", "b.flac", "c.ogg", "d.mp3")]
    rng = np.random.default_rng(0)
    for file in files:
        soundfile.write(file, rng.normal(0, 0.1, 4000), 8000)
    waveform = rng.normal(0, 0.1, (500, 2)).astype(np.float32)
    (tmp_path / "cut.wav").write_bytes(files[0].read_bytes()[:3000])
    index = pack(
        Listed(
            *({"audio": str(file), "text": [file.stem]} for file in files),
            {"audio": (waveform, 8000)},
            {"audio": [str(files[0]), files[1].read_bytes()]},
            {"audio": str(tmp_path / "cut.wav")},
        ),
        tmp_path / "packed",
    )
    assert (index.records, index.audio, index.captions, index.broken) == (6, 7, 4, 1)
    assert "cut short" in index.broken_rows[0].reason
    back = read_back(tmp_path / "packed")
    for record, file in zip(back, files, strict=False):
        assert (record["audio"], record["text"]) == (file.read_bytes(), [file.stem])
    samples, rate = load_audio(back[4]["audio"], "row")
    assert rate == 8000
    np.testing.assert_array_equal(samples, waveform)
    assert back[5]["audio"] == [files[0].read_bytes(), files[1].read_bytes()]


def test_video_files_come_back_byte_for_byte_and_frames_are_listed_as_left_out(tmp_path):
    pytest.importorskip("av")
    files = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
    for file in files:
        video_files.write(file, np.arange(10) / 10)
    (tmp_path / "cut.mp4").write_bytes(files[0].read_bytes()[:-900])
    index = pack(
        Listed(
            *({"video": str(file), "text": [file.stem]} for file in files),
            {"video": files[0].read_bytes(), "audio": (np.zeros(800, np.float32), 8000)},
            {"video": np.zeros((4, 8, 8, 3), np.uint8), "text": ["frames"]},
            {"video": str(tmp_path / "cut.mp4"), "text": ["cut"]},
        ),
        tmp_path / "packed",
    )
    assert (index.records, index.videos, index.audio, index.broken) == (4, 3, 1, 1)
    assert index.left_out == {"video": 1}
    back = read_back(tmp_path / "packed")
    assert [record.get("video") for record in back] == [
        *(file.read_bytes() for file in files),
        files[0].read_bytes(),
        None,
    ]


def test_half_an_emoji_is_one_broken_row(tmp_path):
    source = Listed({"text": ["a \ud83d"]}, {"text": ["b"]}, {"text": ["c"], "note": "\udcff"})
    index = pack(source, tmp_path / "packed")
    assert (index.records, index.broken) == (1, 2)
    assert all("half of a surrogate pair" in row.reason for row in index.broken_rows)


def test_what_the_source_left_out_is_in_the_index(tmp_path, write_image):
    write_image(tmp_path / "pics" / "cat" / "0.png")
    (tmp_path / "pics" / "cat" / "1.ppm").touch()
    index = pack(parse_source(str(tmp_path / "pics")).open(), tmp_path / "packed")
    assert str(index.notes[0]) == "files that are not read: 1 (.ppm 1, such as cat/1.ppm)"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_pack_killed_at_random_moments_ends_as_one_that_was_not(tmp_path, sent):
    words = ["data", "pack", "scenes:size=600,image_size=96"]
    options = ["--records-per-shard", "50", "--workers", "2"]

    def begun(folder):
        """The process of a pack that has said what it packs."""
        output = folder.with_suffix(".txt")
        output.write_text("")
        process = start([*words, str(folder), *options], output)
        while process.is_alive() and "packing" not in output.read_text():
            time.sleep(0.002)
        return process

    def ended(process):
        process.join(120)
        return process.exitcode

    def finished(folder):
        return (folder / "index.json").exists() and not (folder / ".pack.json").exists()

    process = begun(tmp_path / "whole")
    since = time.monotonic()
    assert ended(process) == 0
    seconds = time.monotonic() - since
    want = files(tmp_path / "whole")
    rng = random.Random(int(sent))
    for number in range(4):
        folder = tmp_path / f"cut{number}"
        for _ in range(2):
            process = begun(folder)
            time.sleep(seconds * 0.6 * rng.random())
            os.kill(process.pid, sent)
            assert ended(process) in (0, -signal.SIGKILL if sent == signal.SIGKILL else 130)
            if finished(folder):
                break
        if not finished(folder):
            assert ended(begun(folder)) == 0
        assert files(folder) == want
