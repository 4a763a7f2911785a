"""Modality gap: distance of two modalities, difference in shape, and linear separability."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.metrics.probe import fit_multinomial, scores
from amodal.metrics.retrieval import checked

CHUNK_BYTES = 24 << 20  # of numbers held at once
PROBE_PENALTY = 1e-3  # of the squared weights of the modality probe


class EnergyTest(NamedTuple):
    """Energy distance of two centred sets of embeddings; see `energy_test`.

    Args:
        value: corrected distance, in the unit of the embeddings; 0 is expected of equal shapes.
        coefficient: that distance over 2 E|X - Y|, at most 1.
        p: share of relabellings whose distance is as large.
    """

    value: float
    coefficient: float
    p: float


def centroid_gap(x: Tensor, x_item: Tensor, y: Tensor, y_item: Tensor) -> tuple[float, float]:
    """Distance of the centroids, and the distance expected from sampling noise alone.

    The second is the root mean square of the distance if the true centroids coincided: the root
    of Σ_i |r_i|² n/(n-1), with r_i the contribution of item i to the difference of the means of
    the centred embeddings, so that the rows of an item are not treated as independent.

    Args:
        x: (N, E) embeddings of one modality.
        x_item: (N,) int64 item of each row.
        y: (M, E) embeddings of the other.
        y_item: (M,) int64.

    References:
        Liang et al. 2022, arXiv:2203.02053 (the gap between centroids).

    Examples:
        >>> import torch
        >>> from amodal.metrics import centroid_gap
        >>> z, item = torch.randn(50, 8), torch.arange(50)
        >>> distance, noise = centroid_gap(z, item, z + 1, item)
        >>> round(distance, 3), noise < 0.01
        (2.828, True)
    """
    items, place = torch.unique(torch.cat([x_item, y_item]), return_inverse=True)
    means = [z.mean(0, dtype=torch.float64) for z in (x, y)]
    share = torch.zeros(len(items), x.shape[1], dtype=x.dtype, device=x.device)
    step = max(1, CHUNK_BYTES // (8 * max(1, x.shape[1])))
    places = torch.split(place, [len(x), len(y)])
    for z, mean, at, sign in zip((x, y), means, places, (1.0, -1.0), strict=True):
        centre = mean.to(z.dtype)
        for rows, where in zip(torch.split(z, step), torch.split(at, step), strict=True):
            share.index_add_(0, where, (rows - centre) * (sign / len(z)))
    noise = float(share.square().sum(dtype=torch.float64)) * len(items) / max(1, len(items) - 1)
    return float((means[0] - means[1]).norm()), noise**0.5


@torch.no_grad()
def energy_test(
    x: Tensor, y: Tensor, *, permutations: int, generator: torch.Generator
) -> EnergyTest:
    """Energy distance of two sets of embeddings after centring each, with a permutation test.

    It measures how the distributions differ beyond their centroids. Permutations swap the two rows
    of an item with probability 1/2, centre both sets again, and give the distances that equal
    shapes produce. As the centres are estimated, the plain value of `energy_statistics` is biased;
    the mean over permutations estimates the bias and is subtracted, so that two sets from one
    distribution score 0 on average.

    Args:
        x: (N, E) one row per item, N >= 2.
        y: (N, E) rows of the same items.
        permutations: P >= 1; the smallest p-value is 1 / (P + 1).
        generator: on the CPU.

    References:
        Székely & Rizzo 2013, "Energy statistics: a class of statistics based on distances"
        (the distance, and the coefficient of inhomogeneity).

    Examples:
        >>> import torch
        >>> from amodal.metrics import energy_test
        >>> x = torch.randn(60, 2)
        >>> stretched = x * torch.tensor([4.0, 1.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> test = energy_test(x, stretched, permutations=50, generator=generator)
        >>> test.value > 0, round(test.p, 3)
        (True, 0.02)
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    x, y = checked("x", x), checked("y", y)
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"expected two paired rows or more, got {len(x)} and {len(y)}")
    flips = torch.randint(0, 2, (permutations, len(x)), generator=generator).double() * 2 - 1
    statistics, across = energy_statistics(x, y, flips)
    if across == 0:
        return EnergyTest(0.0, 0.0, 1.0)
    found, null = float(statistics[0]), statistics[1:]
    reached = 1 + int((null >= found - 1e-9 * across).sum())  # rounding is no difference
    value = found - float(null.mean())
    return EnergyTest(value, value / (2 * across), reached / (permutations + 1))


def energy_statistics(x: Tensor, y: Tensor, signs: Tensor) -> tuple[Tensor, float]:
    """Energy distances of the centred embeddings, unchanged and with pairs swapped by `signs`.

    For sets u and v of rows with their means subtracted, the mean over i ≠ j of
    2|u_i - v_j| - |u_i - u_j| - |v_i - v_j|: rows of one item are not compared, as they are
    not independent.

    Args:
        x: (N, E) one row per item.
        y: (N, E) rows of the same items.
        signs: (P, N) of +1 and -1; where it is -1, x_i and y_i change sides.

    Returns:
        (1 + P,) float64, the first without swaps, and the mean of |x_i - y_j| without swaps.
    """
    n = len(x)
    x, y = x.double().cpu(), y.double().cpu()
    points = torch.cat([x - x.mean(0), y - y.mean(0)])  # (2N, E)
    signs = torch.cat([torch.ones(1, n, dtype=torch.float64), signs.double().cpu()])  # (1 + P, N)
    # After a swap the centroids are ±δ/2 apart, and |u - v - δ|² = |u - v|² - 2 δ·(u - v) + |δ|²:
    # squared distances are computed once, not once per permutation.
    shift = signs @ (points[:n] - points[n:]) / n  # (1 + P, E)
    along, shift_square = points @ shift.T, shift.square().sum(1)
    place = torch.arange(n)
    u_place = torch.where(signs > 0, place, place + n)  # (1 + P, N) rows of `points`
    v_place = torch.where(signs > 0, place + n, place)
    squared_norm = points.square().sum(1)
    total = torch.zeros(len(signs), dtype=torch.float64)
    across = 0.0
    step = max(1, CHUNK_BYTES // (4 * 8 * n))
    for start in range(0, n, step):
        rows = torch.arange(start, min(start + step, n))
        both = torch.cat([rows, rows + n])
        square = squared_norm[both, None] + squared_norm - 2 * points[both] @ points.T
        square.clamp_min_(0)  # (2c, 2N)
        here = torch.arange(len(rows))
        distance = square.sqrt()
        distance[here, rows] = distance[here + len(rows), rows + n] = 0
        distance[here, rows + n] = distance[here + len(rows), rows] = 0
        across += float(distance[: len(rows), n:].sum())
        same = distance[: len(rows), :n] + distance[len(rows) :, n:]  # (c, N) |x-x'| + |y-y'|
        swapped = distance[: len(rows), n:] + distance[len(rows) :, :n]
        # s_i s_j = 1: both pairs lie as they were, or both are swapped.
        total -= (same + swapped).sum() / 2
        total -= ((signs[:, rows] @ (same - swapped)) * signs).sum(1) / 2
        for s in range(len(signs)):
            u_row = torch.where(signs[s, rows] > 0, here, here + len(rows))
            between = square[u_row[:, None], v_place[s]]  # (c, N)
            between -= 2 * along[u_place[s, rows], s, None]
            between += 2 * along[v_place[s], s] + shift_square[s]
            between[here, rows] = 0
            total[s] += 2 * between.clamp_min_(0).sqrt_().sum()
    pairs = n * (n - 1)
    return total / pairs, across / pairs


def modality_probe(
    x: Tensor,
    x_item: Tensor,
    y: Tensor,
    y_item: Tensor,
    *,
    folds: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Accuracy of a linear classifier of the modality, on held-out items.

    Logistic regression with a small L2 penalty on rows that are centred and divided by one
    number (their mean standard deviation), so that the result does not depend on the axes. All rows
    of an item are in one fold. Each modality counts one half, however many rows it has: the mean of
    the first result is the balanced accuracy, and chance is 1/2.

    Args:
        x: (N, E) rows of one modality.
        x_item: (N,) int64 item of each row.
        y: (M, E) rows of the other.
        y_item: (M,) int64.
        folds: parts of the items.
        generator: draws the folds; on the CPU.

    Returns:
        (N + M,) float64 of each row, first those of x: 1 right, 0 wrong, 1/2 undecided, times
        (N + M) / (2 rows of its modality); and (N + M,) its item.

    Examples:
        >>> import torch
        >>> from amodal.metrics import modality_probe
        >>> z, item = torch.randn(40, 4), torch.arange(40)
        >>> generator = torch.Generator().manual_seed(0)
        >>> right, _ = modality_probe(z, item, z + 5, item, folds=4, generator=generator)
        >>> right.mean().item()  # separable
        1.0
    """
    z, item = torch.cat([x, y]), torch.cat([x_item, y_item])
    target = torch.cat([torch.zeros(len(x)), torch.ones(len(y))]).long().to(z.device)
    items, place = torch.unique(item, return_inverse=True)
    if len(items) < folds:
        raise ValueError(f"{folds} folds need at least as many items, got {len(items)}")
    order = torch.randperm(len(items), generator=generator)
    fold = (order % folds).to(z.device)[place]
    right = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    for i in range(folds):
        held = fold == i
        train = z[~held].double()
        mean = train.mean(0)
        deviation = float((train - mean).square().mean().sqrt()) or 1.0
        weights = fit_multinomial((train - mean) / deviation, target[~held], 2, PROBE_PENALTY)
        margin = scores((z[held].double() - mean) / deviation, weights).diff(dim=1)[:, 0]
        margin = torch.where(target[held] == 1, margin, -margin)
        # A margin of rounding size is undecided: both sets may be the same.
        margin = torch.where(margin.abs() > 1e-6, margin, 0.0)
        right[held] = (margin.sign() + 1) / 2
    counts = torch.bincount(target, minlength=2)
    return right * len(z) / (2 * counts[target]), item
