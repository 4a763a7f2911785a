"""Robustness of predictions to the corruption of one modality."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate
from amodal.metrics.prediction import best_constant_labels


class RobustnessCurve(NamedTuple):
    """Scores over the rates of a corruption, and their summaries.

    Args:
        rates: in [0, 1], ascending from 0.
        scores: mean score at each rate, with intervals.
        area: mean score over all rates from 0 to 1.
        relative: area over the score at rate 0.
        effective: effective robustness, the area between the scores and the straight line from the
            score at rate 0 to chance at rate 1, which guessing on the corrupted items would give.
            0: no better than that; at most half of the lead of the clean score over chance.
    """

    rates: tuple[float, ...]
    scores: tuple[Estimate, ...]
    area: Estimate
    relative: Estimate
    effective: Estimate


@torch.no_grad()
def item_scores(outputs: Tensor, target: Tensor, task: str) -> tuple[Tensor, float]:
    """Score per item, and the score of the best constant prediction.

    - classification: 1 for a right answer, ties by expectation; the constant is the most frequent
      class: accuracy.
    - multi_label: F1 of the set of classes with positive scores, 1 where both sets are empty; the
      constant is the set that scores best.
    - regression: 1 - squared error / variance; the constant is the mean: R², 0.

    Args:
        outputs: (N, C) scores, or (N, 1) numbers.
        target: as `classification_metrics` and the others take it; none unknown.

    Returns:
        (N,) float64 and the mean score of the best constant prediction.

    Examples:
        >>> import torch
        >>> from amodal.metrics import item_scores
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> scores, chance = item_scores(logits, torch.tensor([0, 1, 1]), "classification")
        >>> scores.tolist(), round(chance, 3)
        ([1.0, 0.0, 1.0], 0.667)
    """
    outputs, target = outputs.double().cpu(), target.cpu()
    if task == "classification":
        best = (outputs == outputs.amax(1, keepdim=True)).double()
        hits = (best / best.sum(1, keepdim=True)).gather(1, target[:, None])[:, 0]
        return hits, float(target.bincount().max()) / len(target)
    if task == "multi_label":
        truth = target > 0.5
        constant = best_constant_labels(truth)
        return _set_f1(outputs > 0, truth), float(_set_f1(constant.expand_as(truth), truth).mean())
    numbers = target.double()
    variance = numbers.var(correction=0)
    return 1 - (outputs[:, 0] - numbers).square() / variance, 0.0


@torch.no_grad()
def robustness_metrics(
    rates: tuple[float, ...],
    scores: Tensor,
    chance: float,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> RobustnessCurve:
    """Area, relative area and effective robustness of one corruption, with bootstrap intervals.

    Args:
        rates: R values ascending from 0 to 1.
        scores: (R, N) score of every item at every rate.
        chance: score of the best constant prediction.
        bootstrap: resamples; 0 gives no intervals.

    Raises:
        ValueError: the rates do not go from 0 to 1, or do not fit the scores.

    References:
        Taori et al. 2020, arXiv:2007.00644, section 2 (effective robustness, there relative to
        other models; here relative to guessing on the corrupted items, so that no table of other
        models is needed).

    Examples:
        >>> import torch
        >>> from amodal.metrics import robustness_metrics
        >>> scores = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]])  # (rates, items)
        >>> result = robustness_metrics((0.0, 0.5, 1.0), scores, chance=0.5, bootstrap=0)
        >>> result.area.value, result.effective.value
        (0.75, 0.0)
    """
    if len(rates) != len(scores) or rates[0] != 0 or rates[-1] != 1 or list(rates) != sorted(rates):
        raise ValueError(f"expected {len(scores)} rates ascending from 0 to 1, got {rates}")
    at = torch.tensor(rates, dtype=torch.float64)
    wide = scores.double()
    values = _summaries(at, wide.mean(1)[None], chance)[0]
    drawn = None
    if bootstrap:
        generator = torch.Generator().manual_seed(seed)
        count = wide.shape[1]
        means = torch.stack(
            [
                wide[:, torch.randint(count, (count,), generator=generator)].mean(1)
                for _ in range(bootstrap)
            ]
        )
        drawn = _summaries(at, means, chance)
    estimates = [
        Estimate(float(value))
        if drawn is None
        else Estimate(float(value), *(float(drawn[:, i].quantile(q)) for q in (0.025, 0.975)))
        for i, value in enumerate(values)
    ]
    area, relative, effective = estimates[-3:]
    return RobustnessCurve(rates, tuple(estimates[:-3]), area, relative, effective)


def _summaries(rates: Tensor, scores: Tensor, chance: float) -> Tensor:
    """(S, R) scores → (S, R + 3): the scores, area, relative, effective."""
    area = torch.trapezoid(scores, rates)
    line = scores[:, :1] * (1 - rates) + chance * rates
    effective = torch.trapezoid(scores - line, rates)
    clean = scores[:, 0]
    relative = torch.where(clean != 0, area / clean, torch.nan)
    return torch.cat([scores, torch.stack([area, relative, effective], dim=1)], dim=1)


def _set_f1(predicted: Tensor, truth: Tensor) -> Tensor:
    both = (predicted & truth).sum(1).double()
    total = (predicted.sum(1) + truth.sum(1)).double()
    return torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0)
