"""Scene-graph F1 against counting by hand and by a loop."""

import math
import random

import pytest

from amodal.metrics.scene_graph import NAMES, scene_graph_f1, scene_graph_scores

TRUE = {("star",), ("ring",), ("star", "red"), ("ring", "blue"), ("star", "above", "ring")}


def test_scores_of_a_case_counted_by_hand():
    predicted = {("star",), ("star", "red"), ("star", "blue"), ("star", "below", "ring")}
    found = scene_graph_f1(predicted, TRUE)
    assert found.precision == pytest.approx(2 / 4)
    assert found.recall == pytest.approx(2 / 5)
    assert found.micro == pytest.approx(4 / 9)
    assert found.objects == pytest.approx(2 / 3)
    assert found.attributes == pytest.approx(2 / 4)
    assert found.relations == 0
    assert found.macro == pytest.approx((2 / 3 + 1 / 2) / 3)


def test_equal_tuples_score_one_and_absent_kinds_are_not_counted():
    assert scene_graph_f1(TRUE, TRUE).micro == scene_graph_f1(TRUE, TRUE).macro == 1
    found = scene_graph_f1([("star",)], [("star",)])
    assert found.macro == 1
    assert math.isnan(found.relations)
    empty = scene_graph_f1([], [])
    assert empty.micro == empty.macro == empty.precision == empty.recall == 1
    assert scene_graph_f1([], TRUE).micro == 0


def test_two_objects_of_one_name_must_be_named_twice():
    two = [("star",), ("star",)]
    assert scene_graph_f1([("star",)], two).recall == 0.5
    assert scene_graph_f1(two, [("star",)]).precision == 0.5


def random_tuples(seed, images=30):
    draw = random.Random(seed)
    kinds = [("a",), ("b",), ("a", "x"), ("b", "x"), ("b", "y"), ("a", "r", "b"), ("b", "r", "a")]
    return [[draw.choice(kinds) for _ in range(draw.randrange(7))] for _ in range(images)]


def loop(predicted, true):
    def f1(hits, predicted_tuples, true_tuples, otherwise):
        total = predicted_tuples + true_tuples
        return 2 * hits / total if total else otherwise

    totals = {k: [0, 0, 0] for k in (1, 2, 3)}
    each = []
    for predicted_tuples, true_tuples in zip(predicted, true, strict=True):
        rest, hits = list(true_tuples), 0
        for t in predicted_tuples:
            if t in rest:
                rest.remove(t)
                hits += 1
                totals[len(t)][0] += 1
        for t in predicted_tuples:
            totals[len(t)][1] += 1
        for t in true_tuples:
            totals[len(t)][2] += 1
        each.append(f1(hits, len(predicted_tuples), len(true_tuples), 1.0))
    hits, predicted_tuples, true_tuples = (sum(t[k] for t in totals.values()) for k in range(3))
    kinds = [f1(*totals[k], math.nan) for k in (1, 2, 3)]
    macro = sum(kinds) / 3
    return [
        f1(hits, predicted_tuples, true_tuples, 1),
        hits / predicted_tuples,
        hits / true_tuples,
        macro,
        *kinds,
        sum(each) / len(each),
    ]


@pytest.mark.parametrize("seed", range(10))
def test_scores_of_a_set_equal_a_loop(seed):
    predicted, true = random_tuples(seed), random_tuples(seed + 100)
    found = scene_graph_scores(predicted, true)
    got = [found[name].value for name in (*NAMES, "mean_f1")]
    assert got == pytest.approx(loop(predicted, true))


def test_intervals_contain_the_estimates():
    found = scene_graph_scores(random_tuples(0, 200), random_tuples(1, 200), bootstrap=300)
    for name, estimate in found.items():
        assert estimate.low < estimate.value < estimate.high, name


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one to three entries, got 'star'"):
        scene_graph_f1(["star"], TRUE)
    with pytest.raises(ValueError, match="one to three entries"):
        scene_graph_f1([()], TRUE)
    with pytest.raises(ValueError, match="same images, got 1 and 0"):
        scene_graph_scores([TRUE], [])
