"""Metrics of predictions: accuracy, F1, calibration and error, with bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, intervals, resampled

BINS = 15  # of the calibration error


@torch.no_grad()
def classification_metrics(
    logits: Tensor, target: Tensor, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Metrics of single-label classification.

    - accuracy: ties between the highest scores count by expectation, so that constant scores give
      one over the number of classes.
    - balanced_accuracy: mean over classes of the accuracy within the class.
    - macro_f1: mean over the classes that occur, or are predicted, of F1.
    - cross_entropy: in nats.
    - calibration_error: mean over 15 bins of confidence of |confidence - accuracy|, weighted.

    Args:
        logits: (B, C).
        target: (B,) int64; rows below 0 are left out.
        bootstrap: resamples of the intervals of accuracy and cross-entropy.

    Raises:
        ValueError: no target is known.

    References:
        Guo et al. 2017, arXiv:1706.04599, eq. 5 (calibration).

    Examples:
        >>> import torch
        >>> from amodal.metrics import classification_metrics
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
        >>> metrics = classification_metrics(logits, target=torch.tensor([0, 1, 1]))
        >>> list(metrics)
        ['accuracy', 'cross_entropy', 'balanced_accuracy', 'macro_f1', 'calibration_error']
        >>> round(metrics["accuracy"].value, 3), round(metrics["balanced_accuracy"].value, 3)
        (0.667, 0.75)
    """
    logits, target = _known(logits, target, target >= 0)
    log_share = logits.log_softmax(1)
    best = (logits == logits.amax(1, keepdim=True)).double()
    hits = (best / best.sum(1, keepdim=True)).gather(1, target[:, None])[:, 0]
    entropy = -log_share.gather(1, target[:, None])[:, 0]
    found = _means(["accuracy", "cross_entropy"], [hits, entropy], bootstrap, seed)
    predicted = logits.argmax(1)
    classes = torch.unique(target)
    per_class = torch.stack([hits[target == c].mean() for c in classes])
    found["balanced_accuracy"] = Estimate(float(per_class.mean()))
    scores = [
        _f1(predicted == c, target == c) for c in torch.unique(torch.cat([predicted, target]))
    ]
    found["macro_f1"] = Estimate(sum(scores) / len(scores))
    confidence = log_share.exp().amax(1)
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, hits - confidence)
    found["calibration_error"] = Estimate(float(gap.abs().sum() / len(hits)))
    return found


