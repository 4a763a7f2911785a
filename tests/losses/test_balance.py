"""Balance: the leader is held back, and heads that overfit count less."""

import math

import pytest
import torch

from amodal.losses.balance import blending_weights, gradient_modulation_factors, truth_confidence


def test_modulation_of_two_modalities_is_the_published_rule():
    factors = gradient_modulation_factors({"a": 6.0, "b": 3.0}, alpha=0.5)
    assert factors["a"] == pytest.approx(1 - math.tanh(0.5 * 2))
    assert factors["b"] == 1


def test_modulation_compares_with_the_mean_of_all_others():
    factors = gradient_modulation_factors({"a": 6.0, "b": 3.0, "c": 1.0}, alpha=0.3)
    assert factors["a"] == pytest.approx(1 - math.tanh(0.3 * 3))
    assert factors["b"] == 1  # 3 / 3.5 is no lead
    assert factors["c"] == 1


@pytest.mark.parametrize("confidence", [{"a": 1.0}, {"a": 0.0, "b": 0.0}, {"a": 2.0, "b": 2.0}, {}])
def test_without_a_leader_nothing_is_held_back(confidence):
    assert all(factor == 1 for factor in gradient_modulation_factors(confidence, 0.5).values())


def test_a_leader_without_rivals_is_held_back_but_never_stopped():
    assert 0 < gradient_modulation_factors({"a": 5.0, "b": 0.0}, 0.5)["a"] < 0.01


def test_truth_confidence_sums_probabilities_of_what_is_true():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [5.0, 0.0]])
    found = truth_confidence(logits, torch.tensor([1, 0, -100]), "classification")
    assert found == pytest.approx(0.75 + 0.5)
    many = truth_confidence(
        torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[1.0, 0.0]]), "multi_label"
    )
    assert many == pytest.approx((0.5 + 0.25) / 2)
    number = truth_confidence(torch.tensor([[2.0]]), torch.tensor([1.0]), "regression")
    assert number == pytest.approx(math.exp(-0.5))


def test_blending_weighs_by_gain_over_squared_overfitting():
    train = {"a": (1.0, 0.5), "b": (1.0, 0.2)}
    validation = {"a": (1.1, 0.7), "b": (1.1, 0.9)}
    gains = {"a": 0.4, "b": 0.2}
    overfit = {"a": (0.7 - 0.5) - 0.1, "b": (0.9 - 0.2) - 0.1}
    raw = {m: gains[m] / overfit[m] ** 2 for m in gains}
    found = blending_weights(train, validation)
    for m in gains:
        assert found[m] == pytest.approx(raw[m] / sum(raw.values()))


def test_blending_is_even_where_nobody_got_better():
    same = {"a": (1.0, 1.0), "b": (1.0, 2.0), "c": (1.0, 1.5)}
    assert blending_weights(same, same) == pytest.approx(dict.fromkeys(same, 1 / 3))


def test_blending_is_finite_for_a_head_that_did_not_overfit():
    found = blending_weights({"a": (1, 0.5), "b": (1, 0.5)}, {"a": (1, 0.5), "b": (1, 0.9)})
    assert found["a"] > 0.9
    assert math.isfinite(sum(found.values()))
