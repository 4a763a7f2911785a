"""Class folders: the folder is the label."""

import os

import pytest

from amodal.data.decode import decode_image
from amodal.data.inspection import inspect
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.sources.folder import FolderConfig
from amodal.data.sources.specification import open_source, parse_source


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


def test_a_folder_without_images_gives_its_videos_and_one_without_videos_its_audio(tmp_path):
    for name in ("jump/1.mp4", "jump/2.WEBM", "run/3.mov", "run/4.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "jump" / "1.txt").write_text("a dog jumps\nit jumps high\n")
    source = parse_source(str(tmp_path)).open()
    assert source.inputs == {"video", "text"}
    records = [source[i] for i in range(len(source))]
    assert [record["id"] for record in records] == ["jump/1.mp4", "jump/2.WEBM", "run/3.mov"]
    assert records[0]["text"] == ["a dog jumps", "it jumps high"]
    assert records[2]["video"] == str(tmp_path / "run" / "3.mov")
    assert [str(note) for note in source.notes if "4.wav" in str(note)]
    for record in records:
        os.remove(record["video"])
    assert "audio" in parse_source(str(tmp_path)).open().inputs


def test_a_flat_folder_has_no_labels(tmp_path, write_image):
    write_image(tmp_path / "1.png")
    record = FolderConfig(path=str(tmp_path), caption_template="a {label}").open()[0]
    assert "label" not in record
    assert "text" not in record


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="no image, video or audio file below"):
        FolderConfig(path=str(tmp_path)).open()
    with pytest.raises(DataError, match="no such folder"):
        FolderConfig(path=str(tmp_path / "gone")).open()


def opened(folder, **options):
    return FolderConfig(path=str(folder), **options).open()


def ids(source):
    return [source[i]["id"] for i in range(len(source))]


