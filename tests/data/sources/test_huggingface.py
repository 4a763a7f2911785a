"""Data sets of Hugging Face, whole and streamed, without a network."""

import gzip
import json

import datasets
import pytest

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Source, StreamingSource
from amodal.data.sources.columns import Columns
from amodal.data.sources.huggingface import HuggingFaceConfig


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def made(tmp_path, write_image):
    files = [str(write_image(tmp_path / f"{i}.png", seed=i)) for i in range(3)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "key": datasets.Value("string"),
        }
    )
    rows = {
        "image": files,
        "caption": ["a", "", "c"],
        "label": [1, 0, 0],
        "key": ["x", "y", "x"],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_dataset_is_read_with_class_names(tmp_path, made):
    made.save_to_disk(tmp_path / "saved")
    source = HuggingFaceConfig(path=str(tmp_path / "saved")).open()
    assert isinstance(source, Source)
    assert [source[i]["label"] for i in (0, 2)] == ["dog", "cat"]
    assert decode_image(source[0]["image"], source[0]["origin"]).shape == (16, 20, 3)
    with pytest.raises(BrokenRecordError, match="row 2: the caption is empty"):
        source[1]


def same_image(made):
    return made.remove_columns("label").map(lambda row: {"image": made[0]["image"]})


def test_rows_are_grouped_by_id(tmp_path, made):
    made = same_image(made)
    made.save_to_disk(tmp_path / "saved")
    columns = Columns(id="key")
    source = HuggingFaceConfig(path=str(tmp_path / "saved"), columns=columns).open()
    assert len(source) == 2
    assert source[0]["text"] == ["a", "c"]


def test_rows_of_one_id_with_different_images_are_items_of_the_same_id(tmp_path, made):
    made.save_to_disk(tmp_path / "saved")
    source = HuggingFaceConfig(path=str(tmp_path / "saved"), columns=Columns(id="key")).open()
    assert [source[i]["id"] for i in (0, 2)] == ["x", "x"]
    assert [source[i]["text"] for i in (0, 2)] == [["a"], ["c"]]
    (note,) = source.notes
    assert note.what.startswith("rows with the 'key' of an earlier row that differ")
    assert (note.count, note.examples[0].endswith("row 3")) == (1, True)


def test_grouping_follows_a_selection_of_rows(tmp_path, made):
    made = same_image(made).select([2, 1, 0])
    made.save_to_disk(tmp_path / "saved")
    columns = Columns(id="key")
    source = HuggingFaceConfig(path=str(tmp_path / "saved"), columns=columns).open()
    assert source[0]["text"] == ["c", "a"]


def test_splits_of_a_saved_dataset_are_named(tmp_path, made):
    datasets.DatasetDict({"test": made}).save_to_disk(tmp_path / "saved")
    assert len(HuggingFaceConfig(path=str(tmp_path / "saved"), split="test").open()) == 3
    with pytest.raises(DataError, match="no split 'train', there are test"):
        HuggingFaceConfig(path=str(tmp_path / "saved")).open()


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_reads_a_local_folder_whole_or_as_a_stream(tmp_path, made, streaming):
    (tmp_path / "local").mkdir()
    made.to_parquet(tmp_path / "local" / "train.parquet")
    source = HuggingFaceConfig(path=str(tmp_path / "local"), streaming=streaming).open()
    assert source.inputs >= {"image", "text"}
    if streaming:
        assert isinstance(source, StreamingSource)
        assert not isinstance(source, Source)
        first, error, third = source
        assert isinstance(error, BrokenRecordError)
        assert error.origin.endswith("row 2")
    else:
        first, third = source[0], source[2]
    assert (first["text"], first["label"], third["label"]) == (["a"], "dog", "cat")
    assert decode_image(first["image"], first["origin"]).shape == (16, 20, 3)


def test_a_missing_column_is_named_before_reading(tmp_path, made):
    (tmp_path / "local").mkdir()
    made.to_parquet(tmp_path / "local" / "train.parquet")
    for streaming in (False, True):
        config = HuggingFaceConfig(
            path=str(tmp_path / "local"), streaming=streaming, columns=Columns(text="captoin")
        )
        with pytest.raises(DataError, match="nearest is 'caption'"):
            config.open()


def test_what_cannot_be_loaded_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded"):
        HuggingFaceConfig(path=str(tmp_path / "nothing here")).open()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    with pytest.raises(DataError, match="cannot be loaded"):
        HuggingFaceConfig(path=str(tmp_path / "code")).open()
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="group_by"):
        HuggingFaceConfig(path="x", streaming=True, group_by="y")


AS_WRITTEN = [
    {"id": "2024-05-01", "caption": "2024-05-01T10:00:00Z"},
    {"id": "007", "caption": "12"},
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_texts_of_local_files_that_look_like_dates_and_numbers_stay_texts(
    tmp_path, suffix, streaming
):
    folder = tmp_path / "local"
    folder.mkdir()
    if suffix in ("csv", "tsv"):
        rows = [["id", "caption"], *([row["id"], row["caption"]] for row in AS_WRITTEN)]
        text = "\n".join(("," if suffix == "csv" else "\t").join(row) for row in rows)
    else:
        lines = list(map(json.dumps, AS_WRITTEN))
        text = "\n".join(lines) if suffix == "jsonl" else f"[{', '.join(lines)}]"
    for split in ("train", "test"):
        (folder / f"{split}.{suffix}").write_text(text + "\n")
    columns = Columns(image=None, id="id")
    source = HuggingFaceConfig(
        path=str(folder), split="test", columns=columns, streaming=streaming
    ).open()
    found = [{"id": source[i]["id"], "caption": source[i]["text"]} for i in range(len(source))]
    assert found == [{"id": row["id"], "caption": [row["caption"]]} for row in AS_WRITTEN]
    assert source[0]["origin"].startswith(str(folder)) or "test" in source[0]["origin"]


def test_local_text_files_that_the_table_reader_does_not_take_are_refused(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "train.jsonl").write_text(json.dumps(AS_WRITTEN[0]) + "\n")
    with pytest.raises(DataError, match=r"expected a split of train, got 'train\[:10%\]'"):
        HuggingFaceConfig(path=str(tmp_path / "local"), split="train[:10%]").open()
    (tmp_path / "packed").mkdir()
    with gzip.open(tmp_path / "packed" / "train.jsonl.gz", "wt") as file:
        file.write(json.dumps(AS_WRITTEN[0]) + "\n")
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: expected .*decompress it"):
        HuggingFaceConfig(path=str(tmp_path / "packed")).open()
