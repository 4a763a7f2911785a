"""In-memory nearest neighbours against a full scan, and their cache on disk."""

import numpy as np
import pytest

from amodal.search.ann import AnnIndex


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered_rows(count, dim, clusters, seed):
    rng = np.random.default_rng(seed)
    centres = unit_rows(clusters, dim, seed + 1)
    rows = centres[rng.integers(clusters, size=count)] + 0.5 / np.sqrt(dim) * rng.normal(
        size=(count, dim)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_small_index_agrees_with_a_full_scan():
    rows, queries = unit_rows(500, 16, 0), unit_rows(20, 16, 1)
    index = AnnIndex.build(rows, np.arange(500))
    scores, positions = index.search(queries, 7)
    want = np.argsort(-queries @ rows.T, axis=1)[:, :7]
    assert index.exact
    np.testing.assert_array_equal(positions, want)
    np.testing.assert_allclose(
        scores, np.take_along_axis(queries @ rows.T, want, axis=1), atol=1e-6
    )


def test_fewer_rows_than_asked_for_are_marked():
    _, positions = AnnIndex.build(unit_rows(3, 8, 0), np.arange(3)).search(unit_rows(1, 8, 1), 5)
    assert sorted(positions[0].tolist()) == [-1, -1, 0, 1, 2]


@pytest.mark.parametrize("exact_below", [10, 1000])
def test_what_was_saved_answers_the_same(tmp_path, exact_below):
    rows, queries = unit_rows(300, 8, 2), unit_rows(5, 8, 3)
    index = AnnIndex.build(rows, np.arange(300) * 7, exact_below=exact_below)
    index.save(tmp_path / "ann" / "image-v3.faiss")
    loaded = AnnIndex.load(tmp_path / "ann" / "image-v3.faiss")
    assert loaded is not None
    assert loaded.exact == index.exact == (exact_below == 1000)
    np.testing.assert_array_equal(loaded.search(queries, 4)[1], index.search(queries, 4)[1])
    np.testing.assert_array_equal(loaded.row_ids, index.row_ids)
    np.testing.assert_array_equal(loaded.vectors(np.array([5, 1])), rows[[5, 1]])


def test_a_damaged_cache_is_ignored(tmp_path):
    file = tmp_path / "image-v1.faiss"
    AnnIndex.build(unit_rows(10, 4, 0), np.arange(10)).save(file)
    file.write_bytes(b"not an index")
    assert AnnIndex.load(file) is None
    assert AnnIndex.load(tmp_path / "missing.faiss") is None


@pytest.mark.slow
def test_the_graph_finds_95_of_100_true_neighbours_in_clustered_data():
    rows = clustered_rows(20_200, 64, clusters=200, seed=0)
    queries, rows = rows[:200], rows[200:]
    index = AnnIndex.build(rows, np.arange(20_000))
    found = index.search(queries, 10)[1]
    want = np.argsort(-queries @ rows.T, axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, want, strict=True)])
    assert not index.exact
    assert recall >= 0.95
