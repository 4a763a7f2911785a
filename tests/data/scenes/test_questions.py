"""Questions: correct answers, unique references, and no shortcuts."""

from collections import Counter, defaultdict
from dataclasses import fields

import pytest

from amodal.data.scenes.programs import (
    ANSWERS,
    ATTRIBUTES,
    AmbiguousError,
    Compare,
    CompareSize,
    Count,
    Description,
    Exists,
    Query,
    Relate,
    answer,
    mirrored,
    mirrored_answer,
)
from amodal.data.scenes.question_words import CHINESE_ANSWERS, ask_in_chinese, ask_in_english
from amodal.data.scenes.questions import FAMILIES, refer, write_questions
from amodal.data.scenes.world import (
    COLOURS,
    RADIUS,
    RELATION_GAP,
    SHAPES,
    TEXTURES,
    Draw,
    Object,
    Scene,
    held_out_pair,
    sample_scene,
)

THREE = Scene(
    (
        Object("star", "red", "large", "solid", 0.2, 0.2),
        Object("circle", "blue", "small", "striped", 0.5, 0.5),
        Object("star", "blue", "small", "solid", 0.8, 0.85),
    )
)


def scenes(count, low=1, high=6, generalization="iid", split="train"):
    return [
        sample_scene(3, generalization, split, i, min_objects=low, max_objects=high)
        for i in range(count)
    ]


# --- an independent evaluation of programs: tables of plain values, loops ---


