"""From sources to rows, Parquet and indexes: nothing twice, nothing lost, broken ones named."""

import io
import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from amodal.data.record import BrokenRecordError, DataError
from amodal.search.embed import embed_source
from amodal.search.indexing import add_to_index
from amodal.search.parquet import write_parquet, written_keys
from amodal.search.rows import Row
from amodal.search.store import VectorStore


class Model:
    """Embeds the mean colour of an image, and the letters of a text."""

    types: ClassVar = {"image": "image", "text": "text"}
    preprocessors: ClassVar = {"image": SimpleNamespace(size=None)}
    dim = 3

    def __init__(self):
        self.calls = []

    def fingerprint(self):
        return "weights-1"

    def encode(self, *, batch_size=64, **values):
        ((input, items),) = values.items()
        self.calls.append((input, len(items)))
        if input == "image":
            rows = np.stack([np.asarray(item).mean((0, 1)) + 1 for item in items])
        else:
            for place, text in enumerate(items):
                if text == "unreadable":
                    raise BrokenRecordError(f"text[{place}]", "cannot be read")
            rows = np.array([[len(t), t.count("e") + 1, t.count("r") + 1] for t in items])
        rows = rows.astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class ListSource:
    name = "list"

    def __init__(self, records, inputs=("image", "text")):
        self.records = records
        self.inputs = frozenset(inputs)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        if isinstance(record, Exception):
            raise record
        return record


class Stream:
    name = "stream"
    inputs = frozenset({"image", "text"})

    def __init__(self, records):
        self.records = records

    def __iter__(self):
        return iter(self.records)


def photo(red, size=8):
    return np.full((size, size, 3), (red, 90, 30), np.uint8)


def record(number, **more):
    return {
        "id": f"item{number}",
        "origin": f"list row {number}",
        "image": photo(number * 5),
        "text": [f"red {number}", f"green {number}"],
        "size": number,
        **more,
    }


def split(stream):
    stream = list(stream)
    return (
        [r for r in stream if isinstance(r, Row)],
        [r for r in stream if isinstance(r, BrokenRecordError)],
    )


@pytest.mark.parametrize("kind", [ListSource, Stream])
def test_every_value_becomes_one_row_with_its_own_embedding(kind):
    model = Model()
    rows, broken = split(embed_source(model, kind([record(i) for i in range(7)]), batch_size=4))
    assert broken == []
    assert {r.key for r in rows} == {
        (f"item{i}", m, n) for i in range(7) for m, n in (("image", 0), ("text", 0), ("text", 1))
    }
    for row in rows:
        number = int(row.id[4:])
        value = photo(number * 5) if row.input == "image" else row.text
        np.testing.assert_array_equal(row.embedding, model.encode(**{row.input: [value]})[0])
        assert row.metadata == {"size": number}
        assert row.origin == f"list row {number}"
        assert row.text == (f"green {number}" if row.row else f"red {number}")
    assert max(size for _, size in model.calls) == 4


def test_broken_values_are_named_and_the_rest_goes_on(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 not an image")
    records = [
        record(0),
        BrokenRecordError("list row 1", "no id"),
        record(2, image=tmp_path / "bad.jpg"),
        record(3, text=["fine", "unreadable", "fine too"]),
        record(4, image=None, text=[]),
        record(5),
    ]
    for source in (ListSource(records), Stream(records)):
        rows, broken = split(embed_source(Model(), source))
        assert sorted(e.origin for e in broken) == [f"list row {i}" for i in (1, 2, 3, 4)]
        assert "bad.jpg" in next(e for e in broken if e.origin == "list row 2").reason
        assert [r.text for r in rows if r.id == "item3" and r.input == "text"] == [
            "fine",
            "fine too",
        ]
        assert {r.id for r in rows if r.input == "image"} == {"item0", "item3", "item5"}


def test_records_of_one_item_share_its_image_and_continue_its_captions():
    records = [record(1, text=[text]) for text in ("one", "two", "one", "three")]
    rows, _ = split(embed_source(Model(), ListSource(records)))
    assert [(r.input, r.row) for r in rows if r.input == "image"] == [("image", 0)]
    assert [(r.row, r.text) for r in rows if r.input == "text"] == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
    ]


def test_files_keep_their_path_and_thumbnails_are_small(tmp_path):
    Image.fromarray(photo(200, size=600)).save(tmp_path / "a.jpg")
    rows, _ = split(
        embed_source(Model(), ListSource([record(1, image=tmp_path / "a.jpg")]), thumbnails=True)
    )
    (image,) = [r for r in rows if r.input == "image"]
    thumbnail = Image.open(io.BytesIO(image.thumbnail))
    assert thumbnail.size == (256, 256)
    assert thumbnail.format == "JPEG"
    assert {r.path for r in rows} == {str(tmp_path / "a.jpg")}
    assert [r.thumbnail for r in rows if r.input == "text"] == [None, None]


def test_rows_that_are_there_are_neither_decoded_nor_encoded():
    model, source = Model(), ListSource([record(i) for i in range(4)])
    rows, _ = split(embed_source(model, source))
    done = {row.key for row in rows} - {("item2", "text", 1)}
    model.calls.clear()
    again, _ = split(embed_source(model, source, skip=done))
    assert [row.key for row in again] == [("item2", "text", 1)]
    assert model.calls == [("text", 1)]


