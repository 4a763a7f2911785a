"""Class folders: the folder is the label."""

import pytest

from amodal.data.decode import decode_image
from amodal.data.record import DataError, Source
from amodal.data.sources.folder import FolderConfig


def test_the_folder_of_an_image_is_its_label(tmp_path, write_image):
    write_image(tmp_path / "traffic_light" / "day" / "1.png")
    write_image(tmp_path / "cat" / "2.JPG")
    write_image(tmp_path / "cat" / ".hidden.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    source = FolderConfig(path=str(tmp_path)).open()
    assert isinstance(source, Source)
    assert source.inputs == {"image"}
    assert [source[i]["id"] for i in range(len(source))] == ["cat/2.JPG", "traffic_light/day/1.png"]
    assert [source[i]["label"] for i in range(2)] == ["cat", "traffic_light"]
    assert "text" not in source[0]
    assert decode_image(source[0]["image"], source[0]["origin"]).shape == (16, 20, 3)
    with pytest.raises(IndexError):
        source[2]


def test_a_template_makes_captions(tmp_path, write_image):
    write_image(tmp_path / "traffic_light" / "1.png")
    source = FolderConfig(path=str(tmp_path), caption_template="a photo of a {label}").open()
    assert source.inputs == {"image", "text"}
    assert source[0]["text"] == ["a photo of a traffic light"]


def test_a_flat_folder_has_no_labels(tmp_path, write_image):
    write_image(tmp_path / "1.png")
    record = FolderConfig(path=str(tmp_path), caption_template="a {label}").open()[0]
    assert "label" not in record
    assert "text" not in record


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="no image or audio file below"):
        FolderConfig(path=str(tmp_path)).open()
    with pytest.raises(DataError, match="no such folder"):
        FolderConfig(path=str(tmp_path / "gone")).open()