def rows_of(scene):
    third = {0: "top", 1: "centre", 2: "bottom"}, {0: "left", 1: "centre", 2: "right"}
    return [
        {
            "colour": o.colour,
            "shape": o.shape,
            "size": o.size,
            "texture": o.texture,
            "cell": (third[0][int(o.y // (1 / 3))], third[1][int(o.x // (1 / 3))]),
            "x": o.x,
            "y": o.y,
        }
        for o in scene.objects
    ]


def stands(relation, a, b):
    axis, sign = {
        "left_of": ("x", 1),
        "right_of": ("x", -1),
        "above": ("y", 1),
        "below": ("y", -1),
    }[relation]
    return sign * (b[axis] - a[axis]) >= RELATION_GAP


def select(rows, description):
    found = []
    for row in rows:
        fits = True
        for name in ("colour", "shape", "size", "texture", "cell"):
            wanted = getattr(description, name)
            fits = fits and (wanted is None or row[name] == wanted)
        found += [row] if fits else []
    if description.anchor is not None:
        (anchor,) = select(rows, description.anchor)
        found = [row for row in found if stands(description.relation, row, anchor)]
    return found


def evaluate(program, scene):
    rows = rows_of(scene)
    order = ["small", "medium", "large"]
    if isinstance(program, Exists):
        truth = len(select(rows, program.target)) > 0
    elif isinstance(program, Count):
        return str(len(select(rows, program.target)))
    elif isinstance(program, Compare):
        difference = len(select(rows, program.left)) - len(select(rows, program.right))
        truth = {"more": difference > 0, "fewer": difference < 0, "equal": difference == 0}[
            program.how
        ]
    elif isinstance(program, CompareSize):
        ((a,), (b,)) = select(rows, program.left), select(rows, program.right)
        difference = order.index(a["size"]) - order.index(b["size"])
        truth = difference > 0 if program.how == "larger" else difference < 0
    elif isinstance(program, Relate):
        ((a,), (b,)) = select(rows, program.left), select(rows, program.right)
        truth = stands(program.relation, a, b)
    else:
        assert isinstance(program, Query)
        (row,) = select(rows, program.target)
        value = row[program.attribute]
        if program.attribute != "cell":
            return value
        return "centre" if value == ("centre", "centre") else " ".join(value)
    return "yes" if truth else "no"


def descriptions_of(program):
    """All descriptions of a program, with the anchors."""
    found = [getattr(program, f.name) for f in fields(program)]
    found = [t for t in found if isinstance(t, Description)]
    for description in found:
        if description.anchor is not None:
            found.append(description.anchor)
    return found


@pytest.mark.parametrize(
    ("program", "true"),
    [
        (Exists(Description(colour="red", shape="star")), "yes"),
        (Exists(Description(colour="red", shape="circle")), "no"),
        (Count(Description(colour="blue")), "2"),
        (Count(Description(relation="above", anchor=Description(shape="circle"))), "1"),
        (Compare("more", Description(shape="star"), Description(shape="circle")), "yes"),
        (Compare("equal", Description(shape="star"), Description(colour="blue")), "yes"),
        (Compare("fewer", Description(shape="star"), Description(shape="ring")), "no"),
        (CompareSize("larger", Description(colour="red"), Description(shape="circle")), "yes"),
        (CompareSize("smaller", Description(colour="red"), Description(shape="circle")), "no"),
        (Relate("left_of", Description(colour="red"), Description(shape="circle")), "yes"),
        (Relate("above", Description(shape="circle"), Description(colour="red")), "no"),
        (Query("texture", Description(shape="circle")), "striped"),
        (Query("cell", Description(shape="circle")), "centre"),
        (Query("cell", Description(size="large")), "top left"),
        (Query("shape", Description(relation="below", anchor=Description(shape="circle"))), "star"),
        (
            Query(
                "colour",
                Description(
                    relation="above",
                    shape="star",
                    anchor=Description(
                        relation="above",
                        anchor=Description(
                            cell=("bottom", "right"),
                        ),
                    ),
                ),
            ),
            "ambiguous",
        ),
    ],
)
def test_programs_have_the_expected_answers(program, true):
    if true == "ambiguous":
        with pytest.raises(AmbiguousError, match="2 match"):
            answer(program, THREE)
    else:
        assert answer(program, THREE) == true


def test_a_description_must_match_one_object():
    for description in (Description(shape="star"), Description(shape="ring")):
        with pytest.raises(AmbiguousError):
            answer(Query("colour", description), THREE)
        with pytest.raises(AmbiguousError):
            answer(Relate("above", description, Description(shape="circle")), THREE)


def test_every_answer_is_what_an_independent_evaluation_finds():
    seen = set()
    for number, scene in enumerate(scenes(250)):
        for q in write_questions(scene, str(number), count=5):
            assert q.answer == answer(q.program, scene) == evaluate(q.program, scene)
            assert q.answer in ANSWERS
            assert q.type.split("/")[0] == q.family
            seen.add(q.family)
    assert seen == set(FAMILIES)
    assert len(set(ANSWERS)) == len(ANSWERS) == 44


def test_mirrored_questions_have_mirrored_answers():
    for number, scene in enumerate(scenes(150, low=3)):
        for q in write_questions(scene, str(number), count=4):
            turned = mirrored(q.program)
            assert answer(turned, scene.mirrored()) == mirrored_answer(q.answer)
            assert mirrored(turned) == q.program


def test_whatever_is_spoken_of_as_one_thing_is_one():
    for number, scene in enumerate(scenes(300, low=2)):
        rows = rows_of(scene)
        for q in write_questions(scene, str(number), count=4):
            singles = [t.anchor for t in descriptions_of(q.program) if t.anchor is not None]
            if isinstance(q.program, Relate | CompareSize):
                singles += [q.program.left, q.program.right]
            if isinstance(q.program, Query):
                singles.append(q.program.target)
            for description in singles:
                assert len(select(rows, description)) == 1


def test_what_is_asked_for_is_not_named():
    for number, scene in enumerate(scenes(300, low=3)):
        for q in write_questions(scene, str(number), count=4):
            if isinstance(q.program, Query):
                for description in descriptions_of(q.program):
                    assert getattr(description, q.program.attribute) is None
            if isinstance(q.program, CompareSize):
                assert q.program.left.size is q.program.right.size is None
            if isinstance(q.program, Relate):
                assert q.program.left.cell is q.program.right.cell is None


def test_objects_of_a_relation_are_never_level_with_its_anchor():
    for number, scene in enumerate(scenes(300, low=3)):
        rows = rows_of(scene)
        for q in write_questions(scene, str(number), count=4):
            for description in descriptions_of(q.program):
                if description.anchor is None:
                    continue
                (anchor,) = select(rows, description.anchor)
                axis = "x" if description.relation in ("left_of", "right_of") else "y"
                constraint = Description(
                    **{a: v for a, v in description.attributes if q.family == "exists"}
                )
                for row in select(rows, constraint):
                    if row is not anchor:
                        assert abs(row[axis] - anchor[axis]) >= RELATION_GAP
            if isinstance(q.program, Relate):
                ((a,), (b,)) = select(rows, q.program.left), select(rows, q.program.right)
                assert stands(q.program.relation, a, b) or stands(q.program.relation, b, a)


def test_a_relation_is_named_only_where_it_is_needed():
    for number, scene in enumerate(scenes(200, low=3)):
        for q in write_questions(scene, str(number), count=4):
            if q.family in ("relation", "two_hop") and isinstance(q.program, Query):
                description = q.program.target
                without = Description(**dict(description.attributes))
                assert len(without.matches(scene)) > 1


def test_references_are_short():
    lengths = Counter()
    for scene in scenes(200, low=4):
        for item in scene.objects:
            description = refer(scene, item, Draw(repr(item)))
            assert description is None or description.matches(scene) == [item]
            if description is not None:
                lengths[sum(v is not None for _, v in description.attributes)] += 1
    assert lengths[1] + lengths[2] > 0.98 * lengths.total()
    twins = Object("star", "red", "small", "solid", 0.2, 0.2)
    pair = Scene((twins, Object("star", "red", "small", "solid", 0.8, 0.2)))
    assert refer(pair, twins, Draw("a"), without=("cell",)) is None


def test_questions_are_fixed_by_scene_and_key():
    scene = scenes(1, low=4)[0]
    first = write_questions(scene, "k", count=8)
    assert write_questions(scene, "k", count=8) == first
    assert write_questions(scene, "k", count=3) == first[:3]
    assert write_questions(scene, "other", count=8) != first


def test_languages_alternate_and_answers_are_in_the_language_of_the_question():
    assert set(CHINESE_ANSWERS) | {str(n) for n in range(7)} == set(ANSWERS)
    assert len(set(CHINESE_ANSWERS.values())) == len(CHINESE_ANSWERS)
    for number, scene in enumerate(scenes(60)):
        for k, q in enumerate(write_questions(scene, str(number), count=4, languages=("en", "zh"))):
            assert q.language == ("en", "zh")[k % 2]
            assert q.text.isascii() == (k % 2 == 0)
            true = answer(q.program, scene)
            assert q.answer == (true if k % 2 == 0 else CHINESE_ANSWERS.get(true, true))


def test_every_kind_of_question_has_several_wordings():
    star, ring = Description(shape="star"), Description(shape="ring")
    kinds = [
        Exists(star),
        Count(star),
        Count(Description(relation="above", anchor=star)),
        Compare("more", star, ring),
        Compare("equal", star, ring),
        CompareSize("larger", star, ring),
        Relate("above", star, ring),
        *(Query(attribute, star) for attribute in ATTRIBUTES),
    ]
    for program in kinds:
        assert len({ask_in_english(program, Draw(str(k))) for k in range(60)}) >= 3
        assert len({ask_in_chinese(program, Draw(str(k))) for k in range(60)}) >= 2


# --- balance; margins are 4.5 standard errors of a fair draw ---


def balance(questions, group):
    """Share of yes per group, with the number of questions."""
    tally = defaultdict(Counter)
    for q in questions:
        for key in group(q):
            tally[key][q.answer] += 1
    return {key: (c["yes"] / c.total(), c.total()) for key, c in tally.items()}


@pytest.fixture(scope="module")
def many():
    return [
        (scene, q)
        for number, scene in enumerate(scenes(1600, high=4))
        for q in write_questions(scene, str(number), count=5)
    ]


def test_yes_is_as_frequent_as_no_for_every_value_that_is_asked_about(many):
    def values(q):
        return [
            (q.type, k, value)
            for k, description in enumerate(descriptions_of(q.program))
            for name, value in (*description.attributes, ("relation", description.relation))
            if value is not None and name != "cell"
        ]

    asked = [q for _, q in many if q.answer in ("yes", "no")]
    for (kind, place, value), (share, count) in balance(asked, values).items():
        assert abs(share - 0.5) < 4.5 * 0.5 / count**0.5, (kind, place, value, share, count)


def test_no_scene_makes_yes_or_a_high_count_likelier(many):
    for objects in (1, 2, 3, 4):
        asked = [q for s, q in many if len(s.objects) == objects and q.answer in ("yes", "no")]
        for kind, (share, count) in balance(asked, lambda q: [q.type]).items():
            assert abs(share - 0.5) < 4.5 * 0.5 / count**0.5, (objects, kind)
        counts = Counter(
            q.answer for s, q in many if len(s.objects) == objects and q.family == "count"
        )
        for answered in "123456":
            margin = 4.5 * (counts["0"] + counts[answered]) ** 0.5
            assert counts[answered] <= counts["0"] + margin, (objects, answered)


def test_values_that_are_asked_for_are_equally_frequent(many):
    for attribute, known in (
        ("colour", COLOURS),
        ("shape", SHAPES),
        ("texture", TEXTURES),
        ("size", RADIUS),
    ):
        tally = Counter(
            q.answer
            for _, q in many
            if isinstance(q.program, Query) and q.program.attribute == attribute
        )
        expected = tally.total() / len(known)
        for value in known:
            assert abs(tally[value] - expected) < 4.5 * expected**0.5, (attribute, value)


def test_most_absent_pairs_are_near_misses():
    near = total = 0
    for number, scene in enumerate(scenes(400, low=3)):
        for q in write_questions(scene, str(number), count=4):
            t = getattr(q.program, "target", None)
            if (
                q.type == "exists/thing"
                and q.answer == "no"
                and t.colour
                and t.shape
                and not t.size
            ):
                total += 1
                near += any(o.colour == t.colour for o in scene.objects) and any(
                    o.shape == t.shape for o in scene.objects
                )
    assert near > 0.6 * total > 0


def test_training_never_asks_about_a_held_out_pair():
    item = Object("star", "red", "small", "solid", 0.5, 0.5)
    for split, asked_there in (("train", False), ("test", True)):
        pairs = set()
        for number, scene in enumerate(
            scenes(150, low=2, generalization="attribute-pair", split=split)
        ):
            for q in write_questions(scene, str(number), count=4, generalization="attribute-pair"):
                if q.type == "exists/thing" and q.program.target.colour and q.program.target.shape:
                    t = q.program.target
                    named = Object(t.shape, t.colour, item.size, item.texture, 0.5, 0.5)
                    pairs.add(held_out_pair(named))
        assert (True in pairs) == asked_there
