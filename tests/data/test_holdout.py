"""Held-out items: by id, with near-duplicates on one side."""

import pytest

from amodal.data.holdout import hold_out
from amodal.data.near_duplicates import content_fingerprint
from amodal.data.record import BrokenRecordError


class Numbered:
    """`size` records, of which some cannot be read."""

    name, inputs, notes = "numbered", frozenset({"text"}), ()

    def __init__(self, size, broken=()):
        self.size, self.broken = size, set(broken)

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        if i in self.broken:
            raise BrokenRecordError(f"row {i}", "broken")
        return {"id": str(i), "origin": str(i), "text": [str(i)]}


def ids(source):
    return [record["id"] for record in map(source.__getitem__, range(len(source)))]


def marked(number):
    return {"image": [content_fingerprint(str(number).encode())]}


def thirds(record):
    return marked(int(record["id"]) // 3)


def test_groups_stay_on_one_side_and_are_counted():
    split = hold_out(Numbered(300), 0.1, thirds)
    assert (split.groups, split.grouped) == (100, 300)
    assert len(split.held_out) == 30
    sides = [{int(i) // 3 for i in ids(part)} for part in split[:2]]
    assert not sides[0] & sides[1]
    assert sorted(map(int, ids(split.train) + ids(split.held_out))) == list(range(300))


def test_without_near_duplicates_the_same_items_are_held_out():
    alone = hold_out(Numbered(200), 0.1)
    compared = hold_out(Numbered(200), 0.1, lambda record: {"image": []})
    assert ids(alone.held_out) == ids(compared.held_out)
    assert (alone.groups, compared.groups) == (0, 0)


def test_the_split_is_that_of_a_second_call_and_hardly_changes_with_more_rows():
    first, again, grown = (hold_out(Numbered(n), 0.1, thirds).held_out for n in (300, 300, 330))
    assert ids(first) == ids(again)
    assert len({*ids(first)} & {*ids(grown)}) > 24


def test_a_group_that_is_too_large_is_trained_on():
    def mostly_one(record):
        return marked(max(int(record["id"]), 60))

    split = hold_out(Numbered(100), 0.2, mostly_one)
    assert len(split.held_out) == 20
    assert min(map(int, ids(split.held_out))) > 60


def test_nothing_is_held_out_of_one_group():
    split = hold_out(Numbered(100), 0.1, lambda record: marked(7))
    assert split.held_out is None
    assert split.groups == 1


def test_rows_that_cannot_be_read_are_in_the_training_part():
    split = hold_out(Numbered(100, broken={3, 50}), 0.1)
    assert len(split.held_out) == 10
    with pytest.raises(BrokenRecordError):
        split.train[split.train.rows.index(3)]


def test_a_value_that_cannot_be_decoded_is_linked_to_none():
    def fingerprints(record):
        raise BrokenRecordError(record["origin"], "no image")

    assert ids(hold_out(Numbered(100), 0.1, fingerprints).held_out) == ids(
        hold_out(Numbered(100), 0.1).held_out
    )
