"""Tables as people have them: what is read otherwise elsewhere, or ends a run."""

import base64
import datetime
import decimal
import json
import os
import unicodedata

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amodal.data.decode import decode_image
from amodal.data.inspection import inspect
from amodal.data.pack import pack
from amodal.data.record import BrokenRecordError, DataError
from amodal.data.sources.columns import Columns, Reading
from amodal.data.sources.table import TableConfig
from amodal.data.sources.webdataset import WebDatasetConfig


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def opened(folder, name, content=None, *, columns=None, **options):
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return TableConfig(path=str(folder / name), columns=columns or {}, **options).open()


def records(source):
    """Every record, and the reason of every broken one."""
    found = []
    for i in range(len(source)):
        try:
            found.append(source[i])
        except BrokenRecordError as error:
            found.append(error.reason)
    return found


def texts(source):
    return [r if isinstance(r, str) else r["text"] for r in records(source)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# Quotes, delimiters, headers


def test_quotes_in_a_tsv_are_letters_and_swallow_no_row(tmp_path):
    rows = ["plain", '"Stop" says the sign', '"unclosed speech', "lost", 'lost two" end', "last"]
    content = "image\tcaption\n" + "".join(f"{i}.png\t{row}\n" for i, row in enumerate(rows))
    source = opened(tmp_path, "q.tsv", content)
    assert texts(source) == [[row] for row in rows]
    assert source.notes == ()


def test_a_tsv_that_is_quoted_as_csv_is_noted_and_read_so_on_demand(tmp_path):
    content = 'image\tcaption\n0.png\t"she said ""hi"""\n1.png\t"two\n2.png\tlines"\n'
    source = opened(tmp_path, "q.tsv", content)
    (note, *_) = (note for note in source.notes if "quotes: true" in note.what)
    assert note.count == 1
    assert texts(opened(tmp_path, "q.tsv", quotes=True)) == [
        ['she said "hi"'], ["two\n2.png\tlines"],
    ]  # fmt: skip


def test_an_unclosed_quote_in_a_csv_swallows_no_row_and_is_noted(tmp_path):
    rows = ["plain", '"unclosed speech', "lost one", 'the "quoted" one', 'last "bit']
    content = "image,caption\n" + "".join(f"{i}.png,{row}\n" for i, row in enumerate(rows))
    source = opened(tmp_path, "q.csv", content)
    assert texts(source) == [[row] for row in rows]
    (note,) = source.notes
    assert (note.count, "not closed" in note.what) == (1, True)
    assert note.examples[0].endswith("q.csv row 2")


def test_an_unclosed_quote_at_the_end_of_a_csv_is_a_letter(tmp_path):
    assert texts(opened(tmp_path, "q.csv", 'image,caption\n0.png,a\n1.png,"b\n2.png,c\n')) == [
        ["a"], ['"b'], ["c"],
    ]  # fmt: skip


def test_a_quoted_field_with_a_line_break_and_a_delimiter_is_noted(tmp_path):
    content = 'image,caption\n0.png,"open\n1.png,lost\n2.png,close"\n3.png,d\n'
    source = opened(tmp_path, "q.csv", content)
    assert len(source) == 2
    (note,) = source.notes
    assert (note.count, "swallowed" in note.what) == (1, True)
    assert len(opened(tmp_path, "q.csv", quotes=False)) == 4


def test_rows_of_too_many_fields_are_broken_one_by_one(tmp_path):
    source = opened(tmp_path, "r.csv", "image,caption\n0.png,a\n1.png,b,c\n2.png,d\n")
    first, second, third = records(source)
    assert (first["text"], third["text"]) == (["a"], ["d"])
    assert "3 fields, the header has 2" in second
    assert third["origin"].endswith("row 3")
    spare = opened(tmp_path, "s.csv", "image,caption\n0.png,a,,\n1.png,b,,\n")
    assert texts(spare) == [["a"], ["b"]]


def test_rows_of_too_few_fields_are_noted(tmp_path):
    source = opened(tmp_path, "r.csv", "image,caption,place\n0.png,a\n1.png,b,home\n")
    assert [r.get("place") for r in records(source)] == [None, "home"]
    assert "fewer fields" in source.notes[0].what


def test_a_field_longer_than_the_limit_of_the_csv_module_is_read(tmp_path):
    caption = "word " * 40_000
    source = opened(tmp_path, "long.csv", f'image,caption\n0.png,"{caption}"\n')
    assert source[0]["text"] == [caption.strip()]


@pytest.mark.parametrize("said", [r"\t", "\t", "tab"])
def test_a_tab_is_named_as_people_name_it(tmp_path, said):
    assert texts(opened(tmp_path, "t.csv", "image\tcaption\n0.png\ta\n", delimiter=said)) == [["a"]]


@pytest.mark.parametrize("said", ["::", "", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused_in_a_line(said):
    with pytest.raises(ValueError, match="expected one character"):
        TableConfig(path="t.csv", delimiter=said)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_in_the_header_is_found_and_noted(tmp_path, delimiter):
    content = delimiter.join(["image", "caption"]) + "\n" + delimiter.join(["0.png", "a, b"]) + "\n"
    source = opened(tmp_path, "t.csv", content)
    assert texts(source) == [["a, b"]]
    assert repr(delimiter) in source.notes[0].examples


def test_the_first_line_of_excel_names_the_delimiter(tmp_path):
    source = opened(tmp_path, "t.csv", "\ufeffsep=;\r\nimage;caption\r\n0.png;a\r\n")
    assert (texts(source), source.notes) == ([["a"]], ())
    assert source[0]["origin"].endswith("row 1")


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf_8_sig", "utf-16"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, encoding, name):
    text = (
        "image,caption\n0.png,é\n" if name == "t.csv" else lines([{"image": "0", "caption": "é"}])
    )
    content = text.encode("utf-16" if encoding == "utf-16" else "utf-8-sig")
    assert texts(opened(tmp_path, name, content, encoding=encoding)) == [["é"]]


def test_a_table_without_a_header_is_told_so(tmp_path):
    with pytest.raises(DataError, match=r"'0\.png' looks like a cell.*header missing"):
        opened(tmp_path, "t.csv", "0.png,a dog\n1.png,a cat\n")


def test_repeated_and_empty_names_of_columns_lose_no_column(tmp_path):
    source = opened(tmp_path, "t.csv", ",image,caption,place,place\n7,0.png,a,x,y\n")
    record = source[0]
    assert (record["Unnamed: 0"], record["place"], record["place.1"]) == (7, "x", "y")


def test_metadata_whose_names_are_taken_lose_no_column(tmp_path):
    source = opened(tmp_path, "t.csv", "image,caption,text,column_text\n0.png,a,b,c\n")
    record = source[0]
    assert record["text"] == ["a"]
    assert {record["column_text"], record["column_text_"]} == {"b", "c"}


# Types


def test_a_gap_leaves_whole_numbers_whole(tmp_path):
    gap = opened(tmp_path, "gap.csv", "image,caption,zip\n0.png,a,8001\n1.png,b,\n2.png,c,8003\n")
    assert [r.get("zip") for r in records(gap)] == [8001, None, 8003]
    assert {type(r["zip"]) for r in records(gap)} == {int, type(None)}


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["007", "008"], ["007", "008"]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1", "many"], ["1", "many"]),
        (["1.50", "NaN"], [1.5, None]),
        (["True", "false"], [True, False]),
        (["12345678901234567890", "1"], [12345678901234567890, 1]),
        (["12345678901234567890", "1.5"], ["12345678901234567890", "1.5"]),
        (["9" * 4500, "1"], ["9" * 4500, "1"]),
        (["2021-05-01", "1"], ["2021-05-01", "1"]),
    ],
)
def test_metadata_of_a_csv_are_numbers_only_where_nothing_is_lost(tmp_path, cells, read):
    content = "image,caption,n\n" + "".join(f"{i}.png,c,{c}\n" for i, c in enumerate(cells))
    assert [r["n"] for r in records(opened(tmp_path, "t.csv", content))] == read


def test_names_of_a_model_stay_as_they_are_written(tmp_path):
    content = "id,rooms,zip,price,label\n1,3,8001,1.50,1.0\n2,4,,2,0\n"
    columns = Columns(image=None, text=None, id="id")
    reading = Reading(as_written=frozenset({"zip", "price"}), rows_are_items=True)
    (tmp_path / "t.csv").write_text(content)
    config = TableConfig(path=str(tmp_path / "t.csv"), columns=columns).read_as(reading)
    first, second = records(config.open())
    assert (first["zip"], first["price"], first["rooms"]) == ("8001", "1.50", 3)
    assert second["zip"] == ""
    assert (first["id"], first["label"]) == ("1", "1.0")


def test_parts_whose_types_differ_are_widened(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,n,m\na.png,a,1.50,007\n")
    (tmp_path / "b.csv").write_text("caption,image,n,only\nb,b.png,many,7\n")
    first, second = records(opened(tmp_path, "*.csv"))
    assert (first["n"], second["n"], first["m"], second["m"]) == ("1.50", "many", "007", None)
    assert (first["only"], second["only"]) == (None, 7)
    notes = [n for n in opened(tmp_path, "*.csv").notes if "are not in" in n.what]
    assert [n.examples for n in notes] == [("only",), ("m",)]


def test_parquet_parts_of_other_widths_are_one_table(tmp_path):
    for name, kind, text in (
        ("a", pa.int32(), pa.string()),
        ("b", pa.int64(), pa.large_string()),
        ("c", pa.float32(), pa.string()),
    ):
        table = pa.table(
            {
                "image": [f"{name}.png"],
                "caption": pa.array([name], text),
                "n": pa.array([3], kind),
            }
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    found = records(opened(tmp_path, "*.parquet"))
    assert [(r["text"], r["n"]) for r in found] == [(["a"], 3), (["b"], 3), (["c"], 3)]


def test_jsonl_parts_of_other_types_are_one_table(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines([{"image": "a.png", "caption": "a", "n": 1}]))
    (tmp_path / "b.jsonl").write_text(
        lines([{"image": "b.png", "caption": ["b", "c"], "n": 1.5, "tags": {"x": 1}}])
    )
    first, second = records(opened(tmp_path, "*.jsonl"))
    assert (first["text"], second["text"]) == (["a"], ["b", "c"])
    assert (first["n"], second["n"], second["tags"]) == (1.0, 1.5, {"x": 1})


def test_texts_of_a_jsonl_that_look_like_dates_stay_texts(tmp_path):
    rows = [
        {
            "image": f"{i}.png",
            "caption": f"2021-05-0{i}",
            "id": f"2024-05-0{i}",
            "label": "2021-05-01",
        }
        for i in (1, 2)
    ]
    source = opened(tmp_path, "t.jsonl", lines(rows), columns={"id": "id"})
    record = source[0]
    assert (record["id"], record["text"], record["label"]) == (
        "2024-05-01", ["2021-05-01"], "2021-05-01",
    )  # fmt: skip


def test_dates_and_decimals_of_parquet_are_text_and_numbers(tmp_path):
    frame = {
        "image": ["0.png", "1.png"],
        "caption": ["a", "b"],
        "day": [datetime.date(2020, 1, 2), None],
        "when": [datetime.datetime(2020, 1, 2, 3, 4), None],
        "price": [decimal.Decimal("1.50"), decimal.Decimal("2.00")],
    }
    pq.write_table(pa.table(frame), tmp_path / "t.parquet")
    first, second = records(opened(tmp_path, "t.parquet"))
    assert (first["day"], first["when"], first["price"]) == (
        "2020-01-02", "2020-01-02T03:04:00", 1.5,
    )  # fmt: skip
    assert (second["day"], second["when"], second["price"]) == (None, None, 2)
    named = opened(tmp_path, "t.parquet", columns={"id": "day"})
    assert [r["id"] for r in records(named)] == ["2020-01-02", "1.png"]


def test_a_jsonl_whose_types_change_far_down_is_read(tmp_path):
    rows = [{"image": "a.png", "caption": "c", "score": 1, "tag": None} for _ in range(10_500)]
    rows += [{"image": "z.png", "caption": "d", "score": 1.5, "tag": "blue", "new": [1]}]
    source = opened(tmp_path, "late.jsonl", lines(rows))
    assert (source[0]["score"], source[0]["tag"]) == (1.0, None)
    assert (source[1]["score"], source[1]["tag"], source[1]["new"]) == (1.5, "blue", [1])


def test_lines_that_are_no_objects_are_broken_one_by_one(tmp_path):
    first, last = (json.dumps({"image": f"{i}.png", "caption": "a"}) for i in (0, 1))
    wrong = ["{", '"text"', "[" * 100_000, "[1]", f'{{"n": {"9" * 5000}}}']
    source = opened(tmp_path, "t.jsonl", "\n".join([first, *wrong, last]))
    found = texts(source)
    assert (found[0], found[-1]) == (["a"], ["a"])
    assert [f"line {n}: " in reason for n, reason in enumerate(found[1:-1], start=2)] == [True] * 5
    assert "not JSON" in found[1]
    assert "expected an object, got" in found[2]
    assert source[6]["origin"].endswith("t.jsonl row 7")


def test_half_an_emoji_in_a_jsonl_costs_one_letter_and_is_noted(tmp_path):
    content = '{"image": "0.png", "caption": "a dog \\ud83d"}\n{"image": "1.png", "caption": "b"}\n'
    source = opened(tmp_path, "t.jsonl", content)
    assert texts(source) == [["a dog \ufffd"], ["b"]]
    assert "surrogate" in source.notes[0].what


# Captions, labels, media


def test_captions_that_are_objects_are_refused_with_the_field_to_choose(tmp_path):
    structs = [{"image": "0.png", "caption": [{"raw": "a dog", "tokens": ["a", "dog"]}]}]
    (tmp_path / "t.jsonl").write_text(lines(structs))
    pd.DataFrame(structs).to_parquet(tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        with pytest.raises(
            DataError, match=r"objects with raw, tokens.*columns\.text: caption\.raw"
        ):
            opened(tmp_path, name)
        assert texts(opened(tmp_path, name, columns={"text": "caption.raw"})) == [["a dog"]]
        with pytest.raises(DataError, match=r"field 'words' of column 'caption', which has 'raw'"):
            opened(tmp_path, name, columns={"text": "caption.words"})
    both = {"text": ["caption.en", "caption.fr"]}
    content = lines([{"image": "0.png", "caption": {"en": "a dog", "fr": "un chien"}}])
    assert texts(opened(tmp_path, "l.jsonl", content, columns=both)) == [["a dog", "un chien"]]


def test_captions_that_are_lists_of_tokens_are_refused(tmp_path):
    content = lines([{"image": "0.png", "caption": [["a", "dog"], ["a", "cat"]]}])
    with pytest.raises(DataError, match=r"lists of lists, expected text"):
        opened(tmp_path, "t.jsonl", content)


def test_one_caption_that_is_an_object_is_one_broken_row(tmp_path):
    content = lines([{"image": "0", "caption": "a"}, {"image": "1", "caption": {"text": "b"}}])
    first, second = texts(opened(tmp_path, "t.jsonl", content))
    assert first == ["a"]
    assert "holds an object here" in second


def test_captions_and_labels_that_are_bytes_are_decoded(tmp_path):
    rows = {"image": ["0.png", "1.png"], "caption": ["é".encode(), b"\xff"], "label": [b"x", b"x"]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    first, second = records(opened(tmp_path, "t.parquet"))
    assert (first["text"], first["label"]) == (["é"], "x")
    assert "bytes that are not UTF-8" in second


def test_labels_that_say_no_label_are_none(tmp_path):
    names = datasets.ClassLabel(names=["cat", "dog"])
    rows = {
        "image": [f"{i}.png" for i in range(3)],
        "caption": ["a", "b", "c"],
        "one": [-1, 0, 1],
        "real": [float("nan"), 1.0, 2.5],
        "several": [[0, 1], [], [1]],
        "empty": ["", " ", "x"],
    }
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "image": text,
            "caption": text,
            "one": names,
            "real": datasets.Value("float64"),
            "several": datasets.List(names),
            "empty": text,
        }
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")

    def labels(column):
        source = opened(tmp_path, "t.parquet", columns={"label": column})
        return [record.get("label") for record in records(source)]

    assert labels("one") == [None, "cat", "dog"]
    assert labels("real") == [None, "1", "2.5"]
    assert labels("several") == [["cat", "dog"], None, "dog"]
    assert labels("empty") == [None, None, "x"]


def test_parquet_parts_that_number_their_classes_differently_are_refused(tmp_path):
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        features = datasets.Features(
            {
                "image": datasets.Value("string"),
                "caption": datasets.Value("string"),
                "label": datasets.ClassLabel(names=classes),
            }
        )
        rows = {"image": ["0.png"], "caption": ["a"], "label": [0]}
        made = datasets.Dataset.from_dict(rows, features=features)
        made.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="numbers other classes"):
        opened(tmp_path, "*.parquet")


def test_images_as_base64_are_decoded_and_other_long_texts_refused_in_a_line(tmp_path, write_image):
    content = write_image(tmp_path / "x.png").read_bytes()
    plain = base64.b64encode(content).decode()
    rows = [
        {"image": plain},
        {"image": f"data:image/png;base64,{plain}"},
        {"image": base64.urlsafe_b64encode(content).decode()},
        {"image": "x" * 80_000},
    ]
    *good, bad = records(opened(tmp_path, "t.jsonl", lines(rows), columns={"text": None}))
    for record in good:
        assert decode_image(record["image"], "here").shape == (16, 20, 3)
    assert "80,000 letters" in bad
    assert len(bad) < 250
    nested = lines([{"image": {"bytes": plain, "path": None}}])
    record = opened(tmp_path, "n.jsonl", nested, columns={"text": None})[0]
    assert decode_image(record["image"], "here").shape == (16, 20, 3)


def test_paths_of_another_system_lead_to_their_files(tmp_path, write_image):
    (tmp_path / "images").mkdir()
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    write_image(tmp_path / "images" / "a.png")
    write_image(tmp_path / "images" / decomposed)
    content = f"image,caption\nimages\\a.png,a\nimages/{composed},b\nimages\\{composed},c\n"
    found = records(opened(tmp_path, "t.csv", content))
    for record in found:
        assert decode_image(record["image"], "here").shape == (16, 20, 3)
    assert found[0]["id"] == "images\\a.png"


def test_paths_below_the_working_directory_are_told_from_those_below_the_table(
    tmp_path, write_image, monkeypatch
):
    (tmp_path / "data").mkdir()
    write_image(tmp_path / "data" / "a.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "t.csv").write_text("image,caption\ndata/a.png,a\n")
    with pytest.raises(DataError, match=r"'data/a\.png' is no file below data.*root: \."):
        TableConfig(path="data/t.csv").open()
    assert TableConfig(path="data/t.csv", root=".").open()[0]["image"] == "data/a.png"


# Which rows are one item

PLACEHOLDER = """photo,text,rooms,price
0.png,flat,2,10
5.png,house,3,20
5.png,villa,9,99
5.png,villa,9,99
"""
PRODUCTS = "sku,image,caption\nA,0.png,red shoe\nA,1.png,side\nA,0.png,front\nB,3.png,hat\n"


def test_rows_of_a_fusion_that_share_an_image_are_items_of_their_own(tmp_path):
    columns = Columns(image="photo", text="text", empty_cells="missing")
    (tmp_path / "t.csv").write_text(PLACEHOLDER)
    config = TableConfig(path=str(tmp_path / "t.csv"), columns=columns)
    for source in (config.open(), config.read_as(Reading(rows_are_items=True)).open()):
        found = records(source)
        assert [r["price"] for r in found] == [10, 20, 99, 99]
        assert found[0]["id"] == "0.png"
        assert [r["id"] for r in found[1:]] == [f"{tmp_path / 't.csv'} row {i}" for i in (2, 3, 4)]
        assert [note.count for note in source.notes] == [3]


def test_rows_merged_by_their_image_are_counted_with_the_columns_they_lose(tmp_path):
    columns = Columns(image="photo", text="text")
    source = opened(tmp_path, "t.csv", PLACEHOLDER, columns=columns)
    assert texts(source) == [["flat"], ["house", "villa", "villa"]]
    (note,) = source.notes
    assert (note.count, "'rooms' and 'price'" in note.what) == (2, True)
    assert note.examples == tuple(f"{tmp_path / 't.csv'} row {i}" for i in (3, 4))


def test_several_images_of_one_id_are_several_items_of_that_id(tmp_path):
    source = opened(tmp_path, "t.csv", PRODUCTS, columns={"id": "sku"})
    found = records(source)
    assert [(r["id"], os.path.basename(r["image"]), r["text"]) for r in found] == [
        ("A", "0.png", ["red shoe", "front"]),
        ("A", "1.png", ["side"]),
        ("B", "3.png", ["hat"]),
    ]
    assert [note.count for note in source.notes] == [1]


def test_an_image_that_only_one_row_of_an_id_names_is_that_of_all(tmp_path):
    content = "sku,image,caption\nA,,front\nA,0.png,side\nA,,back\n"
    (record,) = records(opened(tmp_path, "t.csv", content, columns={"id": "sku"}))
    assert record["text"] == ["side", "front", "back"]
    assert record["image"].endswith("0.png")


def test_rows_of_one_image_with_different_labels_are_items_of_that_image(tmp_path):
    content = "image,caption,label\n0.png,a,cat\n0.png,b,dog\n0.png,c,cat\n"
    found = records(opened(tmp_path, "t.csv", content))
    assert [(r["id"], r["label"], r["text"]) for r in found] == [
        ("0.png", "cat", ["a", "c"]), ("0.png", "dog", ["b"]),
    ]  # fmt: skip


def test_file_contents_of_one_id_are_compared_byte_for_byte(tmp_path, write_image):
    one = write_image(tmp_path / "x.png", seed=1).read_bytes()
    two = write_image(tmp_path / "y.png", seed=2).read_bytes()
    rows = {"id": ["A"] * 3, "image": [one, two, one], "caption": ["a", "b", "c"]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    assert texts(opened(tmp_path, "t.parquet", columns={"id": "id"})) == [["a", "c"], ["b"]]


def test_several_classes_of_an_item_are_counted_each_and_survive_packing(tmp_path, write_image):
    write_image(tmp_path / "0.png")
    rows = [{"image": "0.png", "caption": "a", "label": ["cat", "dog"]}]
    source = opened(tmp_path, "t.jsonl", lines(rows))
    assert inspect(source).labels == {"cat": 1, "dog": 1}
    pack(source, tmp_path / "shards")
    (record,) = WebDatasetConfig(path=f"{tmp_path}/shards/*.tar").open()
    assert record["label"] == ["cat", "dog"]
