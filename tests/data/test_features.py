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
    found.add(values[:2])
    found.add(values[2:])
    return found


@pytest.mark.parametrize("rows", [[0], [1, 4], [4, 2, 0, 2], [0, 1, 2, 3, 4]])
def test_rows_are_padded_to_the_longest(store, lengths, rows):
    table = store.table([digest(i) for i in range(5)])
    found = table.gather(np.array(rows))
    longest = max(lengths[row] for row in rows)
    for place, row in enumerate(rows):
        length = lengths[row]
        assert torch.equal(found["cached_tokens"][place, :length], tokens_of(row, length))
        assert not found["cached_tokens"][place, length:].any()
        if "cached_keep" in found:
            assert found["cached_keep"][place].tolist() == [n < length for n in range(longest)]
    assert ("cached_keep" in found) == (len({lengths[row] for row in rows}) > 1)


def test_a_table_has_the_values_in_the_order_that_was_asked_for(store):
    table = store.table([digest(3), digest(1)])
    assert torch.equal(table.gather(np.array([0]))["cached_tokens"][0], tokens_of(3, 3))
    assert store.table([digest(2), digest(0)]).truncated.tolist() == [True, False]
    with pytest.raises(KeyError):
        store.table([digest(9)])


def test_a_store_is_read_again_with_what_another_process_has_added(store, tmp_path):
    other = FeatureStore(tmp_path / "store", {})
    other.add([Computed(digest(7), tokens_of(7, 1))])
    assert digest(7) not in store
    again = FeatureStore(tmp_path / "store", {})
    assert all(digest(i) in again for i in (0, 1, 2, 3, 4, 7))
    store.add([])
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
    with pytest.raises(OSError, match="No space left"):
        store.add([Computed(digest(8), tokens_of(8, 1))])
    assert sorted((tmp_path / "store").iterdir()) == before


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("AMODAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "amodal"


def batch_of(choice, counts, *, with_content=True, seed=0):
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
        rows = np.arange(start, start + (count or 0))
        content = 100 + rows if with_content else None
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
