"""Accuracy of a classifier from its scores, exact under ties."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, flatten, intervals, resampled
from amodal.metrics.ties import hit_within


@dataclass(frozen=True)
class ClassificationResult:
    """Accuracies with 95 % bootstrap intervals, and the confusion matrix.

    Args:
        metrics: top1, top5 and mean_per_class (the mean over classes of the top-1 accuracy of
            each; rare classes count as much as frequent ones).
        confusion: (C, C) float64, rows of class i predicted as class j; a row whose best score is
            tied is divided evenly.
        rows: rows that were classified.
        chosen: hyperparameters that were selected on validation data, by name.
    """

    metrics: dict[str, Estimate]
    confusion: Tensor
    rows: int
    chosen: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].value

    def to_dict(self) -> dict[str, float]:
        """Flat metrics: `top1`, `top1/low`, `top1/high`, ..., the hyperparameters and the count."""
        return flatten(self.metrics) | self.chosen | {"rows": self.rows}


def top_k_accuracy(
    scores: Tensor,
    labels: Tensor,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    chosen: dict[str, float] | None = None,
) -> ClassificationResult:
    """Top-1, top-5 and mean per-class accuracy; ties count by expectation.

    A label of -1 is a class without a score: it is never predicted, and counts as a class of its
    own in `mean_per_class`.

    Args:
        scores: (N, C), larger is more likely.
        labels: (N,) int64 class of each row.
        bootstrap: resamples for the intervals; 0 leaves them out.
        seed: of the resamples.
        chosen: hyperparameters to report.

    Examples:
        >>> import torch
        >>> from amodal.metrics import top_k_accuracy
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]])  # the last row is tied
        >>> result = top_k_accuracy(scores, labels=torch.tensor([0, 1, 1]), bootstrap=0)
        >>> result["top1"], result["mean_per_class"]
        (0.5, 0.625)
        >>> result.confusion
        tensor([[1.0000, 0.0000],
                [1.5000, 0.5000]], dtype=torch.float64)
    """
    scores, labels = scores.cpu(), labels.cpu()
    n, classes = scores.shape
    true = scores.gather(1, labels.clamp_min(0)[:, None])
    above, tied = (scores > true).sum(1), (scores == true).sum(1)
    known = (labels >= 0).double()
    one = torch.ones_like(above)
    top1 = hit_within(1, above, tied, one) * known
    top5 = hit_within(5, above, tied, one) * known
    present, place = torch.unique(labels, return_inverse=True)
    values = torch.stack([top1, top5], dim=1)
    generator = torch.Generator().manual_seed(seed)
    estimate, draws = resampled(values, torch.arange(n), bootstrap, generator)
    per_class, per_class_draws = _mean_per_class(top1, place, len(present), bootstrap, generator)
    metrics = intervals(
        ["top1", "top5", "mean_per_class"],
        torch.cat([estimate, per_class[None]]),
        torch.cat([draws, per_class_draws[:, None]], dim=1),
    )
    best = (scores == scores.max(1, keepdim=True).values).double()
    shares = best / best.sum(1, keepdim=True)
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    confusion.index_add_(0, labels[labels >= 0], shares[labels >= 0])
    return ClassificationResult(metrics, confusion, n, dict(chosen or {}))


def _mean_per_class(
    top1: Tensor, place: Tensor, classes: int, resamples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean of the class accuracies, and its draws; rows are drawn within their class."""
    estimates, draws = [], []
    for i in range(classes):
        rows = top1[place == i]
        estimate, drawn = resampled(rows[:, None], torch.arange(len(rows)), resamples, generator)
        estimates.append(estimate[0])
        draws.append(drawn[:, 0])
    return torch.stack(estimates).mean(), torch.stack(draws).mean(0)
