"""Tables in four formats give the same records, and say which file and row is wrong."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.sources.columns import Columns
from amodal.data.sources.table import TableConfig

ROWS = [
    {"image": "a.png", "caption": "a dog", "views": 3, "place": "park"},
    {"image": "b.png", "caption": "一只猫，在家", "views": 5, "place": "home"},
    {"image": "a.png", "caption": "a dog, running", "views": 3, "place": "park"},
]


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, suffix, rows=ROWS):
    file = folder / f"rows.{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == "parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if suffix == "tsv" else ",")
    return str(file)


def table(path, *, image="image", text="caption", id=None, label=None, **options):
    columns = Columns(image=image, text=text, id=id, label=label)
    return TableConfig(path=path, columns=columns, **options).open()


def text_file(folder, content, name="rows.csv", encoding="utf-8"):
    (folder / name).write_bytes(content.encode(encoding))
    return str(folder / name)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_of_one_image_are_one_item_with_many_captions(tmp_path, suffix, write_image):
    write_image(tmp_path / "a.png")
    source = table(write(tmp_path, suffix))
    assert isinstance(source, Source)
    assert len(source) == 2
    first, second = source[0], source[1]
    assert first["text"] == ["a dog", "a dog, running"]
    assert second["text"] == ["一只猫，在家"]
    assert (first["id"], first["views"], first["place"]) == ("a.png", 3, "park")
    assert first["origin"].endswith(f"rows.{suffix} row 1")
    assert decode_image(first["image"], first["origin"]).shape == (16, 20, 3)
    with pytest.raises(BrokenRecordError, match=rf"rows\.{suffix} row 2: no such image file"):
        decode_image(second["image"], second["origin"])
    with pytest.raises(IndexError):
        source[2]


def test_an_id_groups_rows_and_names_the_item(tmp_path):
    rows = [{**row, "key": key} for row, key in zip(ROWS, ("007", "008", "008"), strict=True)]
    source = table(write(tmp_path, "csv", rows), image=None, id="key")
    assert [source[i]["id"] for i in range(2)] == ["007", "008"]
    assert [len(source[i]["text"]) for i in range(2)] == [1, 2]


def test_group_by_names_another_column(tmp_path):
    source = table(write(tmp_path, "jsonl"), group_by="views")
    assert [source[i]["id"] for i in range(len(source))] == ["3", "5"]


def test_several_caption_columns_give_several_captions(tmp_path):
    rows = [
        {"image": "a.png", "one": "a dog", "two": ""},
        {"image": "b.png", "one": "x", "two": "y"},
    ]
    source = table(write(tmp_path, "csv", rows), text=("one", "two"))
    assert [source[i]["text"] for i in range(2)] == [["a dog"], ["x", "y"]]
    assert source.broken_rows == ()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_of_lists_gives_several_captions(tmp_path, suffix):
    rows = [{"image": "a.png", "caption": ["x", " ", "y"]}, {"image": "b.png", "caption": []}]
    source = table(write(tmp_path, suffix, rows))
    assert source[0]["text"] == ["x", "y"]
    with pytest.raises(BrokenRecordError, match="row 2: the caption is empty"):
        source[1]


def test_image_contents_may_lie_in_the_table(tmp_path, write_image):
    content = write_image(tmp_path / "x.png").read_bytes()
    rows = [{"image": content, "caption": "a"}, {"image": content, "caption": "b"}]
    source = table(write(tmp_path, "parquet", rows))
    assert len(source) == 2
    assert source[1]["id"].endswith("row 2")
    assert decode_image(source[1]["image"], "here").shape == (16, 20, 3)


def test_images_of_the_hugging_face_form_stay_undecoded(tmp_path, write_image):
    file = write_image(tmp_path / "x.png")
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"image": [str(file)], "caption": ["a"]}, features=features)
    made.to_parquet(tmp_path / "rows.parquet")
    record = table(str(tmp_path / "rows.parquet"))[0]
    assert not hasattr(record["image"], "size")
    assert decode_image(record["image"], "here").shape == (16, 20, 3)


def test_words_that_look_like_numbers_or_nothing_stay_words(tmp_path):
    path = text_file(tmp_path, "image,caption,score\n1,123,\n2,None,1.5\n3,NA,2\n4,true,\n")
    source = table(path)
    assert [source[i]["text"] for i in range(4)] == [["123"], ["None"], ["NA"], ["true"]]
    assert source[0]["id"] == "1"
    assert source[1]["score"] == 1.5


def test_a_column_that_changes_its_type_far_down_is_read_as_text(tmp_path):
    lines = [f"{i}.png,c {i},{i}" for i in range(10_050)] + ["x.png,last,many"]
    source = table(text_file(tmp_path, "image,caption,n\n" + "\n".join(lines)))
    assert len(source) == 10_051
    assert source[10_050]["n"] == "many"


def test_quotes_delimiters_and_byte_order_marks_are_understood(tmp_path):
    path = text_file(tmp_path, '\ufeffimage;caption\na.png;"one; two\nthree"\n')
    assert table(path, delimiter=";")[0]["text"] == ["one; two\nthree"]


def test_several_tables_are_one_source_and_each_has_its_folder(tmp_path, write_image):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "csv")
    write_image(tmp_path / "y" / "b.png")
    source = table(str(tmp_path / "*" / "rows.csv"))
    assert len(source) == 4
    assert len({source[i]["id"] for i in range(4)}) == 4
    assert source[3]["origin"] == f"{tmp_path / 'y' / 'rows.csv'} row 2"
    assert decode_image(source[3]["image"], "here").shape == (16, 20, 3)
    together = table(
        (str(tmp_path / "x" / "rows.csv"), str(tmp_path / "y" / "rows.csv")), root=str(tmp_path)
    )
    assert len(together) == 2
    assert together[0]["text"] == ["a dog", "a dog, running"] * 2


def test_an_empty_caption_names_file_and_row(tmp_path):
    source = table(text_file(tmp_path, "image,caption\na.png,\nb.png,b\nb.png,   \n"))
    with pytest.raises(BrokenRecordError, match=r"rows\.csv row 1: the caption is empty"):
        source[0]
    assert source[1]["text"] == ["b"]
    (lost,) = source.broken_rows
    assert lost.origin.endswith("rows.csv row 3")


def test_rows_without_an_image_are_broken_one_by_one(tmp_path):
    source = table(text_file(tmp_path, "image,caption\n,a\nb.png,b\n,c\n"))
    assert len(source) == 3
    for item, row in ((0, 1), (2, 3)):
        with pytest.raises(BrokenRecordError, match=rf"rows\.csv row {row}: no image"):
            source[item]


def test_a_table_may_have_one_modality_only(tmp_path):
    path = write(tmp_path, "csv")
    assert "image" in table(path, text=None).inputs
    words = table(path, image=None)
    assert "text" in words.inputs
    assert "image" not in words.inputs
    assert len(words) == 3
    assert "text" not in table(path, text=None)[0]


def test_labels_and_names_that_are_taken(tmp_path):
    path = text_file(tmp_path, "image,caption,label,text,id\na.png,a,3,note,9\n")
    record = table(path)[0]
    assert record["label"] == "3"
    assert record["text"] == ["a"]
    assert (record["column_text"], record["column_id"]) == ("note", 9)
    assert table(path, label="text")[0]["label"] == "note"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_missing_column_names_the_nearest(tmp_path, suffix):
    path = write(tmp_path, suffix)
    with pytest.raises(
        DataError, match=r"rows\..*no column 'captions'.*nearest is 'caption'.*text"
    ):
        table(path, text="captions")
    with pytest.raises(DataError, match=r"group_by"):
        table(path, group_by="nothing")


def test_another_encoding_is_named_by_byte_and_line(tmp_path):
    text = "image,caption\na.png,plain\nb.png,café\n"
    path = text_file(tmp_path, text, encoding="cp1252")
    place = text.index("é")
    with pytest.raises(DataError, match=rf"rows\.csv: not utf-8 at byte {place} \(line 3\).*iconv"):
        table(path)
    assert table(path, encoding="cp1252")[1]["text"] == ["café"]
    wide = text_file(tmp_path, text, "wide.csv", encoding="utf-16")
    with pytest.raises(DataError, match=r"wide\.csv: not utf-8 at byte 0.*encoding: utf-16"):
        table(wide)
    assert table(wide, encoding="utf-16")[1]["text"] == ["café"]
    with pytest.raises(DataError, match="unknown encoding"):
        table(path, encoding="klingon")


def test_a_wrong_byte_far_into_the_file_is_placed_exactly(tmp_path):
    line = "a.png,é\n".encode()
    content = b"image,caption\n" + line * 300_000 + b"\xe9 alone\n"
    (tmp_path / "rows.csv").write_bytes(content)
    place = content.rindex(b"\xe9 alone")
    with pytest.raises(DataError, match=rf"byte {place} \(line 300002\)"):
        table(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.csv",
            "image,caption\na.png,a,b\n",
            r"row 1 has 3 fields, the header 2.*needs quotes",
        ),
        ("rows.csv", "", "empty"),
        ("rows.csv", "\n\n", "no header"),
        ("rows.csv", "image,caption\n", "a header and no rows"),
        ("rows.jsonl", '{"image": "a.png"\n', r"rows\.jsonl: cannot be read as a table"),
        ("rows.parquet", "not parquet", r"rows\.parquet: not a Parquet file"),
        ("rows.xlsx", "x", r"rows\.xlsx: not an Excel workbook"),
        ("rows.xls", "x", r"rows\.xls: expected a file that ends in \.csv"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        table(text_file(tmp_path, content, name))


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(DataError, match="no such table"):
        table(str(tmp_path / "*.csv"))


def test_reading_changes_after_the_file_does(tmp_path):
    path = text_file(tmp_path, "image,caption\na.png,old\n")
    assert table(path)[0]["text"] == ["old"]
    text_file(tmp_path, "image,caption\na.png,newer\n")
    assert table(path)[0]["text"] == ["newer"]


def test_a_source_survives_pickling(tmp_path):
    import pickle

    source = pickle.loads(pickle.dumps(table(write(tmp_path, "csv"))))
    assert source[0]["text"] == ["a dog", "a dog, running"]


def test_grouping_agrees_with_a_dictionary(tmp_path):
    g = np.random.default_rng(0)
    rows = [{"image": f"{g.integers(40)}.png", "caption": f"c{i}"} for i in range(500)]
    source = table(write(tmp_path, "csv", rows))
    want: dict[str, list[str]] = {}
    for row in rows:
        want.setdefault(row["image"], []).append(row["caption"])
    got = {source[i]["id"]: source[i]["text"] for i in range(len(source))}
    assert list(got.items()) == list(want.items())


def test_a_column_of_sounds_gives_paths_below_the_table_and_an_empty_cell_no_sound(tmp_path):
    rows = [
        {"file": "a.flac", "digit": 3, "speaker": "george"},
        {"file": "", "digit": 4, "speaker": "lucas"},
    ]
    columns = Columns(image=None, text=None, audio="file", label="digit")
    source = TableConfig(path=write(tmp_path, "csv", rows), columns=columns).open()
    assert source.inputs == {"audio", "speaker"}
    first, second = source[0], source[1]
    assert first["audio"] == str(tmp_path / "a.flac")
    assert (first["id"], first["label"], first["speaker"]) == ("a.flac", "3", "george")
    assert "audio" not in second
    assert second["label"] == "4"


def test_a_table_without_media_is_a_table_of_columns(tmp_path):
    rows = [{"age": 31, "city": "Bern", "label": "yes"}, {"age": 9, "city": "Ulm", "label": "no"}]
    source = TableConfig(
        path=write(tmp_path, "csv", rows), columns=Columns(image=None, text=None)
    ).open()
    assert source.inputs == {"age", "city"}
    assert (source[1]["age"], source[1]["city"], source[1]["label"]) == (9, "Ulm", "no")


def test_an_empty_cell_can_be_a_missing_value(tmp_path, write_image):
    write_image(tmp_path / "a.png")
    file = tmp_path / "rows.csv"
    file.write_text("key,image,caption,age\n1,a.png,,3\n2,,words,4\n3,,,5\n")
    columns = {"id": "key", "empty_cells": "missing"}
    source = TableConfig(path=str(file), columns=columns).open()
    records = [source[i] for i in range(3)]
    assert [sorted({"image", "text"} & record.keys()) for record in records] == [
        ["image"], ["text"], [],
    ]  # fmt: skip
    assert [record["age"] for record in records] == [3, 4, 5]
    refused = TableConfig(path=str(file), columns={"id": "key"}).open()
    with pytest.raises(BrokenRecordError, match=r"columns\.empty_cells: missing"):
        refused[2]


def test_columns_are_written_as_they_were_given():
    given = {"scene": "picture_of_scene", "notes": ["a", "b"], "text": None}
    columns = Columns.model_validate(given)
    assert columns.others == {"scene": "picture_of_scene", "notes": ("a", "b")}
    written = columns.model_dump(mode="json")
    assert written == given
    assert Columns.model_validate(written) == columns
