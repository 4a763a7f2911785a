"""Figures of predictions against scikit-learn, ties by expectation, and unknown targets."""

import math

import pytest
import torch
from sklearn import metrics

from amodal.metrics.prediction import (
    average_precision,
    classification_metrics,
    multi_label_metrics,
    regression_metrics,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_classification_agrees_with_scikit_learn():
    logits = normal(200, 5)
    target = torch.randint(5, (200,), generator=torch.Generator().manual_seed(1))
    target[::3] = logits[::3].argmax(1)
    found = classification_metrics(logits, target)
    y, p = target.numpy(), logits.argmax(1).numpy()
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(y, p))
    assert found["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(y, p))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(y, p, average="macro"))
    assert found["cross_entropy"].value == pytest.approx(
        metrics.log_loss(y, logits.softmax(1).numpy())
    )


def test_constant_scores_give_chance():
    found = classification_metrics(torch.zeros(12, 4), torch.arange(12) % 4)
    assert found["accuracy"].value == pytest.approx(0.25)
    assert found["calibration_error"].value == pytest.approx(0)


def test_calibration_error_equals_the_sum_over_bins():
    logits = 3 * normal(300, 3)
    target = torch.randint(3, (300,), generator=torch.Generator().manual_seed(1))
    share, predicted = logits.softmax(1).max(1)
    total = 0.0
    for b in range(15):
        inside = [
            i
            for i, s in enumerate(share.tolist())
            if b / 15 <= s < (b + 1) / 15 or (b == 14 and s == 1)
        ]
        if inside:
            accuracy = sum(int(predicted[i] == target[i]) for i in inside) / len(inside)
            confidence = sum(float(share[i]) for i in inside) / len(inside)
            total += len(inside) / 300 * abs(accuracy - confidence)
    assert classification_metrics(logits, target)["calibration_error"].value == pytest.approx(total)


def test_multi_label_agrees_with_scikit_learn():
    logits, truth = normal(150, 4), normal(150, 4, seed=1) > 0.5
    found = multi_label_metrics(logits, truth.double())
    y, p = truth.numpy(), (logits > 0).numpy()
    assert found["micro_f1"].value == pytest.approx(metrics.f1_score(y, p, average="micro"))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(y, p, average="macro"))
    assert found["subset_accuracy"].value == pytest.approx(metrics.accuracy_score(y, p))
    assert found["mean_average_precision"].value == pytest.approx(
        metrics.average_precision_score(y, logits.numpy(), average="macro")
    )


def test_average_precision_shares_the_places_of_ties():
    scores = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0])
    truth = torch.tensor([False, True, False, True, False])
    assert average_precision(scores, truth) == pytest.approx(
        metrics.average_precision_score(truth.numpy(), scores.numpy())
    )


def test_regression_agrees_with_scikit_learn():
    values, target = normal(80, 1), normal(80, seed=1)
    found = regression_metrics(values, target)
    y, p = target.numpy(), values[:, 0].numpy()
    assert found["mae"].value == pytest.approx(metrics.mean_absolute_error(y, p))
    assert found["rmse"].value == pytest.approx(metrics.mean_squared_error(y, p) ** 0.5)
    assert found["r2"].value == pytest.approx(metrics.r2_score(y, p))
    assert found["pearson"].value == pytest.approx(
        torch.corrcoef(torch.stack([values[:, 0], target]))[0, 1].item()
    )


def test_unknown_targets_are_left_out():
    logits, target = normal(6, 3), torch.tensor([0, 1, 2, -100, 1, -100])
    kept = target >= 0
    assert classification_metrics(logits, target) == classification_metrics(
        logits[kept], target[kept]
    )
    numbers = torch.tensor([1.0, math.nan, 2.0])
    assert regression_metrics(torch.tensor([1.0, 9.0, 2.5]), numbers)["mae"].value == pytest.approx(
        0.25
    )
    with pytest.raises(ValueError, match="none of 2 targets is known"):
        classification_metrics(normal(2, 3), torch.tensor([-100, -100]))


def test_intervals_hold_the_figure():
    target = torch.randint(3, (300,), generator=torch.Generator().manual_seed(1))
    found = classification_metrics(normal(300, 3), target, bootstrap=200)["accuracy"]
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.15


def test_constant_targets_have_no_variance_to_explain():
    found = regression_metrics(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))
    assert found["r2"].value == 0
    assert found["pearson"].value == 0
