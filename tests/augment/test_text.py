"""Captions stay true of mirrored pictures; tokens are hidden without losing a caption."""

import re

import numpy as np
import pytest
import torch

from amodal.augment.text import OPPOSITE, swap_left_right, token_dropout, token_mask
from amodal.data.record import sample_rng
from amodal.data.scenes.captions import write_captions
from amodal.data.scenes.source import ScenesConfig

SIDES = [
    ("a dog to the left of a cat", "a dog to the right of a cat"),
    ("in the top left corner", "in the top right corner"),
    ("Right of it is a star.", "Left of it is a star."),
    ("the man on the left behind the tree", "the man on the right behind the tree"),
    ("holds it in his right hand", "holds it in his left hand"),
    ("a right-hand turn", "a left-hand turn"),
    ("the leftmost of three", "the rightmost of three"),
    ("the dog turns right", "the dog turns left"),
    ("TO THE LEFT", "TO THE RIGHT"),
    ("the left one is right in front of me", "the right one is right in front of me"),
    ("left and right", "right and left"),
    ("在左上角", "在右上角"),
    ("圆形在星形右边", "圆形在星形左边"),
]
STAYS = [
    "she is right behind him",
    "a boy right next to the dog",
    "right in front of the door",
    "people walk right past",
    "all right",
    "he has left the room",
    "a toy that was left behind",
    "water left by the sprinklers",
    "bright lights and copyright",
    "道路左右两旁",
]


@pytest.mark.parametrize(("text", "mirrored"), SIDES)
def test_sides_are_exchanged_and_back(text, mirrored):
    assert swap_left_right(text) == mirrored
    assert swap_left_right(mirrored) == text


@pytest.mark.parametrize("text", STAYS)
def test_other_uses_stay(text):
    assert swap_left_right(text) == text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_of_scenes_are_true_of_the_mirrored_scene(language):
    source = ScenesConfig(size=60, min_objects=2, captions_per_scene=4).open()
    swapped = 0
    for i in range(len(source)):
        scene = source.scene(i)
        for caption in write_captions(scene, str(i), count=4, languages=(language,)):
            # In the world every side is a side, so plain exchange gives the true caption; that it
            # does is shown in tests/data/scenes/test_scenes_captions.py.
            exchanged = re.sub(
                "left|right|左|右",
                lambda side: OPPOSITE[side.group().lower()],
                caption.text,
                flags=re.IGNORECASE,
            )
            mirrored = swap_left_right(caption.text)
            swapped += mirrored != caption.text
            assert mirrored.lower() == exchanged.lower()
            assert caption.claims.mirrored().hold_in(scene.mirrored())
    assert swapped > 60


def rngs(n):
    return [sample_rng(0, 0, i) for i in range(n)]


def batch():
    ids = torch.tensor([[1, 10, 11, 12, 13, 14, 2, 0, 0], [1, 20, 2, 0, 0, 0, 0, 0, 0]])
    return ids, (ids != 0).long()


def test_masking_spares_special_tokens_and_one_of_each_caption():
    ids, mask = batch()
    out = token_mask(ids, mask, special_ids={0, 1, 2}, mask_id=3, rate=0.999, rngs=rngs(2))
    assert torch.equal(out[:, 0], ids[:, 0])
    assert (out[0] == 3).sum() == 4
    assert torch.equal(out[1], ids[1])


def test_masking_depends_on_the_row_alone_not_on_the_padding():
    ids, mask = batch()
    options = {"special_ids": {0, 1, 2}, "mask_id": 3, "rate": 0.5}
    together = token_mask(ids, mask, **options, rngs=rngs(2))
    alone = token_mask(ids[:1, :7], mask[:1, :7], **options, rngs=rngs(1))
    assert torch.equal(together[0, :7], alone[0])


def test_the_share_of_masked_tokens_is_the_rate():
    ids = torch.full((200, 50), 9)
    out = token_mask(
        ids, torch.ones_like(ids), special_ids={0}, mask_id=3, rate=0.3, rngs=rngs(200)
    )
    # 10,000 draws: five standard deviations are 0.023
    assert abs((out == 3).float().mean().item() - 0.3) < 0.023


def test_dropped_tokens_leave_no_hole():
    ids, mask = batch()
    out = token_dropout(
        {"input_ids": ids, "attention_mask": mask}, special_ids={0, 1, 2}, rate=0.6, rngs=rngs(2)
    )
    for row in range(2):
        kept = out["input_ids"][row][out["attention_mask"][row].bool()].tolist()
        order = [int(t) for t in ids[row] if int(t) in kept]
        assert kept == order
        assert kept[0] == 1
        assert kept[-1] == 2
        assert len(kept) >= 3
    lengths = out["attention_mask"].sum(1)
    assert out["input_ids"].shape[1] == lengths.max()
    assert np.all(np.diff(out["attention_mask"].numpy(), axis=1) <= 0)