def test_progress_counts_records():
    seen = []
    list(embed_source(Model(), ListSource([record(i) for i in range(5)]), progress=seen.append))
    assert sum(seen) == 5


def test_modalities_can_be_chosen_and_must_exist():
    source = ListSource([record(0)], inputs=("image", "text", "audio"))
    rows, _ = split(embed_source(Model(), source, inputs=["text"]))
    assert {row.input for row in rows} == {"text"}
    for asked in (["audio"], ["text", "audio"], []):
        with pytest.raises(DataError, match="the model takes image, text"):
            list(embed_source(Model(), source, inputs=asked))
    with pytest.raises(DataError, match="the source has audio"):
        list(embed_source(Model(), ListSource([], inputs=("audio",))))


def interrupted(stream, after):
    for number, row in enumerate(stream):
        if number == after:
            raise KeyboardInterrupt
        yield row


def test_parquet_holds_every_column_and_says_what_it_holds(tmp_path):
    source = ListSource([*(record(i) for i in range(10)), BrokenRecordError("list row 10", "bad")])
    summary = write_parquet(
        embed_source(Model(), source), tmp_path / "e", dim=3, fingerprint="f", rows_per_shard=8
    )
    table = ds.dataset(tmp_path / "e", format="parquet", exclude_invalid_files=True).to_table()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.schema.names == [
        "id", "input", "row", "text", "path", "origin", "embedding", "size",
    ]  # fmt: skip
    assert (summary.items, summary.rows, summary.new) == (10, {"image": 10, "text": 20}, 30)
    stored = json.loads((tmp_path / "e" / "embeddings.json").read_text())
    assert stored["complete"]
    assert stored["dim"] == 3
    assert stored["broken"] == [{"origin": "list row 10", "reason": "bad"}]
    assert len(list((tmp_path / "e").glob("*.parquet"))) == 4


def test_stopping_keeps_what_was_done_and_a_second_run_adds_the_rest_once(tmp_path):
    source = ListSource([record(i) for i in range(10)])
    options = {"dim": 3, "fingerprint": "f", "rows_per_shard": 4}
    model = Model()
    with pytest.raises(KeyboardInterrupt):
        write_parquet(
            interrupted(embed_source(model, source, batch_size=2), 11), tmp_path, **options
        )
    assert not json.loads((tmp_path / "embeddings.json").read_text())["complete"]
    done = written_keys(tmp_path, "f")
    assert len(done) == 11
    model.calls.clear()
    summary = write_parquet(embed_source(model, source, skip=done), tmp_path, **options)
    assert sum(size for _, size in model.calls) == 19
    assert (summary.new, summary.rows) == (19, {"image": 10, "text": 20})
    keys = [
        key
        for shard in tmp_path.glob("*.parquet")
        for key in zip(
            *(c.to_pylist() for c in pq.read_table(shard, columns=["id", "input", "row"])),
            strict=True,
        )
    ]
    assert len(keys) == len(set(keys)) == 30


def test_all_shards_end_with_the_same_columns(tmp_path):
    records = [record(0), record(1, size=2.5), record(2, size="large", label="x", Label="y")]
    write_parquet(
        embed_source(Model(), ListSource(records)),
        tmp_path,
        dim=3,
        fingerprint="f",
        rows_per_shard=1,
    )
    schemas = [pq.read_schema(shard) for shard in sorted(tmp_path.glob("*.parquet"))]
    assert len(schemas) == 9
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert schemas[0].field("size").type == pa.string()


def test_folders_of_other_weights_or_other_files_are_refused(tmp_path):
    write_parquet([], tmp_path / "e", dim=3, fingerprint="f")
    with pytest.raises(DataError, match="other weights"):
        write_parquet([], tmp_path / "e", dim=3, fingerprint="g")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="other files"):
        written_keys(tmp_path / "photos", "f")
    assert written_keys(tmp_path / "missing", "f") == set()


def test_filling_an_index_can_be_stopped_and_goes_on(tmp_path):
    model = Model()
    source = ListSource([*(record(i) for i in range(10)), BrokenRecordError("list row 10", "bad")])
    store = VectorStore.create(tmp_path / "index", 3, fingerprint=model.fingerprint())
    with pytest.raises(KeyboardInterrupt):
        add_to_index(
            store, interrupted(embed_source(model, source, batch_size=2), 11), rows_per_version=4
        )
    assert store.count() == 11
    summary = add_to_index(store, embed_source(model, source, skip=store.row_keys()))
    assert summary.new == 19
    assert store.counts() == {"image": 10, "text": 20}
    assert json.loads((tmp_path / "index" / "broken.json").read_text()) == [
        {"origin": "list row 10", "reason": "bad"}
    ]
    assert store.search(model.encode(image=[photo(30)]), 1, input="image")[0].id == "item6"


def test_an_addition_that_was_interrupted_is_not_repeated(tmp_path, monkeypatch):
    store = VectorStore.create(tmp_path / "index", 3, fingerprint="f")
    calls = []

    def stopped(rows):
        calls.append(len(rows))
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        add_to_index(
            store, embed_source(Model(), ListSource([record(i) for i in range(3)])),
            rows_per_version=4,
        )  # fmt: skip
    assert calls == [4]
