"""Packed shards hold the same records, byte for byte."""

import json
from pathlib import Path

import numpy as np
import pytest

from amodal.data.decode import decode_image
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
    assert names == ["shard-000000.tar", "shard-000001.tar"]


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path, coco):
    (tmp_path / "file").write_text("I am no folder")
    with pytest.raises(DataError, match=r"file/packed: cannot be written: Not a directory"):
        pack(coco, tmp_path / "file" / "packed")
    with pytest.raises(DataError, match="positive shard size"):
        pack(coco, tmp_path / "packed", records_per_shard=0)
