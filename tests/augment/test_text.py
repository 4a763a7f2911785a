"""Captions stay true of mirrored images; tokens are hidden without losing a caption."""

import re

import numpy as np
import pytest
import torch

from amodal.augment.text import OPPOSITE, swap_left_right, token_dropout, token_mask
from amodal.data.record import sample_rng
from amodal.data.scenes.captions import write_captions
from amodal.data.scenes.source import ScenesConfig

PAIRS = [("left", "right"), ("左", "右"), ("clockwise", "counterclockwise"), ("顺时针", "逆时针")]
# A mark stands in front of each word that is exchanged.
SIDES = """
a dog to the ^left of a cat
^Left of it is a star.
the cup is ^right of the plate
in the top ^left corner
in the upper-^left corner
at the far ^right of the frame
the man on the ^left behind the tree
a man on ^left in blue and a man on ^right in red
the ^left one is right in front of me
the second from ^right
from ^left to ^right
^left and ^right
photo taken from the ^right
the child on the ^right next to a dog
a crowd is on the ^left inside of a fence
the woman on the ^left has left her bag on the bench
the ^leftmost of three and the ^rightmost of four
on the ^righthand side
moving ^leftwards
holds it in his ^right hand
the dog 's ^right ear
has ^left arm in a cast
he is ^right handed and she is ^left-handed
a ^right-handed batter throws a ^right hook
a bird with both ^left wings up
a ^right-hand turn
the dog turns ^right
turning ^left at the light
turns ^right on the road
Sole mountain climber stands atop snowy peak looking ^left
A teenage boy looking ^right , a crowd in the background .
Four judges are sitting at a table with the center ^left one speaking .
Water from the ^left splashing over a man with a white helmet .
a man standing outside with some other people to hi ^right
TO THE ^LEFT
a wheel that turns ^clockwise
^左上角和^右下角
从^左到^右
圆形在星形^右边
^左手拿着杯子，向^左转
^顺时针旋转
""".strip().splitlines()
STAYS = """
she is right behind him
a dog follows her right behind
a boy right next to the dog
right in front of the door
right in the middle
people walk right past
looking right at the camera
stares right in the camera
A dog running through the water right toward the camera .
Two horses are right alongside each other in the race .
A person is standing right where the waves stop on the sand .
Three people walking in a park right outside of the city .
right now he sleeps
all right
that is right .
this is nice , right ?
the right way to hold a bat
a train has the right of way
holding signs for the right to vote
the wall meets the floor at a right angle
right-wing protesters
standing right side up
tries to right the kayak
animal rights, bright lights, an upright piano and a copyright
he has left the room
the train has just left the station
she left him alone
people who left early
a toy that was left behind
A boy has thrown a snowball that has left a trail of snow behind it in the air .
water left by the sprinklers
Ski equipment , left alone on snowy ski slope .
a bicycle left leaning against a wall
the dog was left tied to a post
one slice of pizza left
there are only two cookies left on the plate
what is left of the building
a plate of left over food and leftovers
a sign that reads turn left
The words " Look Right " with an arrow painted on a city street
道路左右两旁
大约三点左右
他的座右铭
""".strip().splitlines()


@pytest.mark.parametrize("marked", SIDES)
def test_sides_are_exchanged_and_back(marked):
    opposite = {k: v for pair in PAIRS for k, v in (pair, pair[::-1])}

    def conversation(match):
        word, plain = match[1], match[1].lower()
        side = next(k for k in sorted(opposite, key=len, reverse=True) if plain.startswith(k))
        new = opposite[side] + word[len(side) :]
        return new.upper() if word.isupper() else new.capitalize() if word.istitle() else new

    text = marked.replace("^", "")
    mirrored = re.sub(r"\^([a-zA-Z]+|[左右]|顺时针)", conversation, marked)
    assert swap_left_right(text) == mirrored
    assert swap_left_right(mirrored) == text


@pytest.mark.parametrize("text", STAYS)
def test_other_uses_stay(text):
    assert swap_left_right(text) == text


def test_a_direction_that_would_read_as_an_adverb_is_spelled_out():
    assert swap_left_right("he looks left at me") == "he looks to the right at me"
    assert swap_left_right("he looks to the right at me") == "he looks to the left at me"


@pytest.mark.parametrize("word", ["counter-clockwise", "anticlockwise", "anti-clockwise"])
def test_every_spelling_of_counterclockwise_is_known(word):
    assert swap_left_right(f"turns {word}") == "turns clockwise"


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


def test_padding_on_the_left_changes_nothing_but_the_place():
    ids, mask = batch()
    options = {"special_ids": {0, 1, 2}, "rate": 0.5}
    right = token_dropout({"input_ids": ids, "attention_mask": mask}, **options, rngs=rngs(2))
    order = mask.argsort(dim=1, stable=True)  # padding first
    padded_left = {"input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order)}
    left = token_dropout(padded_left, **options, rngs=rngs(2))
    assert torch.equal(left["input_ids"], right["input_ids"])
    assert torch.equal(left["attention_mask"], right["attention_mask"])
    masked = token_mask(*batch(), mask_id=3, **options, rngs=rngs(2))
    masked_left = token_mask(*padded_left.values(), mask_id=3, **options, rngs=rngs(2))
    assert torch.equal(masked_left, masked.gather(1, order))
