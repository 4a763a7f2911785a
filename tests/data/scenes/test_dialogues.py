"""Dialogues: pronouns refer to one known object, and answers cannot be guessed."""

from collections import Counter, defaultdict

import pytest

from amodal.data.scenes.dialogues import CANDIDATES, write_dialogue
from amodal.data.scenes.programs import Count, Description, Exists, Query, Relate, answer, value_of
from amodal.data.scenes.world import Object, Scene, sample_scene

PRONOUNS = {"it", "its", "that", "one", "other"}


def dialogues(count, low=2, high=6, rounds=7):
    for i in range(count):
        scene = sample_scene(4, "iid", "train", i, min_objects=low, max_objects=high)
        yield scene, write_dialogue(scene, str(i), rounds=rounds)


def words(text):
    return set(text.strip("?").replace(",", "").split())


def matching(text, scene):
    """The objects of the scene that a phrase such as "a large star" matches."""
    attributes = words(text) - {"a", "an", "it", "is"}
    return [o for o in scene.objects if attributes <= {o.shape, o.colour, o.size, o.texture}]


def test_every_answer_is_true():
    for scene, rounds in dialogues(150):
        for r in rounds:
            focus = None if r.focus is None else scene.objects[r.focus]
            relevant = {c for c, v in zip(r.candidates, r.relevance, strict=True) if v}
            assert r.answer in relevant
            if r.program is not None:
                assert answer(r.program, scene) in relevant
            else:
                assert focus in matching(r.answer, scene)


def test_candidates_hold_the_answer_in_both_wordings():
    for _, rounds in dialogues(100):
        for r in rounds:
            assert len(r.candidates) == len(set(r.candidates)) == len(r.relevance) == CANDIDATES
            assert sorted(set(r.relevance)) == [0.0, 1.0]
            assert sum(r.relevance) == 2.0


def test_candidates_hold_the_values_of_the_other_objects():
    for scene, rounds in dialogues(100):
        for r in rounds:
            if isinstance(r.program, Query):
                here = {value_of(o, r.program.attribute) for o in scene.objects}
                assert here <= set(r.candidates)


def test_wording_and_position_of_the_correct_candidate_are_uniform():
    positions, kinds = Counter(), Counter()
    for _, rounds in dialogues(300):
        for r in rounds:
            positions[r.candidates.index(r.answer)] += 1
            if r.answer.startswith(("yes", "no")):
                kinds[r.answer] += 1
    expected = positions.total() / CANDIDATES
    assert all(abs(positions[k] - expected) < 4.5 * expected**0.5 for k in range(CANDIDATES))
    assert len(kinds) == 4


def test_most_questions_after_the_first_refer_back():
    for low, high in ((2, 2), (3, 4), (5, 6)):
        later = [r.history_dependent for _, d in dialogues(150, low, high, 6) for r in d[1:]]
        assert sum(later) > 0.7 * len(later)


def test_only_questions_that_refer_back_have_a_pronoun():
    for _, rounds in dialogues(100):
        assert not rounds[0].history_dependent
        for r in rounds:
            assert r.history_dependent == bool(words(r.question) & PRONOUNS)


def test_it_is_the_object_in_focus_and_only_the_wording_moves_the_focus():
    for scene, rounds in dialogues(150):
        previous = None
        for r in rounds:
            if {"it", "its"} & words(r.question) or "that one" in r.question:
                assert previous is not None
                item = scene.objects[previous]
                program = r.program
                if isinstance(program, Count):
                    assert program.target.anchor.unique(scene) is item
                elif isinstance(program, Relate):
                    assert program.left.unique(scene) is item
                elif isinstance(program, Query):
                    assert program.target.unique(scene) is item
                if program is not None:
                    assert r.focus == previous
                else:
                    assert r.focus != previous
            previous = r.focus


def test_the_other_one_is_the_other_of_two_that_were_counted():
    found = 0
    for scene, rounds in dialogues(300, 3, 6):
        for k, r in enumerate(rounds):
            if "other one" not in r.question:
                continue
            found += 1
            counted, first = rounds[k - 2], rounds[k - 1]
            pair = counted.program.target.matches(scene)
            assert len(pair) == 2
            assert {scene.objects[first.focus], scene.objects[r.focus]} == set(pair)
            assert first.program.attribute == r.program.attribute
            assert answer(first.program, scene) != answer(r.program, scene)
    assert found > 30


def test_the_attribute_asked_differs_among_the_objects_of_the_scene():
    for scene, rounds in dialogues(200):
        for r in rounds:
            if r.history_dependent and isinstance(r.program, Query):
                values = {value_of(o, r.program.attribute) for o in scene.objects}
                assert len(values) > 1


def test_a_reader_without_history_does_badly():
    """Even given the scene: the most common value of the attribute, for every pronoun question."""
    hits = total = 0.0
    yes = Counter()
    for scene, rounds in dialogues(400, 3, 6):
        for r in rounds:
            if r.history_dependent and isinstance(r.program, Query):
                shown = Counter(value_of(o, r.program.attribute) for o in scene.objects)
                hits += answer(r.program, scene) == shown.most_common(1)[0][0]
                total += 1
            if r.history_dependent and isinstance(r.program, Exists | Relate):
                yes[answer(r.program, scene)] += 1
    assert hits / total < 0.4
    assert abs(yes["yes"] - yes["no"]) < 4.5 * yes.total() ** 0.5


def test_no_revealed_fact_is_asked_again():
    for scene, rounds in dialogues(200):
        revealed = defaultdict(set)
        for r in rounds:
            if isinstance(r.program, Query) and r.history_dependent:
                item = r.program.target.unique(scene)
                if words(r.question) & {"it", "its", "that"}:
                    assert r.program.attribute not in revealed[item]
            if r.focus is not None:
                item = scene.objects[r.focus]
                if isinstance(r.program, Query):
                    revealed[item].add(r.program.attribute)
                elif r.program is None:
                    answered = words(r.answer)
                    revealed[item] |= {
                        a
                        for a in ("colour", "size", "texture", "shape")
                        if getattr(item, a) in answered
                    }


def test_dialogues_are_fixed_by_scene_and_key():
    ((scene, first),) = dialogues(1, rounds=6)
    assert write_dialogue(scene, "0", rounds=6) == first
    assert write_dialogue(scene, "0", rounds=8)[:6] == first
    assert write_dialogue(scene, "1", rounds=6) != first


def test_a_scene_of_identical_objects_has_a_dialogue():
    twins = Scene(tuple(Object("star", "red", "small", "solid", x, 0.5) for x in (0.2, 0.5, 0.8)))
    rounds = write_dialogue(twins, "k", rounds=8)
    assert len(rounds) == 8
    for r in rounds:
        assert isinstance(r.program, Query | Count | Exists | Relate | None)
    assert Description(texture="solid").matches(twins) == list(twins.objects)


def test_a_scene_of_one_object_is_refused():
    lone = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),))
    with pytest.raises(ValueError, match="2 or more objects, the scene has 1"):
        write_dialogue(lone, "k")
    with pytest.raises(ValueError, match="1 or more rounds, got 0"):
        write_dialogue(Scene(lone.objects * 2), "k", rounds=0)
