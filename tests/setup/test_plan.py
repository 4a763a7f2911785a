"""Settings that depend on the number of items."""

import pytest

from amodal.setup.plan import fitted_to_items

VALUES = {"data": {"captions_per_item": 3}, "train": {"batch_size": 512}}


@pytest.mark.parametrize(
    ("items", "expected"), [(300, 64), (3_000, 512), (30_000, 512), (40, 8), (5, 8)]
)
def test_a_batch_has_a_quarter_of_the_training_items_at_most(items, expected):
    assert fitted_to_items(VALUES, items, {3: items})["train"]["batch_size"] == expected


@pytest.mark.parametrize(
    ("captions", "expected"),
    [({5: 100}, 3), ({1: 49, 3: 51}, 3), ({1: 51, 3: 49}, 1), ({2: 100}, 2), ({}, 3)],
)
def test_no_more_captions_are_drawn_than_half_of_the_items_have(captions, expected):
    fitted = fitted_to_items(VALUES, 30_000, captions)  # of which a hundred were read
    assert fitted["data"]["captions_per_item"] == expected
    assert VALUES["data"]["captions_per_item"] == 3
