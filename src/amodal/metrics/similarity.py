"""Representational similarity of two modalities: alignment, CKA and RSA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from torch import Tensor

from amodal.metrics.retrieval import checked

CHUNK_BYTES = 24 << 20  # of distances held at once
NOISE = 1e-12  # a variance below this share of the second moment is rounding
BINS = 2000  # of cosines in [-1, 1]


class CKA(NamedTuple):
    """Linear centred kernel alignment; see `linear_cka`."""

    biased: float
    debiased: float


class PermutationTest(NamedTuple):
    """A statistic, and the share of permutations (itself counted) that reach it."""

    value: float
    p: float


class CosineHistogram(NamedTuple):
    """Counts of cosines over `BINS` equal parts of [-1, 1].

    Args:
        true: (BINS,) int64 pairs of rows of one item.
        other: (BINS,) int64 all other pairs.
    """

    true: Tensor
    other: Tensor


def alignment(
    x: Tensor, x_item: Tensor, y: Tensor, y_item: Tensor, *, alpha: float = 2.0
) -> tuple[Tensor, Tensor]:
    """|x_i - y_j|^α of every pair of rows of one item; their mean is the alignment.

    Args:
        x: (N, E) unit-norm embeddings of one modality.
        x_item: (N,) int64 item of each row.
        y: (M, E) unit-norm embeddings of the other.
        y_item: (M,) int64.
        alpha: exponent of the distance.

    Returns:
        (P,) float64 values, and (P,) the item of each.

    References:
        Wang & Isola 2020, arXiv:2005.10242, section 4.1 (they use α = 2).

    Examples:
        >>> import torch
        >>> from amodal.metrics import alignment
        >>> z, item = torch.eye(3), torch.arange(3)
        >>> values, _ = alignment(z, item, z[[0, 2, 1]], item)
        >>> values.round(decimals=3).tolist()
        [0.0, 2.0, 2.0]
    """
    values, items = [], []
    for row, column in _pairs(x_item, y_item, x.shape[1]):
        distance = (x[row].double() - y[column].double()).norm(dim=1)
        values.append(distance.pow(alpha))
        items.append(x_item[row])
    if not values:
        return torch.zeros(0, dtype=torch.float64), x_item[:0]
    return torch.cat(values), torch.cat(items)


def random_alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0) -> float:
    """Mean of |x_i - y_j|^α over all pairs: the alignment of random pairs.

    Examples:
        >>> import torch
        >>> from amodal.metrics import random_alignment
        >>> round(random_alignment(torch.eye(4), torch.eye(4)), 3)
        1.5
    """
    x, y = checked("x", x), checked("y", y)
    square = y.square().sum(1)
    total = 0.0
    for rows in torch.split(x, max(1, CHUNK_BYTES // (2 * y.element_size() * max(1, len(y))))):
        distance = rows.square().sum(1, keepdim=True) + square - 2 * rows @ y.T
        distance = distance.clamp_min_(0).pow_(alpha / 2)
        total += float(distance.sum(dtype=torch.float64))
    return total / (len(x) * len(y))


@torch.no_grad()
def linear_cka(x: Tensor, y: Tensor) -> CKA:
    """Linear CKA of paired rows: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)).

    The biased form, |X'Y|² / (|X'X| |Y'Y|) of centred rows, rises towards 1 as N falls towards
    E, whatever the data. The debiased form puts the unbiased HSIC in all three places; with a =
    |x_i|² and b = |y_i|² of centred rows it is, up to a factor that cancels,
    |X'Y|² - N/(N-2) Σ a b + Σa Σb / ((N-1)(N-2)). It may be slightly negative.

    Args:
        x: (N, E) one row per item, N >= 4.
        y: (N, F) rows of the same items.

    Returns:
        Both forms. 0 where a side is a single point, and for the debiased form also where the
        unbiased HSIC of a side with itself is not positive (not above noise).

    References:
        Kornblith et al. 2019, arXiv:1905.00414, section 3.
        Song et al. 2012, "Feature selection via dependence maximization", JMLR 13.

    Examples:
        >>> import torch
        >>> from amodal.metrics import linear_cka
        >>> x = torch.randn(200, 4)
        >>> cka = linear_cka(x, 3 * x)
        >>> round(cka.biased, 3), abs(linear_cka(x, torch.randn(200, 4)).debiased) < 0.05
        (1.0, True)
    """
    x, y = _paired(x, y, least=4)
    n = len(x)
    mean_x, mean_y = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
    products = [
        torch.zeros(p.shape[1], q.shape[1], dtype=torch.float64, device=x.device)
        for p, q in ((x, y), (x, x), (y, y))
    ]
    a, b = [], []
    for rows_x, rows_y in zip(_split(x), _split(y), strict=True):
        u, v = rows_x.double() - mean_x, rows_y.double() - mean_y
        for product, (left, right) in zip(products, ((u, v), (u, u), (v, v)), strict=True):
            product += left.T @ right
        a.append(u.square().sum(1))
        b.append(v.square().sum(1))
    a_i, b_i = torch.cat(a), torch.cat(b)
    if _is_point(a_i, mean_x) or _is_point(b_i, mean_y):
        return CKA(0.0, 0.0)
    squares = [float(product.square().sum()) for product in products]
    unbiased = [
        square - n / (n - 2) * float((p * q).sum()) + float(p.sum() * q.sum()) / ((n - 1) * (n - 2))
        for square, (p, q) in zip(squares, ((a_i, b_i), (a_i, a_i), (b_i, b_i)), strict=True)
    ]
    measurable = unbiased[1] > 0 and unbiased[2] > 0
    return CKA(
        biased=squares[0] / (squares[1] * squares[2]) ** 0.5,
        debiased=unbiased[0] / (unbiased[1] * unbiased[2]) ** 0.5 if measurable else 0.0,
    )


@torch.no_grad()
def rsa(x: Tensor, y: Tensor, *, permutations: int, generator: torch.Generator) -> PermutationTest:
    """Spearman correlation of the distances between items in x with those in y.

    The p-value is one-sided: the items of y are permuted, which keeps its distances but not
    their pairs of items. Memory and time grow with N².

    Args:
        x: (N, E) one row per item, N >= 3.
        y: (N, F) rows of the same items.
        permutations: P; the smallest p-value is 1 / (P + 1).
        generator: on the CPU.

    Returns:
        0 with p = 1 where all distances of a side are equal.

    References:
        Kriegeskorte, Mur & Bandettini 2008, "Representational similarity analysis".

    Examples:
        >>> import torch
        >>> from amodal.metrics import rsa
        >>> x = torch.randn(30, 4)
        >>> test = rsa(x, x + 1, permutations=20, generator=torch.Generator().manual_seed(0))
        >>> round(test.value, 3), round(test.p, 3)
        (1.0, 0.048)
    """
    x, y = _paired(x, y, least=3)
    n = len(x)
    ranks = []
    for rows in (x, y):
        # Differences, not products: equal rows then have a distance of exactly 0.
        rank = rankdata(torch.pdist(rows.double().cpu()).numpy())
        ranks.append(torch.from_numpy(squareform(rank - rank.mean())))  # 0 on the diagonal
    left, right = ranks
    norm = float(left.norm() * right.norm())
    if norm == 0:
        return PermutationTest(0.0, 1.0)
    value = float((left * right).sum()) / norm
    reached = 1
    for _ in range(permutations):
        order = torch.randperm(n, generator=generator)
        moved = right.index_select(0, order).index_select(1, order)
        reached += float(torch.dot(left.flatten(), moved.flatten())) / norm >= value - 1e-12
    return PermutationTest(value, reached / (permutations + 1))


@torch.no_grad()
def cosine_histogram(
    x: Tensor, y: Tensor, x_item: Tensor, y_item: Tensor, *, chunk: int | None = None
) -> CosineHistogram:
    """Histogram over [-1, 1] of the cosines of true pairs, and of all other pairs.

    Args:
        x: (N, E) embeddings; they need not have unit length.
        y: (M, E) embeddings.
        x_item: (N,) int64; equal keys are true pairs.
        y_item: (M,) int64.
        chunk: rows of x compared at once; None: as many as fit a few tens of megabytes.

    Examples:
        >>> import torch
        >>> from amodal.metrics import cosine_histogram
        >>> z, item = torch.eye(3), torch.arange(3)
        >>> histogram = cosine_histogram(z, z, item, item)
        >>> int(histogram.true.sum()), int(histogram.other.sum())
        (3, 6)
    """
    y = torch.nn.functional.normalize(checked("y", y), dim=1)
    true = torch.zeros(BINS, dtype=torch.int64)
    every = torch.zeros_like(true)
    step = chunk or max(1, CHUNK_BYTES // (4 * y.element_size() * max(1, len(y))))
    for rows, item in zip(torch.split(checked("x", x), step), torch.split(x_item, step),
                          strict=True):  # fmt: skip
        cosine = torch.nn.functional.normalize(rows, dim=1) @ y.T
        bins = ((cosine + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
        every += torch.bincount(bins.flatten(), minlength=BINS).cpu()
        true += torch.bincount(bins[item[:, None] == y_item], minlength=BINS).cpu()
    return CosineHistogram(true, every - true)


def _pairs(x_item: Tensor, y_item: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers of the pairs of one item, some at a time."""
    ordered, by_item = torch.sort(y_item, stable=True)
    begin = torch.searchsorted(ordered, x_item)
    count = torch.searchsorted(ordered, x_item, right=True) - begin
    row = torch.repeat_interleave(count)
    offset = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    column = by_item[begin[row] + offset]
    step = max(1, CHUNK_BYTES // (24 * width))
    if len(row):
        yield from zip(torch.split(row, step), torch.split(column, step), strict=True)


def _paired(x: Tensor, y: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    x, y = checked("x", x), checked("y", y)
    if len(x) != len(y) or len(x) < least:
        raise ValueError(f"expected paired rows, {least} or more, got {len(x)} and {len(y)}")
    return x, y


def _split(rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, max(1, CHUNK_BYTES // (8 * max(1, rows.shape[1]))))


def _is_point(squared_deviation: Tensor, mean: Tensor) -> bool:
    """Whether the deviations from the mean are rounding only."""
    return float(squared_deviation.mean()) <= NOISE * float(mean.square().sum())
