"""Positives from keys against the rule written out pair by pair."""

import random

import pytest
import torch

from amodal.losses.positives import positives_from_keys


def by_rule(left_item, right_item, left_content, right_content):
    left_content = left_content or [None] * len(left_item)
    right_content = right_content or [None] * len(right_item)
    owns = set(zip(left_item, left_content, strict=True))
    owns |= set(zip(right_item, right_content, strict=True))
    return [
        [
            a == b
            or (c is not None and c == d)
            or (d is not None and (a, d) in owns)
            or (c is not None and (b, c) in owns)
            for b, d in zip(right_item, right_content, strict=True)
        ]
        for a, c in zip(left_item, left_content, strict=True)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_it_equals_the_rule_pair_by_pair(seed):
    rng = random.Random(seed)
    n, m = rng.randint(0, 8), rng.randint(0, 8)
    keys = [rng.getrandbits(64) - (1 << 63) for _ in range(5)]

    def draw(count):
        return [rng.choice(keys) for _ in range(count)]

    left_item, right_item = draw(n), draw(m)
    left_content = draw(n) if seed % 2 else None
    right_content = draw(m) if seed % 3 else None

    def tensor(values):
        return None if values is None else torch.tensor(values, dtype=torch.int64)

    got = positives_from_keys(*map(tensor, (left_item, right_item, left_content, right_content)))
    assert got.shape == (n, m)
    assert got.tolist() == by_rule(left_item, right_item, left_content, right_content)


def test_an_equal_caption_makes_the_other_items_image_a_positive_but_not_its_other_captions():
    image_item = torch.tensor([1, 2, 3])
    text_item = torch.tensor([1, 1, 2, 2, 3])
    caption = torch.tensor([10, 11, 10, 12, 13])  # items 1 and 2 share caption 10
    got = positives_from_keys(image_item, text_item, None, caption)
    want = torch.tensor(
        [
            [1, 1, 1, 0, 0],  # its own two, and item 2's copy of caption 10
            [1, 0, 1, 1, 0],
            [0, 0, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(got, want)
    assert torch.equal(positives_from_keys(text_item, image_item, caption, None), want.T)


def test_without_content_only_items_count():
    got = positives_from_keys(torch.tensor([1, 2]), torch.tensor([2, 2, 3]))
    assert got.tolist() == [[False, False, False], [True, True, False]]


def test_captions_in_two_languages_with_equal_content_belong_together():
    got = positives_from_keys(
        torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([7, 8]), torch.tensor([8, 9])
    )
    assert got.tolist() == [[False, False], [True, False]]
