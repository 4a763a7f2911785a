"""Moment matching: MMD, CORAL and CMD between the embeddings of different modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.config import Config

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the bandwidth, so that several scales are covered

# Narrowest median bandwidth: unit-norm rows that lie nearer differ by the rounding of bfloat16.
NARROWEST = 1e-3


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidth: float | Tensor,
    *,
    factors: Sequence[float] = FACTORS,
    unbiased: bool = True,
) -> Tensor:
    """Squared maximum mean discrepancy of two sets of rows under a mixture of Gaussian kernels.

    k(a, b) = mean over f of exp(-|a - b|^2 / (2 (f h)^2)) with bandwidth h, and

        MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    Unbiased, a row is not compared with itself; the value is then 0 on average for rows of one
    distribution, and negative about half of the time. Biased (the V-statistic) it is never
    negative, but large for few rows.

    Args:
        x: (N, E) rows of one modality.
        y: (M, E) rows of another; they need not match those of x.
        bandwidth: h > 0, in the units of the rows; see `median_distance`.
        factors: of the bandwidth.
        unbiased: which estimate.

    Returns:
        () in float32 or wider; 0 where a side has fewer rows than the estimate needs.

    References:
        Gretton et al. 2012, JMLR 13, 723-773, eq. 3 (unbiased), eq. 5 (biased).

    Examples:
        >>> import torch
        >>> from amodal.losses import median_distance, mmd
        >>> x, y = torch.randn(300, 4), torch.randn(200, 4)
        >>> bandwidth = median_distance(x, y)
        >>> abs(mmd(x, y, bandwidth).item()) < 0.02, mmd(x, y + 1, bandwidth).item() > 0.1
        (True, True)
    """
    _check(x, y)
    if not float(bandwidth) > 0:
        raise ValueError(f"bandwidth must be above 0, got {float(bandwidth)}")
    x, y = _wide(x, y)
    with torch.autocast(x.device.type, enabled=False):
        n, m = len(x), len(y)
        if min(n, m) < (2 if unbiased else 1):
            return (x.sum() + y.sum()) * 0.0

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            square = _squared_distances(a, b)
            widths = [2 * (f * bandwidth) ** 2 for f in factors]
            return torch.stack([(-square / w).exp() for w in widths]).mean(0)

        def within(a: Tensor) -> Tensor:
            k = kernel(a, a)
            if not unbiased:
                return k.mean()
            return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

        return within(x) + within(y) - 2 * kernel(x, y).mean()


@torch.no_grad()
def median_distance(x: Tensor, y: Tensor) -> Tensor:
    """() median distance between different rows of both sets together: a usual bandwidth.

    It is 1 where all rows are equal, as the bandwidth then makes no difference.

    Examples:
        >>> import torch
        >>> from amodal.losses import median_distance
        >>> median_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])).item()
        2.0
    """
    _check(x, y)
    rows = torch.cat(_wide(x, y))
    if len(rows) < 2:
        return torch.ones((), dtype=rows.dtype, device=rows.device)
    found = torch.pdist(rows).median()
    return torch.where(found > 0, found, torch.ones_like(found))


def coral(x: Tensor, y: Tensor) -> Tensor:
    """|C_x - C_y|_F^2 / (4 E^2): the squared difference of both covariances.

    Means are ignored. Fewer than 2 rows on a side give 0.

    Args:
        x: (N, E) rows of one modality.
        y: (M, E) rows of another; they need not match those of x.

    Returns:
        () in float32 or wider.

    References:
        Sun & Saenko 2016, arXiv:1607.01719, eq. 1.

    Examples:
        >>> import torch
        >>> from amodal.losses import coral
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> coral(x, x + 5).item(), coral(x, 2 * x).item()
        (0.0, 2.25)
    """
    _check(x, y)
    x, y = _wide(x, y)
    with torch.autocast(x.device.type, enabled=False):
        if min(len(x), len(y)) < 2:
            return (x.sum() + y.sum()) * 0.0
        return (_covariance(x) - _covariance(y)).square().sum() / (4 * x.shape[1] ** 2)


def cmd(x: Tensor, y: Tensor, *, moments: int = 5, width: float = 2.0) -> Tensor:
    """Central moment discrepancy: differences of means and central moments per coordinate.

        |E x - E y| / w  +  sum over k = 2..K of |c_k(x) - c_k(y)| / w^k

    with Euclidean norms, w the width of the interval in which coordinates lie, and c_k the k-th
    central moment of each coordinate.

    Args:
        x: (N, E) rows of one modality.
        y: (M, E) rows of another; they need not match those of x.
        moments: K.
        width: w; 2 for coordinates of unit-norm rows, which lie between -1 and 1.

    Returns:
        () in float32 or wider; 0 where a side is empty.

    References:
        Zellinger et al. 2017, arXiv:1702.08811, eq. 9.

    Examples:
        >>> import torch
        >>> from amodal.losses import cmd
        >>> x = torch.tensor([[0.5], [-0.5]])
        >>> round(cmd(x, x).item(), 4), round(cmd(x, x + 1).item(), 4)
        (0.0, 0.5)
    """
    _check(x, y)
    if moments < 1 or not width > 0:
        raise ValueError(f"need moments >= 1 and width > 0, got {moments} and {width}")
    x, y = _wide(x, y)
    with torch.autocast(x.device.type, enabled=False):
        if min(len(x), len(y)) == 0:
            return (x.sum() + y.sum()) * 0.0
        difference = x.mean(0) - y.mean(0)
        total = _norm(difference) / width
        x, y = x - x.mean(0), y - y.mean(0)
        for k in range(2, moments + 1):
            total = total + _norm((x**k).mean(0) - (y**k).mean(0)) / width**k
        return total


def _norm(difference: Tensor) -> Tensor:
    # Without the floor the gradient of the norm would be NaN where both moments are equal.
    return (difference.square().sum() + torch.finfo(difference.dtype).tiny ** 0.5).sqrt()


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # Written out: the backward pass of `cdist` is not finite where two rows are equal.
    square = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T
    return square.clamp_min(0)


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected (N, E) and (M, E), got {tuple(x.shape)} and {tuple(y.shape)}")


def _wide(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


class MMDConfig(Config):
    """`mmd` between every two modalities."""

    kind: Literal["mmd"] = "mmd"
    # median: of the distances in the batch; the gradient does not flow through it
    bandwidth: Literal["median"] | float = Field("median")
    unbiased: bool = True  # leaves out pairs of a row with itself

    def build(self, dim: int | None = None) -> MomentMatching:
        def distance(x: Tensor, y: Tensor) -> Tensor:
            given = self.bandwidth
            median = median_distance(x, y).clamp_min(NARROWEST)
            width = median if given == "median" else float(given)
            return mmd(x, y, width, unbiased=self.unbiased)

        return MomentMatching(distance)


class CORALConfig(Config):
    """`coral` between every two modalities."""

    kind: Literal["coral"] = "coral"

    def build(self, dim: int | None = None) -> MomentMatching:
        return MomentMatching(coral)


class CMDConfig(Config):
    """`cmd` between every two modalities."""

    kind: Literal["cmd"] = "cmd"
    moments: int = Field(5, ge=1)  # number of moments that are compared
    width: float = Field(2.0, gt=0)  # of the interval that coordinates lie in; 2 for unit-norm rows

    def build(self, dim: int | None = None) -> MomentMatching:
        return MomentMatching(lambda x, y: cmd(x, y, moments=self.moments, width=self.width))


class MomentMatching(nn.Module):
    """Mean over pairs of modalities of a distance between their distributions.

    Args:
        distance: (N, E), (M, E) -> ().

    Examples:
        >>> import torch
        >>> from amodal.losses import MMDConfig
        >>> loss = MMDConfig().build()
        >>> image, text, audio = torch.randn(8, 4), torch.randn(6, 4), torch.randn(5, 4)
        >>> loss([image, text, audio]).shape
        torch.Size([])
    """

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Loss of two or more tensors (N_m, E)."""
        if len(embeddings) < 2:
            raise ValueError(f"need 2 or more modalities, got {len(embeddings)}")
        return torch.stack([self.distance(x, y) for x, y in combinations(embeddings, 2)]).mean()
