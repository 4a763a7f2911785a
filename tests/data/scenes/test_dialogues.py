"""Dialogues: "it" is always one known thing, and what is asked of it cannot be guessed."""

from collections import Counter, defaultdict

import pytest

from amodal.data.scenes.dialogues import CANDIDATES, write_dialogue
from amodal.data.scenes.programs import Count, Exists, Query, Relate, Things, answer, value_of
from amodal.data.scenes.world import Object, Scene, sample_scene

PRONOUNS = {"it", "its", "that", "one", "other"}


def dialogues(count, low=2, high=6, rounds=7):
    for i in range(count):
        scene = sample_scene(4, "iid", "train", i, min_objects=low, max_objects=high)
        yield scene, write_dialogue(scene, str(i), rounds=rounds)


def words(text):
    return set(text.strip("?").replace(",", "").split())


def meaning(text, scene):
    """The one thing of the scene that "a large star" means, by its words."""
    said = words(text) - {"a", "an", "it", "is"}
    fitting = [o for o in scene.objects if said <= {o.shape, o.colour, o.size, o.texture}]
    return fitting


def test_every_answer_is_true():
    for scene, rounds in dialogues(150):
        for r in rounds:
            focus = None if r.focus is None else scene.objects[r.focus]
            relevant = {c for c, v in zip(r.candidates, r.relevance, strict=True) if v}
            assert r.answer in relevant
            if r.program is not None:
                assert answer(r.program, scene) in relevant
            else:
                assert focus in meaning(r.answer, scene)


def test_candidates_hold_the_answer_once_and_all_that_means_the_same():
    for _, rounds in dialogues(100):
        for r in rounds:
            assert len(r.candidates) == len(set(r.candidates)) == len(r.relevance) == CANDIDATES
            assert sorted(set(r.relevance)) == [0.0, 1.0]
            assert sum(r.relevance) == 2.0


def test_candidates_hold_the_values_of_the_other_things():
    for scene, rounds in dialogues(100):
        for r in rounds:
            if isinstance(r.program, Query):
                here = {value_of(o, r.program.attribute) for o in scene.objects}
                assert here <= set(r.candidates)


def test_every_wording_and_every_place_of_the_true_candidate_is_as_likely():
    places, kinds = Counter(), Counter()
    for _, rounds in dialogues(300):
        for r in rounds:
            places[r.candidates.index(r.answer)] += 1
            if r.answer.startswith(("yes", "no")):
                kinds[r.answer] += 1
    expected = places.total() / CANDIDATES
    assert all(abs(places[k] - expected) < 4.5 * expected**0.5 for k in range(CANDIDATES))
    assert len(kinds) == 4


def test_most_questions_after_the_first_refer_back():
    for low, high in ((2, 2), (3, 4), (5, 6)):
        later = [r.refers_back for _, d in dialogues(150, low, high, 6) for r in d[1:]]
        assert sum(later) > 0.7 * len(later)


def test_only_questions_that_refer_back_hold_a_pronoun():
    for _, rounds in dialogues(100):
        assert not rounds[0].refers_back
        for r in rounds:
            assert r.refers_back == bool(words(r.question) & PRONOUNS)


def test_it_is_the_thing_in_focus_and_the_focus_moves_only_where_the_words_say_so():
    for scene, rounds in dialogues(150):
        previous = None
        for r in rounds:
            if {"it", "its"} & words(r.question) or "that one" in r.question:
                assert previous is not None
                item = scene.objects[previous]
                program = r.program
                if isinstance(program, Count):
                    assert program.things.anchor.only(scene) is item
                elif isinstance(program, Relate):
                    assert program.left.only(scene) is item
                elif isinstance(program, Query):
                    assert program.things.only(scene) is item
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
            pair = counted.program.things.among(scene)
            assert len(pair) == 2
            assert {scene.objects[first.focus], scene.objects[r.focus]} == set(pair)
            assert first.program.attribute == r.program.attribute
            assert answer(first.program, scene) != answer(r.program, scene)
    assert found > 30


def test_what_it_is_asked_about_differs_among_the_things_of_the_scene():
    for scene, rounds in dialogues(200):
        for r in rounds:
            if r.refers_back and isinstance(r.program, Query):
                values = {value_of(o, r.program.attribute) for o in scene.objects}
                assert len(values) > 1


def test_a_reader_without_history_does_badly():
    """Even with the scene: the commonest value of what is asked, for every question with "it"."""
    hits = total = 0.0
    yes = Counter()
    for scene, rounds in dialogues(400, 3, 6):
        for r in rounds:
            if r.refers_back and isinstance(r.program, Query):
                shown = Counter(value_of(o, r.program.attribute) for o in scene.objects)
                hits += answer(r.program, scene) == shown.most_common(1)[0][0]
                total += 1
            if r.refers_back and isinstance(r.program, Exists | Relate):
                yes[answer(r.program, scene)] += 1
    assert hits / total < 0.4
    assert abs(yes["yes"] - yes["no"]) < 4.5 * yes.total() ** 0.5


def test_nothing_is_asked_of_it_that_was_told_before():
    for scene, rounds in dialogues(200):
        told = defaultdict(set)
        for r in rounds:
            if isinstance(r.program, Query) and r.refers_back:
                item = r.program.things.only(scene)
                if words(r.question) & {"it", "its", "that"}:
                    assert r.program.attribute not in told[item]
            if r.focus is not None:
                item = scene.objects[r.focus]
                if isinstance(r.program, Query):
                    told[item].add(r.program.attribute)
                elif r.program is None:
                    said = words(r.answer)
                    told[item] |= {
                        a
                        for a in ("colour", "size", "texture", "shape")
                        if getattr(item, a) in said
                    }


def test_dialogues_are_fixed_by_scene_and_key():
    ((scene, first),) = dialogues(1, rounds=6)
    assert write_dialogue(scene, "0", rounds=6) == first
    assert write_dialogue(scene, "0", rounds=8)[:6] == first
    assert write_dialogue(scene, "1", rounds=6) != first


def test_a_scene_of_look_alikes_is_still_talked_about():
    twins = Scene(tuple(Object("star", "red", "small", "solid", x, 0.5) for x in (0.2, 0.5, 0.8)))
    rounds = write_dialogue(twins, "k", rounds=8)
    assert len(rounds) == 8
    for r in rounds:
        assert isinstance(r.program, Query | Count | Exists | Relate | None)
    assert Things(texture="solid").among(twins) == list(twins.objects)


def test_a_scene_of_one_thing_is_refused():
    lone = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),))
    with pytest.raises(ValueError, match="2 objects or more, the scene has 1"):
        write_dialogue(lone, "k")
    with pytest.raises(ValueError, match="1 round or more, got 0"):
        write_dialogue(Scene(lone.objects * 2), "k", rounds=0)
