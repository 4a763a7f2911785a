"""COCO captions: what is in the JSON comes out, and what is wrong with it is named."""

import json
import os
from pathlib import Path

import pytest

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.sources.coco_captions import CocoCaptionsConfig
from amodal.data.sources.json_files import read_json

DATA = Path(os.environ.get("AMODAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def opened(folder, images, annotations):
    (folder / "images").mkdir(exist_ok=True)
    document = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(document), encoding="utf-8")
    return CocoCaptionsConfig(
        images=str(folder / "images"), annotations=str(folder / "captions.json")
    ).open()


def image(id, name=None, **more):
    return {"id": id, "file_name": name or f"{id}.jpg", **more}


def caption(id, image_id, text):
    return {"id": id, "image_id": image_id, "caption": text}


def test_every_image_is_one_record_with_all_its_captions(tmp_path, write_image, capsys):
    write_image(tmp_path / "images" / "2.jpg")
    source = opened(
        tmp_path,
        [image(7), image(2, width=20)],
        [caption(0, 2, "a dog"), caption(1, 7, "a cat"), caption(2, 2, " 一只狗 ")],
    )
    assert isinstance(source, Source)
    assert len(source) == 2
    first = source[0]
    assert first["id"] == "2"
    assert first["text"] == ["a dog", "一只狗"]
    assert first["width"] == 20
    assert decode_image(first["image"], first["origin"]).shape == (16, 20, 3)
    assert source[1]["text"] == ["a cat"]
    assert source.broken_rows == ()
    assert capsys.readouterr().out == ""
    with pytest.raises(IndexError):
        source[2]


def test_it_reads_what_torchvision_reads(tmp_path, write_image):
    from torchvision.datasets import CocoCaptions

    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.jpg", seed=i)
    annotations = [caption(10 - i, i % 3, f"caption {i}") for i in range(9)]
    source = opened(tmp_path, [image(i) for i in (2, 0, 1)], annotations)
    theirs = CocoCaptions(tmp_path / "images", tmp_path / "captions.json")
    assert [source[i]["text"] for i in range(3)] == [theirs[i][1] for i in range(3)]


def test_an_annotation_of_an_absent_image_is_listed(tmp_path):
    source = opened(tmp_path, [image(1)], [caption(0, 1, "a dog"), caption(1, 99, "a cat")])
    (error,) = source.broken_rows
    assert "annotations[1]" in error.origin
    assert "99" in error.reason
    assert source[0]["text"] == ["a dog"]


def test_an_absent_image_file_breaks_its_record_only(tmp_path, write_image):
    write_image(tmp_path / "images" / "2.jpg")
    source = opened(tmp_path, [image(1), image(2)], [caption(0, 1, "a"), caption(1, 2, "b")])
    record = source[0]
    with pytest.raises(BrokenRecordError, match=r"image 1 .*no such image file"):
        decode_image(record["image"], record["origin"])
    assert decode_image(source[1]["image"], source[1]["origin"]).size > 0


def test_an_empty_caption_is_dropped_and_listed(tmp_path):
    source = opened(tmp_path, [image(1)], [caption(0, 1, " \n"), caption(1, 1, "a dog")])
    assert source[0]["text"] == ["a dog"]
    assert [e.reason for e in source.broken_rows] == ["the caption is empty"]


def test_an_image_without_captions_is_broken(tmp_path):
    source = opened(tmp_path, [image(1)], [])
    with pytest.raises(BrokenRecordError, match=r"image 1 .*no caption"):
        source[0]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (image(1), "occurs twice"),
        ({"id": 5}, "no `file_name`"),
        ({"file_name": "a.jpg"}, "an `id`"),
        ("a.jpg", "an `id`"),
    ],
)
def test_a_wrong_image_entry_is_listed(tmp_path, entry, reason):
    source = opened(tmp_path, [image(1), entry], [caption(0, 1, "a")])
    assert len(source) == 1
    (error,) = source.broken_rows
    assert "images[1]" in error.origin
    assert reason in error.reason


@pytest.mark.parametrize(
    "entry", [{"image_id": 1, "id": 3}, {"caption": "a"}, 3, {"image_id": [1]}]
)
def test_a_wrong_annotation_is_listed(tmp_path, entry):
    source = opened(tmp_path, [image(1)], [caption(0, 1, "a"), entry])
    assert source[0]["text"] == ["a"]
    assert len(source.broken_rows) == 1


