"""Prediction losses against sums over plain numbers, and rows whose target is not known."""

import math

import pytest
import torch

from amodal.losses.prediction import prediction_loss

TASKS = ["classification", "multi_label", "regression"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(task):
    """Six rows, of which rows 1 and 4 have no target."""
    if task == "classification":
        return normal(6, 3), torch.tensor([0, -100, 2, 1, -100, 2])
    if task == "multi_label":
        target = (normal(6, 3, seed=1) > 0).double()
        target[[1, 4]] = math.nan
        return normal(6, 3), target
    target = normal(6, seed=1)
    target[[1, 4]] = math.nan
    return normal(6, 1), target


def brute(task, logits, target, label_smoothing=0.0):
    rows = []
    for x, y in zip(logits.tolist(), target.tolist(), strict=True):
        if task == "classification":
            if y < 0:
                continue
            log_sum = math.log(sum(math.exp(v) for v in x))
            share = [
                label_smoothing / len(x) + (1 - label_smoothing) * (k == y) for k in range(len(x))
            ]
            rows.append(-sum(p * (v - log_sum) for p, v in zip(share, x, strict=True)))
        elif task == "multi_label":
            if any(math.isnan(v) for v in y):
                continue
            terms = [math.log(1 + math.exp(-v if yes else v)) for v, yes in zip(x, y, strict=True)]
            rows.append(sum(terms) / len(terms))
        elif not math.isnan(y):
            rows.append((x[0] - y) ** 2)
    return sum(rows) / len(rows)


@pytest.mark.parametrize("task", TASKS)
def test_it_equals_the_mean_over_the_known_rows(task):
    logits, target = case(task)
    assert prediction_loss(logits, target, task).item() == pytest.approx(
        brute(task, logits, target), rel=1e-12
    )


def test_smoothing_spreads_the_target():
    logits, target = case("classification")
    got = prediction_loss(logits, target, "classification", label_smoothing=0.2)
    assert got.item() == pytest.approx(brute("classification", logits, target, 0.2), rel=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_unknown_rows_count_as_deleted_ones_bit_for_bit(task):
    logits, target = case(task)
    wild = logits.clone()
    wild[[1, 4]] = math.nan
    wild.requires_grad_()
    kept = [0, 2, 3, 5]
    alone = logits[kept].clone().requires_grad_()
    a, b = prediction_loss(wild, target, task), prediction_loss(alone, target[kept], task)
    assert torch.equal(a, b)
    a.backward()
    b.backward()
    assert torch.equal(wild.grad[kept], alone.grad)
    assert (wild.grad[[1, 4]] == 0).all()


@pytest.mark.parametrize("task", TASKS)
def test_gradients_equal_finite_differences_and_order_does_not_matter(task):
    logits, target = case(task)
    assert torch.autograd.gradcheck(
        lambda x: prediction_loss(x, target, task), logits.requires_grad_()
    )
    order = torch.randperm(6)
    assert prediction_loss(logits[order], target[order], task).item() == pytest.approx(
        prediction_loss(logits, target, task).item()
    )


@pytest.mark.parametrize("task", TASKS)
def test_nothing_known_is_a_loss_of_nothing(task):
    logits, target = case(task)
    unknown = torch.full_like(target, -100 if task == "classification" else math.nan)
    logits.requires_grad_()
    loss = prediction_loss(logits, unknown, task)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        prediction_loss(normal(4, 2), torch.zeros(3, dtype=torch.int64), "classification")
    with pytest.raises(ValueError, match="do not fit"):
        prediction_loss(normal(4, 2), normal(4), "regression")
