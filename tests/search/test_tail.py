"""Graphs that follow their table: additions, deletions, changed and merged rows."""

import numpy as np
import pytest

from amodal.search.ann import AnnIndex
from amodal.search.ranking import nearest
from amodal.search.tail import follow


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Table:
    """Rows in the order of their keys, with the row ids that a table would give."""

    def __init__(self, vectors, row_ids):
        self.vectors, self.row_ids, self.read_rows = vectors, np.asarray(row_ids, np.uint64), 0

    def read(self, places):
        self.read_rows += len(places)
        return self.vectors[places]

    def nearest(self, queries, k):
        exact = {"image": AnnIndex.build(self.vectors, self.row_ids)}
        return nearest(exact, queries, k)


@pytest.fixture
def graph():
    return AnnIndex.build(unit_rows(600, 16, 0), np.arange(600), exact_below=10)


def test_added_and_deleted_rows_are_found_and_not_found(graph):
    kept = np.setdiff1d(np.arange(600), [7, 8, 300])
    vectors = np.concatenate([unit_rows(600, 16, 0)[kept], unit_rows(40, 16, 1)])
    order = np.random.default_rng(2).permutation(len(vectors))  # keys of new rows lie between
    row_ids = np.concatenate([kept, np.arange(10_000, 10_040)])
    table = Table(vectors[order], row_ids[order])
    followed = follow(graph, table.row_ids, table.read)
    assert (len(followed), table.read_rows, followed.stale) == (637, 40, False)
    queries = np.concatenate([unit_rows(20, 16, 3), unit_rows(600, 16, 0)[[7, 300]]])
    assert nearest({"image": followed}, queries, 5) == table.nearest(queries, 5)


def test_ties_are_in_key_order_across_graph_and_tail(graph):
    first = unit_rows(600, 16, 0)
    # The same vector three times: before, in and after the graph's own.
    vectors = np.concatenate([first[5:6], first, first[5:6]])
    table = Table(vectors, [900, *range(600), 901])
    followed = follow(graph, table.row_ids, table.read)
    (hits,) = nearest({"image": followed}, first[5:6], 3)
    assert [row_id for _, row_id in hits] == [900, 5, 901]


def test_rows_of_merged_files_are_recognised_by_their_vectors(graph):
    vectors = unit_rows(600, 16, 0)
    vectors = np.concatenate([vectors[3:], vectors[10:11], unit_rows(4, 16, 9)])
    table = Table(vectors, 50_000 + np.arange(len(vectors)))
    followed = follow(graph, table.row_ids, table.read)
    assert len(followed) == 602
    assert len(followed._tail) == 5  # four new ones and the second of two equal ones
    queries = unit_rows(10, 16, 4)
    assert nearest({"image": followed}, queries, 5) == table.nearest(queries, 5)


def test_a_graph_of_which_much_has_changed_is_stale(graph, monkeypatch):
    monkeypatch.setattr("amodal.search.tail.FEW_CHANGED", 10)
    vectors = np.concatenate([unit_rows(600, 16, 0), unit_rows(61, 16, 1)])
    for count, stale in ((660, False), (661, True)):
        table = Table(vectors[:count], np.arange(count))
        assert follow(graph, table.row_ids, table.read).stale is stale