def test_files_of_other_suffixes_are_read_or_counted_by_kind(tmp_path, write_image):
    jpeg = write_image(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cat").mkdir()
    for name in ("1.jfif", "1.jpe", "UP.JPG"):
        (tmp_path / "cat" / name).write_bytes(jpeg)
    for name in ("1.ppm", "1.pgm", "2.pgm", "noext", ".hidden.jpg", ".DS_Store", "1.mp3"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    source = opened(tmp_path)
    assert ids(source) == ["a.jpg", "cat/1.jfif", "cat/1.jpe", "cat/UP.JPG"]
    (note,) = source.notes
    assert str(note) == (
        "files that are not read: 6 (.pgm 2, such as cat/1.pgm; .mp3 1, such as cat/1.mp3; "
        ".ppm 1, such as cat/1.ppm; hidden 1, such as cat/.hidden.jpg; no suffix 1, such as "
        "cat/noext)"
    )
    found = inspect(source)
    assert (found.items, found.broken) == (4, 0)
    assert [str(n) for n in found.notes] == [str(note)]


def test_hidden_folders_are_no_classes(tmp_path, write_image):
    for name in (
        "cat/0.jpg",
        "dog/0.jpg",
        "dog/.ipynb_checkpoints/0-checkpoint.jpg",
        ".Trash-1000/t.jpg",
        ".ipynb_checkpoints/x.jpg",
        "@eaDir/0.jpg",
        "__MACOSX/cat/._0.jpg",
    ):
        write_image(tmp_path / name)
    source = opened(tmp_path)
    assert ids(source) == ["cat/0.jpg", "dog/0.jpg"]
    (note,) = source.notes
    assert (note.what, note.count) == ("hidden folders that are not read", 5)
    assert "dog/.ipynb_checkpoints" in note.examples


def test_linked_class_folders_are_read_and_circles_end(tmp_path, write_image):
    write_image(tmp_path / "elsewhere" / "0.png")
    write_image(tmp_path / "elsewhere" / "deep" / "1.png")
    write_image(tmp_path / "pics" / "cat" / "2.png")
    (tmp_path / "pics" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "pics")
    (tmp_path / "pics" / "self").symlink_to(tmp_path / "pics" / "self")
    (tmp_path / "pics" / "again").symlink_to(tmp_path / "pics" / "cat")
    source = opened(tmp_path / "pics")
    assert ids(source) == ["cat/2.png", "dog/0.png", "dog/deep/1.png"]
    assert [source[i]["label"] for i in range(3)] == ["cat", "dog", "dog"]
    notes = {note.what: note for note in source.notes}
    assert notes["links to folders that are read elsewhere, which are not followed"].examples == (
        "again",
        "dog/up",
    )
    assert parse_source(str(tmp_path / "pics")) == FolderConfig(path=str(tmp_path / "pics"))


def test_a_folder_that_cannot_be_read_is_noted(tmp_path, write_image, monkeypatch):
    write_image(tmp_path / "cat" / "0.png")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("amodal.data.sources.files_below.os.scandir", refuse)
    (note,) = opened(tmp_path).notes
    assert str(note) == "folders that cannot be read: 1 (closed: Permission denied)"


def test_captions_beside_the_images_are_read(tmp_path, write_image):
    for i in range(3):
        write_image(tmp_path / f"{i}.jpg")
        (tmp_path / f"{i}.txt").write_text(f"a dog {i}\n\nthe dog {i}\n", encoding="utf-8")
    write_image(tmp_path / "3.jpg")
    write_image(tmp_path / "4.jpg")
    (tmp_path / "4.caption").write_bytes(b"\xef\xbb\xbfa cat")
    source = opened(tmp_path)
    assert source.inputs == {"image", "text"}
    assert source[1]["text"] == ["a dog 1", "the dog 1"]
    assert source[4]["text"] == ["a cat"]
    assert "text" not in source[3]
    (note,) = source.notes
    assert str(note) == "files without a caption beside them: 1 (3.jpg)"
    (tmp_path / "0.txt").write_bytes(b"caf\xe9")
    (tmp_path / "1.txt").write_text("\n")
    with pytest.raises(BrokenRecordError, match="not UTF-8 at byte 3"):
        source[0]
    with pytest.raises(BrokenRecordError, match="the caption is empty"):
        source[1]
    given = opened(tmp_path, caption_template="a photo")
    assert given[2]["text"] == ["a photo"]
    assert given.notes[0].count == 4


def test_coordinates_beside_the_images_are_no_captions(tmp_path, write_image):
    write_image(tmp_path / "0.jpg")
    (tmp_path / "0.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    source = opened(tmp_path)
    assert source.inputs == {"image"}
    assert "without words" in source.notes[0].what


def test_a_table_beside_the_images_is_named_with_the_command_that_reads_it(tmp_path, write_image):
    write_image(tmp_path / "table" / "images" / "0.jpg")
    (tmp_path / "table" / "captions.csv").write_text("image,caption\nimages/0.jpg,a\n")
    write_image(tmp_path / "meta" / "0.jpg")
    (tmp_path / "meta" / "metadata.csv").write_text("file_name,text\n0.jpg,a dog\n")
    (note,) = parse_source(str(tmp_path / "table")).open().notes
    assert f"captions.csv: amodal data inspect {tmp_path}/table/captions.csv" in str(note)
    (note,) = parse_source(str(tmp_path / "meta")).open().notes
    word = f"table:path={tmp_path}/meta/metadata.csv,columns={{image: file_name, text: text}}"
    assert f"amodal data inspect '{word}'" in str(note)
    assert parse_source(word).open()[0]["text"] == ["a dog"]


def test_a_file_name_in_latin_1_is_one_broken_row(tmp_path, write_image):
    write_image(tmp_path / "cat" / "0.png")
    try:
        (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    source = opened(tmp_path)
    assert ids(source) == ["cat/0.png"]
    (error,) = source.broken_rows
    assert error.origin.encode().endswith(b"caf\\xe9.png")
    assert "not UTF-8" in error.reason
    assert inspect(source).broken == 1


def test_a_label_that_fills_the_captions_is_one_caption(tmp_path, write_image):
    write_image(tmp_path / "traffic_light" / "0.png")
    source = open_source(FolderConfig(path=str(tmp_path), columns={"text": "label"}))
    assert source[0]["text"] == ["traffic_light"]


def test_a_folder_without_images_says_what_is_there(tmp_path):
    (tmp_path / "a.ppm").touch()
    with pytest.raises(DataError, match=r"not read: 1 \(\.ppm 1, such as a\.ppm\)"):
        opened(tmp_path)
