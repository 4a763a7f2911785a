"""The durable index: exact order, filters, replacement, versions, refusals."""

import datetime
import decimal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from amodal.search import ann
from amodal.search.description import StoreError
from amodal.search.rows import Row, plain_metadata
from amodal.search.store import VectorStore


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_of(vectors, input="image", prefix="item", **metadata):
    return [
        Row(
            id=f"{prefix}{i:03d}",
            input=input,
            embedding=vector,
            text=f"caption {i}",
            path=f"photos/{i}.jpg",
            metadata={"number": i, **metadata},
        )
        for i, vector in enumerate(vectors)
    ]


@pytest.fixture
def store(tmp_path):
    return VectorStore.create(tmp_path / "index", 8, fingerprint="abc")


def test_search_agrees_with_a_full_scan(store):
    vectors, queries = unit_rows(60, 8, 0), unit_rows(5, 8, 1)
    store.add(rows_of(vectors))
    want = np.argsort(-queries @ vectors.T, axis=1)[:, :4]
    for query, places, hits in zip(queries, want, store.search_many(queries, 4), strict=True):
        assert [hit.id for hit in hits] == [f"item{i:03d}" for i in places]
        np.testing.assert_allclose([h.score for h in hits], vectors[places] @ query, atol=2e-6)
    hit = store.search(queries[:1], k=1)[0]
    assert (hit.text, hit.path, hit.metadata["number"]) == (
        f"caption {want[0, 0]}",
        f"photos/{want[0, 0]}.jpg",
        want[0, 0],
    )


def test_the_length_of_the_query_does_not_matter(store):
    store.add(rows_of(unit_rows(20, 8, 0)))
    query = unit_rows(1, 8, 1)[0]
    assert store.search(query) == store.search(17 * query)


def test_a_filter_is_exact_over_the_rows_it_keeps(store):
    vectors, query = unit_rows(200, 8, 0), unit_rows(1, 8, 1)[0]
    store.add(rows_of(vectors))
    hits = store.search(query, 5, where="number % 20 = 3 AND Number < 190")
    kept = np.arange(3, 190, 20)
    want = kept[np.argsort(-vectors[kept] @ query)][:5]
    assert [hit.metadata["number"] for hit in hits] == want.tolist()
    assert store.search(query, 5, where="number > 1000") == []
    assert store.search(query, 5, where="number = 1 OR number = 2", input="image")


def test_a_modality_is_searched_alone_or_all_together(store):
    vectors = unit_rows(40, 8, 0)
    store.add([*rows_of(vectors[:20]), *rows_of(vectors[20:], input="text")])
    query = unit_rows(1, 8, 1)[0]
    assert {hit.input for hit in store.search(query, input="text")} == {"text"}
    both = store.search(query, 40)
    assert [h.score for h in both] == sorted((h.score for h in both), reverse=True)
    assert len({(h.id, h.input) for h in both}) == 40
    assert store.counts() == {"image": 20, "text": 20}
    assert store.count(input="text") == 20
    with pytest.raises(StoreError, match="no 'audio' rows; it has image, text"):
        store.search(query, input="audio")


@pytest.mark.parametrize("where", [None, "number >= 0"])
def test_ties_are_ordered_by_id_whatever_the_order_of_arrival(store, where):
    same = unit_rows(1, 8, 0)[0]
    order = np.random.default_rng(0).permutation(90)
    rows = rows_of([same] * 90)
    store.add([rows[i] for i in order])
    hits = store.search(same, 3, where=where)
    assert [hit.id for hit in hits] == ["item000", "item001", "item002"]
    assert hits[0].score == 1.0


def test_adding_again_replaces(store):
    old, new = unit_rows(10, 8, 0), unit_rows(10, 8, 1)
    store.add(rows_of(old))
    before = store.version
    store.add(rows_of(new[:5], note="second"))
    assert store.count() == 10
    assert store.version > before
    assert store.search(new[2], 1)[0].metadata == {"number": 2, "note": "second"}
    assert store.search(new[2], 1)[0].score == pytest.approx(1.0, abs=1e-6)
    assert store.search(old[7], 1)[0].metadata == {"number": 7}


def test_the_last_of_equal_keys_in_one_addition_wins(store):
    first, second = unit_rows(2, 8, 0)
    assert store.add([Row("a", "image", first), Row("a", "image", second)]) == 1
    assert store.search(second, 5)[0].score == pytest.approx(1.0, abs=1e-6)


