"""Robustness against values worked out by hand, and what constant predictions get."""

import itertools

import numpy as np
import pytest
import torch

from amodal.metrics.prediction import best_constant_labels, regression_metrics
from amodal.metrics.robustness import item_scores, robustness_metrics

RATES = (0.0, 0.5, 1.0)


def test_guessing_for_the_items_hit_has_no_effective_robustness():
    # Of 100 items 80 are right; at each rate the items hit fall to 20 % right.
    clean = torch.tensor([1.0] * 80 + [0.0] * 20)
    half = torch.tensor([1.0] * 50 + [0.0] * 50)
    none = torch.tensor([1.0] * 20 + [0.0] * 80)
    found = robustness_metrics(RATES, torch.stack([clean, half, none]), 0.2, bootstrap=0)
    assert [s.value for s in found.scores] == pytest.approx([0.8, 0.5, 0.2])
    assert found.area.value == pytest.approx(0.5)
    assert found.relative.value == pytest.approx(0.5 / 0.8)
    assert found.effective.value == pytest.approx(0)


def test_a_prediction_that_does_not_mind_has_half_of_what_is_above_chance():
    clean = torch.tensor([1.0] * 80 + [0.0] * 20)
    found = robustness_metrics(RATES, torch.stack([clean] * 3), 0.2, bootstrap=200)
    assert found.effective.value == pytest.approx((0.8 - 0.2) / 2)
    assert found.relative.value == pytest.approx(1)
    assert found.effective.low < found.effective.value < found.effective.high


def test_the_interval_covers_the_mean_of_many_draws():
    g = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(60):
        hits = (torch.rand(3, 200, generator=g) < torch.tensor([[0.9], [0.7], [0.5]])).double()
        found = robustness_metrics(RATES, hits, 0.1, bootstrap=200, seed=seed)
        covered += found.area.low <= 0.7 <= found.area.high
    assert covered >= 52  # 57 expected of 60


def test_rates_must_go_from_0_to_1():
    with pytest.raises(ValueError, match="ascending from 0 to 1"):
        robustness_metrics((0.0, 0.5), torch.ones(2, 4), 0.1)


def test_item_scores_of_classes_are_accuracy_with_ties_shared():
    logits = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    scores, chance = item_scores(logits, torch.tensor([0, 1, 1]), "classification")
    assert scores.tolist() == pytest.approx([1, 0.5, 1 / 3])
    assert chance == pytest.approx(2 / 3)


def test_item_scores_of_numbers_average_to_r2():
    g = torch.Generator().manual_seed(3)
    truth, said = torch.randn(50, generator=g), torch.randn(50, 1, generator=g)
    scores, chance = item_scores(said, truth, "regression")
    assert float(scores.mean()) == pytest.approx(regression_metrics(said, truth)["r2"].value)
    assert chance == 0


def test_the_best_constant_set_beats_every_other_set():
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.random((40, 4)) < np.array([0.8, 0.5, 0.3, 0.05]))

    def mean_f1(chosen):
        total = 0.0
        for row in truth.tolist():
            both = sum(a and b for a, b in zip(row, chosen, strict=True))
            size = sum(row) + sum(chosen)
            total += 2 * both / size if size else 1.0
        return total / len(truth)

    best = max(mean_f1(chosen) for chosen in itertools.product([False, True], repeat=4))
    assert mean_f1(best_constant_labels(truth).tolist()) == pytest.approx(best)
    scores, chance = item_scores(torch.where(truth, 1.0, -1.0), truth.float(), "multi_label")
    assert chance == pytest.approx(best)
    assert float(scores.mean()) == 1
