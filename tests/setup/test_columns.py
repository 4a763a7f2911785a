"""What a column holds, by its values."""

import numpy as np
import pytest

from amodal.setup.columns import Column, columns_of_records, media_type

ROWS = range(40)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([f"photos/{i}.JPG" for i in ROWS], "files"),
        ([f"{i}.flac" for i in ROWS], "files"),
        ([f"clips/{i}.MOV" for i in ROWS], "files"),
        ([{"bytes": b"\x89PNG\r\n\x1a\n", "path": None} for _ in ROWS], "files"),
        ([str(i / 2) for i in ROWS], "numbers"),
        (list(ROWS), "numbers"),
        ([f"a dog and {i} cats" for i in ROWS], "sentences"),
        ([[f"a dog and {i} cats", "another text of it"] for i in ROWS], "sentences"),
        (["雪地里的一只黑狗" for _ in ROWS], "sentences"),
        ([("red", "green")[i % 2] for i in ROWS], "categories"),
        ([i % 2 == 0 for i in ROWS], "categories"),
        ([f"item-{i}" for i in ROWS], "names"),
        ([{"raw": "a"} for _ in ROWS], "objects"),
        ([], "nothing"),
    ],
)
def test_the_kind_of_a_column(values, kind):
    assert Column("x", values, 0).kind == kind


def test_a_caption_that_mentions_a_file_does_not_make_a_column_of_files():
    values = ["see a.jpg", *(f"a dog and {i} cats" for i in ROWS)]
    assert Column("x", values, 0).kind == "sentences"


def test_media_are_known_by_their_first_bytes():
    assert media_type(b"\xff\xd8\xff\xe0") == "image"
    assert media_type({"bytes": None, "path": "a.wav"}) == "audio"
    assert media_type(b"no image") is None
    assert media_type("clips/1.webm") == "video"


def test_records_give_their_inputs_and_metadata_but_no_second_path():
    pixels = np.zeros((4, 4, 3), np.uint8)
    records = [
        {"id": f"{i}.jpg", "origin": "x", "image": pixels, "file_name": f"{i}.jpg", "n": i}
        for i in ROWS
    ]
    found = columns_of_records(records, {"image"})
    assert [(column.name, column.kind) for column in found] == [
        ("image", "files"),
        ("n", "numbers"),
    ]


def test_share_of_files_counts_those_below_the_folder(tmp_path):
    (tmp_path / "0.jpg").touch()
    column = Column("image", ["0.jpg", "1.jpg", "\0.jpg", "x" * 5000], 0)
    assert column.share_of_files(tmp_path) == 0.25