def test_captions_of_one_item_are_rows_of_their_own(store):
    vectors = unit_rows(5, 8, 0)
    store.add([Row("a", "text", v, row=i, text=f"c{i}") for i, v in enumerate(vectors)])
    assert store.count() == 5
    assert store.search(vectors[3], 1)[0].text == "c3"
    assert [hit.row for hit in store.get(["a"])] == [0, 1, 2, 3, 4]


def test_deleting_by_id_and_by_filter(store):
    store.add([*rows_of(unit_rows(20, 8, 0)), Row("it's", "image", unit_rows(1, 8, 1)[0])])
    assert store.delete(["item003", "it's", "unknown"]) == 2
    assert store.delete(where="number >= 10") == 10
    assert store.count() == 9
    assert {h.id for h in store.search(unit_rows(1, 8, 2)[0], 50)} == {
        f"item{i:03d}" for i in range(10) if i != 3
    }
    with pytest.raises(StoreError, match="either"):
        store.delete()


def test_an_empty_index_finds_nothing(store):
    assert store.search(unit_rows(1, 8, 0)[0]) == []
    assert store.search(unit_rows(1, 8, 0)[0], input="image") == []
    assert store.add([]) == 0
    assert store.count() == 0


def test_another_process_sees_the_rows_and_ours_sees_its_changes(store):
    vectors = unit_rows(30, 8, 0)
    store.add(rows_of(vectors))
    assert store.search(vectors[4], 1)[0].id == "item004"
    program = f"""
import numpy as np
from amodal.search.rows import Row
from amodal.search.store import VectorStore
store = VectorStore.open({str(store.folder)!r}, fingerprint="abc")
print(store.search(np.array({vectors[4].tolist()}), 1)[0].id)
store.delete(["item004"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "item004", done.stderr
    assert store.search(vectors[4], 1)[0].id != "item004"
    assert store.count() == 29


def test_the_index_in_memory_is_cached_by_version_and_rebuilt(store, monkeypatch):
    vectors = unit_rows(30, 8, 0)
    store.add(rows_of(vectors))
    store.search(vectors[0])
    (file,) = (store.folder / "ann").glob("*.faiss")
    assert file.name == f"image-v{store.version}.faiss"
    builds = []
    build = ann.AnnIndex.build.__func__
    monkeypatch.setattr(
        ann.AnnIndex,
        "build",
        classmethod(lambda cls, *args: builds.append(1) or build(cls, *args)),
    )
    reopened = VectorStore.open(store.folder)
    assert reopened.search(vectors[3], 1)[0].id == "item003"
    assert builds == []
    store.delete(["item003"])
    assert reopened.search(vectors[3], 1)[0].id != "item003"
    assert builds == [1]
    assert [f.name for f in (store.folder / "ann").glob("*.faiss")] == [
        f"image-v{store.version}.faiss"
    ]


def test_a_large_table_is_searched_through_the_graph_with_exact_scores(store, monkeypatch):
    monkeypatch.setattr(ann.AnnIndex.build.__func__, "__defaults__", (50,))
    vectors = unit_rows(100, 8, 0)
    store.add(rows_of(vectors))
    assert not store.build_index()["image"].exact
    for place in (0, 40, 99):
        hit = store.search(vectors[place], 1)[0]
        assert (hit.id, hit.score) == (f"item{place:03d}", 1.0)


def test_threads_share_a_store_while_it_changes(store):
    vectors = unit_rows(64, 8, 0)
    store.add(rows_of(vectors))
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(store.search, vector, 1) for vector in vectors]
        store.add(rows_of(unit_rows(5, 8, 1), prefix="late"))
        assert [f.result()[0].id for f in found] == [f"item{i:03d}" for i in range(64)]


def test_rows_survive_compaction(store):
    vectors = unit_rows(40, 8, 0)
    rows = rows_of(vectors)
    for start in range(0, 40, 5):
        store.add(rows[start : start + 5])
    store.optimize()
    assert all(store.search(v, 1)[0].id == f"item{i:03d}" for i, v in enumerate(vectors))


def test_columns_appear_and_widen_as_metadata_needs(store):
    v = unit_rows(4, 8, 0)
    store.add([Row("a", "image", v[0], metadata={"size": 3, "flag": True})])
    store.add([Row("b", "image", v[1], metadata={"size": 2.5, "label": "dog"})])
    assert store.columns["size"] == "double"
    assert store.search(v[0], 1, where="size > 2.7")[0].metadata == {"size": 3.0, "flag": True}
    store.add([Row("c", "image", v[2], metadata={"size": "large", "Label": "cat"})])
    assert store.columns["size"] == "string"
    assert "Label" not in store.columns
    assert store.search(v[2], 1, where="label = 'cat'")[0].id == "c"
    assert store.search(v[1], 1, where="size = '2.5'")[0].id == "b"


def test_bad_sql_names_the_columns(store):
    store.add(rows_of(unit_rows(3, 8, 0), label="dog"))
    for where in ("colour = 'red'", "label ==", "label"):
        with pytest.raises(StoreError, match=r"label \(string\)"):
            store.search(unit_rows(1, 8, 1)[0], where=where)
    with pytest.raises(StoreError, match="number"):
        store.count(where="nope > 1")
    with pytest.raises(StoreError, match="number"):
        store.delete(where="nope > 1")


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(7, np.float32) / np.sqrt(7), r"shape \(8,\)"),
        (np.full(8, np.nan, np.float32), "NaN"),
        (np.ones(8, np.float32), "length 1"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(store, vector, message):
    with pytest.raises(StoreError, match=message):
        store.add([Row("good", "image", unit_rows(1, 8, 0)[0]), Row("bad", "image", vector)])
    assert store.count() == 0


def test_queries_that_cannot_be_compared_are_refused(store):
    for query in (np.ones(7), np.full(8, np.nan), np.zeros(8), np.ones((2, 8))):
        with pytest.raises(StoreError):
            store.search(query)
    with pytest.raises(StoreError, match="k must be"):
        store.search(np.ones(8), 0)


def test_other_weights_are_refused(store):
    with pytest.raises(StoreError, match="other weights"):
        VectorStore.open(store.folder, fingerprint="xyz")
    with pytest.raises(StoreError, match="other weights"):
        VectorStore.create(store.folder, 8, fingerprint="xyz", exist_ok=True)
    assert VectorStore.create(store.folder, 8, fingerprint="abc", exist_ok=True).dim == 8


def test_folders_that_are_no_index_are_refused(tmp_path, store):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"")
    with pytest.raises(StoreError, match="no index"):
        VectorStore.create(tmp_path / "other", 8, fingerprint="abc")
    for folder in (tmp_path / "other", tmp_path / "missing", tmp_path / "other" / "photo.jpg"):
        with pytest.raises(StoreError, match="amodal index"):
            VectorStore.open(folder)
    with pytest.raises(StoreError, match="already holds"):
        VectorStore.create(store.folder, 8, fingerprint="abc")
    (store.folder / "index.json").write_text('{"format": 9, "dim": 8, "fingerprint": "abc"}')
    with pytest.raises(StoreError, match="format"):
        VectorStore.open(store.folder)


def test_the_run_is_found_beside_the_index_after_both_moved(tmp_path):
    run = tmp_path / "here" / "run"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    store = VectorStore.create(run / "index", 8, fingerprint="abc", model_path=run)
    assert store.model_path == run
    (tmp_path / "here").rename(tmp_path / "there")
    moved = VectorStore.open(tmp_path / "there" / "run" / "index")
    assert moved.model_path == tmp_path / "there" / "run"
    (tmp_path / "there" / "run" / "config.json").unlink()
    with pytest.raises(StoreError, match="--run"):
        _ = moved.model_path


def test_metadata_becomes_columns_that_sql_can_name():
    record = {
        "id": "1",
        "label": "dog",
        "objects": [{"shape": "circle"}],
        "width": np.int64(4),
        "row": 3,
        "file name": "a b",
        "_secret": 1.5,
        "blob": b"123",
        "nothing": None,
        "deep": {"array": np.zeros(3)},
        "day": datetime.date(2021, 5, 1),
        "price": decimal.Decimal("1.50"),
    }
    assert plain_metadata(record, leave_out={"id"}) == {
        "label": "dog",
        "objects": '[{"shape": "circle"}]',
        "width": 4,
        "meta_row": 3,
        "file_name": "a b",
        "meta__secret": 1.5,
        "day": "2021-05-01",
        "price": 1.5,
    }
