"""Features in the place of values: gathered, chosen and stored."""

import numpy as np
import pytest
import torch

from amodal.data.feature_store import Computed, FeatureStore, cache_folder
from amodal.data.features import FeatureChoice, FeatureRows, FeatureTable
from amodal.data.inputs import BatchContext
from amodal.data.record import sample_rng

WIDTH = 3


def digest(number):
    return bytes([number]) * 16


def tokens_of(number, length):
    return number + torch.arange(length * WIDTH).view(length, WIDTH) / 100


@pytest.fixture
def lengths():
    return [2, 1, 4, 3, 1]


@pytest.fixture
def store(tmp_path, lengths):
    """Values 0 … 4 with tokens of several lengths, in two files."""
    found = FeatureStore(tmp_path / "store", {"encoder": "x"})
    values = [Computed(digest(i), tokens_of(i, n), i == 2) for i, n in enumerate(lengths)]
    for some in (values[:2], values[2:]):
        found.add(some)
        found.flush()
    return found


@pytest.mark.parametrize("rows", [[0], [1, 4], [4, 2, 0, 2], [0, 1, 2, 3, 4]])
def test_rows_are_padded_to_the_longest(store, lengths, rows):
    found = store.table.gather(store.rows([digest(i) for i in rows]))
    longest = max(lengths[row] for row in rows)
    for place, row in enumerate(rows):
        length = lengths[row]
        assert torch.equal(found["cached_tokens"][place, :length], tokens_of(row, length))
        assert not found["cached_tokens"][place, length:].any()
        if "cached_keep" in found:
            assert found["cached_keep"][place].tolist() == [n < length for n in range(longest)]
    assert ("cached_keep" in found) == (len({lengths[row] for row in rows}) > 1)


def test_rows_come_in_the_order_that_was_asked_for(store):
    rows = store.rows([digest(3), digest(2)])
    assert torch.equal(store.table.gather(rows[:1])["cached_tokens"][0], tokens_of(3, 3))
    assert store.table.truncated[rows].tolist() == [False, True]
    with pytest.raises(KeyError):
        store.rows([digest(9)])


def test_what_was_added_is_known_before_and_after_it_is_written(store, tmp_path):
    before = store.table
    store.add([Computed(digest(7), tokens_of(7, 1))])
    store.add([Computed(digest(8), tokens_of(8, 2))])
    rows = store.rows([digest(7), digest(8), digest(0)])
    found = store.table.gather(rows)["cached_tokens"]
    assert not any(d in FeatureStore(tmp_path / "store", {}) for d in (digest(7), digest(8)))
    store.flush()
    assert store.rows([digest(7), digest(8), digest(0)]).tolist() == rows.tolist()
    assert torch.equal(store.table.gather(rows)["cached_tokens"], found)
    assert len(FeatureStore(tmp_path / "store", {})) == len(store) == 7
    assert len(before.start) == 5


def test_a_store_that_keeps_nothing_forgets_what_was_added(store, tmp_path):
    reading = FeatureStore(tmp_path / "store", {}, keep=False)
    reading.add([Computed(digest(7), tokens_of(7, 1))])
    assert digest(7) in reading
    assert reading.is_flush_due
    reading.flush()
    assert digest(7) not in reading
    assert len(reading) == 5
    assert torch.equal(
        reading.table.gather(reading.rows([digest(4)]))["cached_tokens"][0], tokens_of(4, 1)
    )
    FeatureStore(tmp_path / "nowhere", {}, keep=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_store_is_read_again_with_what_another_process_has_added(store, tmp_path):
    other = FeatureStore(tmp_path / "store", {})
    other.add([Computed(digest(7), tokens_of(7, 1))])
    other.flush()
    assert digest(7) not in store
    again = FeatureStore(tmp_path / "store", {})
    assert all(digest(i) in again for i in (0, 1, 2, 3, 4, 7))
    store.flush()
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 3


def test_a_damaged_file_counts_as_not_computed(store, tmp_path):
    file = min((tmp_path / "store").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    again = FeatureStore(tmp_path / "store", {})
    assert again.damaged == [file]
    assert sum(digest(i) in again for i in range(5)) in (2, 3)


def test_nothing_of_a_write_that_fails_stays(store, tmp_path, monkeypatch):
    before = sorted((tmp_path / "store").iterdir())

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("amodal.data.feature_store.save_file", full)
    store.add([Computed(digest(8), tokens_of(8, 1))])
    with pytest.raises(OSError, match="No space left"):
        store.flush()
    assert sorted((tmp_path / "store").iterdir()) == before


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("AMODAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "amodal"


def batch_of(choice, counts, *, with_content=True, seed=0, views=1):
    """The rows of items with so many values each; None: an item without the input."""
    table = FeatureTable(
        [torch.arange(20.0).view(20, 1)],
        np.zeros(20, np.int64),
        np.arange(20),
        np.ones(20, np.int64),
        np.arange(20) % 2 == 1,
    )
    values, start = [], 0
    for count in counts:
        rows = np.arange(start, start + (count or 0))[:, None] + 10 * np.arange(views)
        content = 100 + rows[:, 0] if with_content else None
        values.append(None if count is None else FeatureRows(table, rows, content))
        start += count or 0
    return choice.batch(values, BatchContext([sample_rng(seed, 0, i) for i in range(len(counts))]))


def test_the_first_values_are_taken_and_missing_ones_are_absent():
    found = batch_of(FeatureChoice(most=2), [3, None, 1])
    assert found.present.tolist() == [[True, True], [False, False], [True, False]]
    assert found.tensors["cached_tokens"].flatten().tolist() == [0, 1, 0, 0, 3, 0]
    assert found.content[found.present].tolist() == [100, 101, 103]
    assert found.truncated == 2  # rows 1 and 3


def test_all_values_are_taken_where_no_number_is_given():
    found = batch_of(FeatureChoice(most=None), [3, 1])
    assert found.present.tolist() == [[True] * 3, [True, False, False]]


def test_a_value_is_repeated_for_several_views():
    found = batch_of(FeatureChoice(most=1, copies=2), [1, 1], with_content=False)
    assert found.tensors["cached_tokens"].flatten().tolist() == [0, 0, 1, 1]
    assert found.content is None
    assert found.truncated is None


def test_shuffled_values_differ_between_generators_and_never_repeat():
    taken = set()
    for seed in range(30):
        found = batch_of(FeatureChoice(most=2, shuffled=True), [4], seed=seed)
        rows = tuple(found.tensors["cached_tokens"].flatten().tolist())
        assert len(set(rows)) == 2
        taken.add(rows)
    assert len(taken) > 6  # of 12


def test_a_view_is_drawn_for_each_row_where_values_are_shuffled():
    first = FeatureChoice(copies=2)
    shuffled = FeatureChoice(copies=2, shuffled=True)
    taken = [
        tuple(batch_of(shuffled, [1], seed=seed, views=2).tensors["cached_tokens"].flatten())
        for seed in range(40)
    ]
    assert {tuple(map(float, rows)) for rows in taken} == {(0, 0), (0, 10), (10, 0), (10, 10)}
    for seed in range(5):
        plain = batch_of(first, [1], seed=seed, views=2)
        assert plain.tensors["cached_tokens"].flatten().tolist() == [0, 0]
