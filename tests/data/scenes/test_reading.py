"""Captions parsed into claims, and claims compared with scenes as tuples."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from amodal.data.scenes.captions import write_captions
from amodal.data.scenes.claims import Claims, Mention
from amodal.data.scenes.reading import (
    read_caption,
    tuples_expected,
    tuples_of_claims,
    tuples_of_scene,
)
from amodal.data.scenes.world import COLOURS, RELATIONS, Object, Scene, sample_scene
from amodal.metrics.caption_tokens import tokenize
from amodal.metrics.scene_graph import scene_graph_f1, scene_graph_scores

STAR = Object("star", "red", "large", "striped", 0.15, 0.2)
RING = Object("ring", "blue", "small", "solid", 0.8, 0.25)
SCENE = Scene((STAR, RING), "grey")


def captions(style, scenes=2000, max_objects=6):
    for index in range(scenes):
        scene = sample_scene(3, "iid", "train", index, max_objects=max_objects)
        for caption in write_captions(scene, f"{index}", count=2, style=style):
            yield scene, caption


@pytest.mark.parametrize("style", ["complete", "brief", "mixed"])
def test_every_caption_is_parsed_into_its_claims(style):
    for scene, caption in captions(style):
        found = read_caption(caption.text)
        assert found is not None, caption.text
        assert found.hold_in(scene), caption.text
        # "A is left of B" names A first, though B was planned first.
        assert Counter(tuples_of_claims(found)) == Counter(tuples_of_claims(caption.claims))
        assert Counter(found.mentions) == Counter(caption.claims.mentions)
        assert found.background == caption.claims.background


def test_true_complete_captions_agree_with_their_scenes():
    pairs = list(captions("complete"))
    read = [(scene, read_caption(caption.text)) for scene, caption in pairs]
    found = scene_graph_scores(
        [tuples_of_claims(c) for _, c in read], [tuples_expected(s, c) for s, c in read]
    )
    for name, estimate in found.items():
        # Of identical objects located by relations the wrong one may be assigned.
        assert estimate.value >= (0.99 if name == "relations_f1" else 0.999), name


def test_captions_of_other_scenes_agree_much_less():
    pairs = list(captions("complete", scenes=200, max_objects=3))
    read = [read_caption(caption.text) for _, caption in pairs]
    other = [scene for scene, _ in pairs[2:] + pairs[:2]]
    found = scene_graph_scores(
        [tuples_of_claims(c) for c in read],
        [tuples_expected(s, c) for s, c in zip(other, read, strict=True)],
    )
    assert found["f1"].value < 0.4


def test_brief_captions_are_precise_but_lack_sizes_textures_and_cells():
    read = [(scene, read_caption(caption.text)) for scene, caption in captions("brief", 200)]
    found = scene_graph_scores(
        [tuples_of_claims(c) for _, c in read], [tuples_expected(s, c) for s, c in read]
    )
    assert found["precision"].value > 0.999
    assert found["objects_f1"].value == 1
    assert 0.4 < found["recall"].value < 0.6


def test_case_and_punctuation_are_ignored():
    for _, caption in captions("mixed", scenes=300):
        tokens = " ".join(tokenize(caption.text))
        assert read_caption(tokens) == read_caption(caption.text), caption.text


def mention(shape, colour, **attributes):
    return Mention(shape, colour, **attributes)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", None),
        ("the the of of", None),
        ("a star", None),
        ("A red star", [mention("star", "red")]),
        ("a red red star and a", [mention("star", "red")]),
        ("a red blue star", [mention("star", "blue")]),
        ("a red star and a star", [mention("star", "red")]),
        ("a red star with stripes", [mention("star", "red", texture="striped")]),
        ("red star at top left", [mention("star", "red", cell=("top", "left"))]),
        ("a red star in the center", [mention("star", "red", cell=("centre", "centre"))]),
        (
            "A red star ,\n a big BLUE half circle in the",
            [mention("star", "red"), mention("semicircle", "blue", size="large")],
        ),
        (
            "There is a red star. Below it is a red star. Below it is",
            [mention("star", "red"), mention("star", "red")],
        ),
    ],
)
def test_the_parsable_part_is_returned(text, want):
    found = read_caption(text)
    assert (found and list(found.mentions)) == want


def test_any_sequence_of_words_can_be_parsed_and_scored():
    draw = Random(0)
    words = [w for _, c in captions("mixed", scenes=30) for w in c.text.split()]
    words += ["<unk>", "[pad]", "{left_of}", "<3>", "[top,left]", "it", "is", "", "\n", "é"]
    read = 0
    for _ in range(3000):
        text = " ".join(draw.choice(words) for _ in range(draw.randrange(40)))
        claims = read_caption(text)
        read += claims is not None
        if claims is not None:
            found = scene_graph_f1(tuples_of_claims(claims), tuples_expected(SCENE, claims))
            assert 0 <= found.micro <= 1
            claims.hold_in(SCENE)
    assert read > 500
    assert read_caption("a red star [pad] is <0> {x} it is <0>").mentions == (
        Mention("star", "red"),
    )


def test_relations_to_unparsable_objects_are_left_out():
    text = (
        "A red star. Below it is a ring. To the left of it is a blue heart. Above it is a lime ring"
    )
    found = read_caption(text)
    assert [m.shape for m in found.mentions] == ["star", "heart", "ring"]
    assert found.relations == ((2, "above", 1),)
    assert read_caption("Below it is a red star. It is left of it.").relations == ()


def test_claims_become_tuples():
    claims = Claims(
        (Mention("star", "red", "large", None, ("top", "left")), Mention("ring", "blue")),
        ((0, "left_of", 1),),
        True,
        "grey",
    )
    assert sorted(tuples_of_claims(claims)) == sorted(
        [
            ("star",),
            ("star", "red"),
            ("star", "large"),
            ("star", "top left"),
            ("ring",),
            ("ring", "blue"),
            ("star", "left_of", "ring"),
            ("background", "grey"),
        ]
    )


def test_a_scene_holds_every_cell_and_every_relation():
    found = tuples_of_scene(SCENE)
    assert ("ring", "top right") in found
    assert [t for t in found if len(t) == 3] == [
        ("star", "left_of", "ring"),
        ("ring", "right_of", "star"),
    ]
    for index in range(50):
        scene = sample_scene(0, "iid", "train", index)
        relations = sum(
            holds(a, b)
            for holds in RELATIONS.values()
            for a in scene.objects
            for b in scene.objects
        )
        assert len(tuples_of_scene(scene)) == 5 * len(scene.objects) + 1 + relations


FULL = "A large red striped star at the top left and a small solid blue ring to the right of it"


def f1(text):
    claims = read_caption(text)
    predicted = tuples_of_claims(claims) if claims else []
    return scene_graph_f1(predicted, tuples_expected(SCENE, claims))


def test_no_cell_is_better_than_a_false_one_and_worse_than_a_true_one():
    star = "a large red striped star"
    ring = "a small solid blue ring"
    true = f1(f"{star} at the top left and {ring} at the top right")
    none = f1(f"{star} at the top left and {ring}")
    false = f1(f"{star} at the top left and {ring} at the bottom right")
    assert true.micro == true.macro == 1
    assert 1 > none.micro > false.micro
    assert none.precision == 1
    related = f1(f"{star} at the top left. To the right of it is {ring}.")
    assert related.micro == 1
    wrong = f1(f"{star} at the top left. Below it is {ring}.")
    assert wrong.relations == 0
    assert wrong.attributes == 1


@pytest.mark.parametrize("kind", ["colour", "size", "texture", "shape"])
def test_every_kind_of_mistake_lowers_agreement(kind):
    other = {"colour": "lime", "size": "medium", "texture": "dotted", "shape": "heart"}
    for index in range(50):
        scene = sample_scene(5, "iid", "train", index, max_objects=3)
        (caption,) = write_captions(scene, f"{index}", count=1)
        first = caption.claims.mentions[0]
        if getattr(first, kind) == other[kind]:
            continue
        changed = replace(first, **{kind: other[kind]})
        claims = replace(caption.claims, mentions=(changed, *caption.claims.mentions[1:]))
        found = scene_graph_f1(tuples_of_claims(claims), tuples_expected(scene, claims))
        assert found.micro < 1
        assert found.precision < 1


def test_an_unparsable_caption_scores_zero():
    found = f1("nothing that could be read")
    assert found.recall == found.micro == 0


def test_every_colour_is_parsed():
    for colour in COLOURS:
        assert read_caption(f"a {colour} heart").mentions == (Mention("heart", colour),)