def test_annotations_need_no_id(tmp_path):
    rows = [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]
    assert opened(tmp_path, [image(1)], rows)[0]["text"] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', r"captions\.json: not JSON at line 1"),
        ("[1]", "expected a JSON object"),
        ('{"images": []}', "'annotations'"),
        ('{"annotations": [], "info": 1}', r"'images'.*the file has 'annotations', 'info'"),
        ('{"images": [], "annotations": []}', "names no image"),
        ('{"images": "é"}'.encode("latin-1"), "not UTF-8 at byte 12"),
    ],
)
def test_a_file_in_another_layout_is_refused(tmp_path, content, message):
    file = tmp_path / "captions.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        CocoCaptionsConfig(images=str(tmp_path), annotations=str(file)).open()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: no such file"):
        CocoCaptionsConfig(images=str(tmp_path), annotations=str(tmp_path / "gone.json")).open()
    config = CocoCaptionsConfig(images=str(tmp_path / "gone"), annotations="captions.json")
    with pytest.raises(DataError, match="gone: expected a folder of images"):
        config.open()


def test_flickr8k_is_read_whole():
    folder = DATA / "flickr8k"
    if not folder.is_dir():
        pytest.skip(f"no flickr8k in {DATA}")
    source = CocoCaptionsConfig(
        images=str(folder / "images"), annotations=str(folder / "captions_dev.json")
    ).open()
    assert len(source) == 1000
    assert source.broken_rows == ()
    assert all(len(source[i]["text"]) == 5 for i in range(1000))
    record = source[0]
    assert decode_image(record["image"], record["origin"]).shape == (144, 144, 3)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"images": [' + "9" * 5000 + "]}"])
def test_json_too_deep_or_with_numbers_too_long_is_refused_in_a_line(tmp_path, content):
    file = tmp_path / "captions.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"captions\.json: cannot be read as JSON: "):
        read_json(file, "captions")


def test_backslashes_and_decomposed_letters_in_file_names_are_found(tmp_path, write_image):
    write_image(tmp_path / "images" / "train" / "1.jpg")
    write_image(tmp_path / "images" / "cafe\u0301.jpg")  # as macOS writes it
    source = opened(
        tmp_path,
        [image(1, "train\\1.jpg"), image(2, "caf\xe9.jpg"), image(3, "gone\\3.jpg")],
        [caption(k, k, "a") for k in (1, 2, 3)],
    )
    for index in range(2):
        assert decode_image(source[index]["image"], source[index]["origin"]).size > 0
    with pytest.raises(BrokenRecordError, match=r"gone\\3\.jpg"):
        decode_image(source[2]["image"], source[2]["origin"])


def test_half_an_emoji_breaks_its_caption_only(tmp_path):
    source = opened(
        tmp_path, [image(1)], [caption(0, 1, "a dog \ud83d"), caption(1, 1, "a cat \U0001f431")]
    )
    assert source[0]["text"] == ["a cat \U0001f431"]
    (error,) = source.broken_rows
    assert "annotations[0]" in error.origin
    assert "half of a surrogate pair" in error.reason


def test_ids_written_as_strings_in_one_list_are_the_numbers_of_the_other(tmp_path):
    source = opened(tmp_path, [image(1)], [{"image_id": "1", "caption": "a"}])
    assert source[0]["text"] == ["a"]
    assert source.broken_rows == ()


def test_entries_whose_names_are_taken_become_metadata(tmp_path):
    record = opened(tmp_path, [image(1, text="t", origin=3)], [caption(0, 1, "a")])[0]
    assert (record["column_text"], record["column_origin"]) == ("t", 3)


def test_boxes_of_coco_are_not_taken_for_captions(tmp_path):
    (tmp_path / "captions_val.json").touch()
    boxes = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}]
    document = json.dumps({"images": [image(1)], "annotations": boxes})
    (tmp_path / "instances_val.json").write_text(document)
    config = CocoCaptionsConfig(
        images=str(tmp_path), annotations=str(tmp_path / "instances_val.json")
    )
    with pytest.raises(DataError, match=r"not captions; captions are in .*captions_val\.json"):
        config.open()