@torch.no_grad()
def multi_label_metrics(
    logits: Tensor, target: Tensor, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Metrics of multi-label classification; a class is predicted where its logit is positive.

    - micro_f1: over all items and classes together; macro_f1: mean over classes that occur.
    - mean_average_precision: mean over classes that occur of average precision; equal
      scores share their ranks.
    - subset_accuracy: share of items with every class right (subset accuracy).

    Args:
        logits: (B, C).
        target: (B, C) of 0 and 1; rows with NaN are left out.

    Examples:
        >>> import torch
        >>> from amodal.metrics import multi_label_metrics
        >>> logits = torch.tensor([[2.0, -1.0], [1.0, 1.0]])
        >>> metrics = multi_label_metrics(logits, target=torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        >>> {name: round(estimate.value, 3) for name, estimate in metrics.items()}
        {'subset_accuracy': 0.5, 'micro_f1': 0.8, 'macro_f1': 1.0, 'mean_average_precision': 1.0}
    """
    logits, target = _known(logits, target, ~target.isnan().any(1))
    predicted, truth = logits > 0, target > 0.5
    exact = (predicted == truth).all(1).double()
    found = _means(["subset_accuracy"], [exact], bootstrap, seed)
    found["micro_f1"] = Estimate(_f1(predicted.flatten(), truth.flatten()))
    classes = truth.any(0).nonzero()[:, 0].tolist()
    f1 = [_f1(predicted[:, c], truth[:, c]) for c in classes]
    precision = [average_precision(logits[:, c], truth[:, c]) for c in classes]
    found["macro_f1"] = Estimate(sum(f1) / max(1, len(f1)))
    found["mean_average_precision"] = Estimate(sum(precision) / max(1, len(precision)))
    return found


@torch.no_grad()
def regression_metrics(
    values: Tensor, target: Tensor, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Mean absolute error, root mean squared error, R² and Pearson's correlation.

    R² is the explained share of the variance of the target: 0 for the mean, negative if worse.

    Args:
        values: (B,) or (B, 1) predictions.
        target: (B,); NaN rows are left out.

    Examples:
        >>> import torch
        >>> from amodal.metrics import regression_metrics
        >>> predictions, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])
        >>> metrics = regression_metrics(predictions, target)
        >>> {name: round(estimate.value, 3) for name, estimate in metrics.items()}
        {'mae': 0.333, 'rmse': 0.577, 'r2': 0.5, 'pearson': 0.982}
    """
    values, target = _known(values.reshape(len(target)), target, ~target.isnan())
    error = values - target
    found = _means(["mae"], [error.abs()], bootstrap, seed)
    found["rmse"] = Estimate(float(error.square().mean().sqrt()))
    spread = (target - target.mean()).square().sum()
    left = error.square().sum()
    found["r2"] = Estimate(float(1 - left / spread) if spread > 0 else 0.0)
    x, y = values - values.mean(), target - target.mean()
    length = x.norm() * y.norm()
    found["pearson"] = Estimate(float(x @ y / length) if length > 0 else 0.0)
    return found


def best_constant_labels(truth: Tensor) -> Tensor:
    """Set of classes, (C,) bool, with the best mean F1 as a constant prediction for every item.

    Sets of the most frequent classes are tried, from none of them to all.

    Args:
        truth: (N, C) bool.
    """
    order = truth.sum(0).argsort(descending=True, stable=True)
    best, chosen = -1.0, torch.zeros(truth.shape[1], dtype=torch.bool)
    for size in range(truth.shape[1] + 1):
        tried = torch.zeros_like(chosen)
        tried[order[:size]] = True
        both = (truth & tried).sum(1).double()
        total = truth.sum(1).double() + size
        score = float(torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0).mean())
        if score > best:
            best, chosen = score, tried
    return chosen


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Mean over the positive rows of the precision at their rank; ties share their ranks.

    Args:
        scores: (B,).
        truth: (B,) bool, with a True.

    Examples:
        >>> import torch
        >>> from amodal.metrics import average_precision
        >>> truth = torch.tensor([True, False, True])
        >>> round(average_precision(torch.tensor([0.9, 0.8, 0.7]), truth), 3)
        0.833
    """
    levels, place = torch.unique(scores, return_inverse=True)
    count = torch.zeros(len(levels), 2, dtype=torch.float64)
    count[:, 0].index_add_(0, place, torch.ones(len(scores), dtype=torch.float64))
    count[:, 1].index_add_(0, place, truth.double())
    counts = count.flip(0).cumsum(0).flip(0)  # rows, and true rows, with at least this score
    precision = counts[:, 1] / counts[:, 0]
    return float((precision[place] * truth).sum() / truth.sum())


def _means(
    names: list[str], columns: list[Tensor], bootstrap: int, seed: int
) -> dict[str, Estimate]:
    values = torch.stack(columns, dim=1)
    generator = torch.Generator().manual_seed(seed)
    drawn = resampled(values, torch.arange(len(values)), bootstrap, generator)
    return intervals(names, *drawn)


def _known(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    if not bool(known.any()):
        raise ValueError(f"none of {len(target)} targets is known")
    target = target[known].cpu()
    return logits[known].double().cpu(), target.double() if target.is_floating_point() else target


def _f1(predicted: Tensor, truth: Tensor) -> float:
    hits = float((predicted & truth).sum())
    total = float(predicted.sum() + truth.sum())
    return 2 * hits / total if total else 0.0
