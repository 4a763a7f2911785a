"""Metrics with 95 % bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_NUMBERS = 1 << 21  # random numbers drawn at once


class Estimate(NamedTuple):
    """Value of a metric with its 95 % percentile interval; NaN where there is no interval."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


def flatten(estimates: dict[str, Estimate]) -> dict[str, float]:
    """Flat dict of `name`, and of `name/low` and `name/high` where there is an interval."""
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat[name] = estimate.value
        if estimate.low == estimate.low:
            flat[f"{name}/low"] = estimate.low
            flat[f"{name}/high"] = estimate.high
    return flat


def resampled(
    values: Tensor,
    cluster: Tensor,
    resamples: int,
    generator: torch.Generator,
    *,
    median_of: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Column statistics of `values`, and the same of resampled data.

    Whole clusters are drawn with replacement: rows of one item (the captions of one image) are
    not independent, and drawing them one by one would make the interval too narrow.

    Args:
        values: (R, C) float64 on the CPU.
        cluster: (R,) int64 key of the cluster of each row.
        resamples: number of draws, S.
        generator: on the CPU.
        median_of: column of which the median is taken; all others get their mean.

    Returns:
        (C,) statistics, and (S, C) of every draw.

    References:
        Efron & Tibshirani 1993, "An introduction to the bootstrap", chapters 8 and 13.
    """
    keys, place = torch.unique(cluster, return_inverse=True)
    once = torch.ones(1, len(values), dtype=torch.float64)
    order = values[:, median_of].argsort() if median_of is not None else None
    estimate = _statistics(values, once, median_of, order)[0]
    draws = [torch.empty(0, values.shape[1], dtype=torch.float64)]
    at_once = max(1, CHUNK_NUMBERS // max(1, len(values)))
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = torch.randint(len(keys), (count, len(keys)), generator=generator)
        times = torch.zeros(count, len(keys), dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        draws.append(_statistics(values, times[:, place], median_of, order))
    return estimate, torch.cat(draws)


def intervals(names: list[str], estimate: Tensor, draws: Tensor) -> dict[str, Estimate]:
    """An `Estimate` for each column of the results of `resampled`."""
    if len(draws) == 0:
        return {name: Estimate(float(v)) for name, v in zip(names, estimate, strict=True)}
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return {
        name: Estimate(float(v), float(a), float(b))
        for name, v, a, b in zip(names, estimate, low, high, strict=True)
    }


def _statistics(
    values: Tensor, weight: Tensor, median_of: int | None, order: Tensor | None
) -> Tensor:
    """(S, C) means, and one median, of (R, C) values with (S, R) whole-number weights."""
    total = weight.sum(1)  # (S,)
    result = weight @ values / total[:, None]
    if median_of is not None and order is not None:
        upto = weight[:, order].cumsum(1)
        middle = torch.stack([((total - 1) / 2).floor(), (total / 2).floor()], dim=1)
        at = torch.searchsorted(upto, middle, right=True)  # (S, 2)
        result[:, median_of] = values[order, median_of][at].mean(1)
    return result
