"""Significance of canonical correlations: held-out rows, permutations, bias correction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor


class HeldOutCorrelation(NamedTuple):
    """Correlations of scores on held-out rows; see `held_out_correlation`.

    Args:
        correlations: (K,) float64, one per component.
        total: their sum, the usual summary of CCA.
        p_values: (K,) share of permutations that reach each correlation, or None.
        p_total: share of permutations that reach the total, or None.
        n: number of rows of the pair of views with the fewest.

    Examples:
        >>> import torch
        >>> from amodal.alignment import held_out_correlation
        >>> scores = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> round(held_out_correlation([scores, 3 * scores]).total, 6)
        2.0
    """

    correlations: Tensor
    total: float
    p_values: Tensor | None
    p_total: float | None
    n: int


def held_out_correlation(
    scores: Sequence[Tensor],
    present: Tensor | None = None,
    *,
    permutations: int = 0,
    generator: torch.Generator | None = None,
) -> HeldOutCorrelation:
    """Correlation of the scores of M views per component, averaged over pairs of views.

    The maps are fixed, so that under independence of the views every order of the rows is equally
    likely: with P permutations, p = (1 + number that reach the value) /
    (1 + P) is exact for each component and for the total. A p-value on the rows of the fit would
    need a correction for the fit and for earlier components.

    Args:
        scores: M tensors (N, K), M >= 2, rows matched. A column without variance counts as 0.
        present: (N, M) bool, False where a view is missing; None: all are there. A pair of views
            is correlated over the rows that have both; pairs without common rows are left out.
        permutations: P; 0: no p-values.
        generator: source of the permutations.

    Raises:
        ValueError: shapes do not match, a pair has 1 or 2 common rows, or no pair has any.

    Examples:
        >>> import torch
        >>> from amodal.alignment import held_out_correlation
        >>> generator = torch.Generator().manual_seed(0)
        >>> scores = torch.randn(50, 1, generator=generator)
        >>> result = held_out_correlation(
        ...     [scores, scores], permutations=99, generator=generator
        ... )
        >>> round(result.p_total, 2), result.n
        (0.01, 50)

    References:
        Winkler et al. 2020, arXiv:2002.10046 (why in-sample permutation needs more care).
    """
    views = [_as_rows(f"scores[{i}]", s) for i, s in enumerate(scores)]
    if len(views) < 2 or len({v.shape for v in views}) != 1:
        raise ValueError(
            f"need 2 or more (N, K) of one shape, got {[tuple(v.shape) for v in views]}"
        )
    keep = checked_presence(views, present)
    pairs = []  # columns of length 1, so that a product of two is a correlation
    for i, j in combinations(range(len(views)), 2):
        both = keep[:, i] & keep[:, j]
        n = int(both.sum())
        if n == 0:
            continue
        if n < 3:
            raise ValueError(
                f"views {i} and {j} have {n} common rows; a correlation needs 3 or more"
            )
        pairs.append((_unit_columns(views[i][both]), _unit_columns(views[j][both])))
    if not pairs:
        raise ValueError("no row has two views")
    correlations = torch.stack([(a * b).sum(0) for a, b in pairs]).mean(0)  # (K,)
    total = float(correlations.sum())
    smallest = min(len(a) for a, _ in pairs)
    if not permutations:
        return HeldOutCorrelation(correlations, total, None, None, smallest)
    # With the margin, a permutation with the same value up to rounding counts as reaching it.
    reached = torch.zeros_like(correlations)
    reached_total = 0
    for _ in range(permutations):
        null = torch.stack(
            [(a * b[_permutation(len(b), generator, b.device)]).sum(0) for a, b in pairs]
        ).mean(0)
        reached += null >= correlations - 1e-12
        reached_total += int(null.sum() >= total - 1e-12)
    return HeldOutCorrelation(
        correlations,
        total,
        (1 + reached) / (1 + permutations),
        (1 + reached_total) / (1 + permutations),
        smallest,
    )


def adjusted_captured(correlations: Tensor, n: int, ranks: tuple[int, int]) -> float:
    """Sum of squared in-sample canonical correlations of two views, without its chance part.

    With ranks r and q, s = min(r, q) and e = max(r, q) / (n - 1):

        s * (sum of ρ² / s - e) / (1 - e)

    Under independence the sum of all s squares has expectation r q / (n - 1) for any distribution
    of one view, so that the value is 0 on average; a perfect fit stays s. For s = 1 it is the
    adjusted R² of a regression. It can be negative, and holds for CCA without ridge and with all s
    components.

    Args:
        correlations: (s,) all in-sample canonical correlations.
        n: rows of the fit.
        ranks: ranks of the two covariances.

    Returns:
        The adjusted sum; -inf where n - 1 <= max(ranks): any fit is then perfect by chance.

    Examples:
        >>> adjusted_captured(torch.tensor([1.0, 1.0]), n=100, ranks=(2, 3))
        2.0

    References:
        Ezekiel 1930 (adjusted R², the case s = 1). The expectation is that of tr(P1 P2) for
        two independent projections in n - 1 dimensions.
    """
    small, large = sorted(ranks)
    if len(correlations) != small:
        raise ValueError(f"need all {small} correlations of ranks {ranks}, got {len(correlations)}")
    if small == 0:
        return 0.0
    if n - 1 <= large:
        return float("-inf")
    chance = large / (n - 1)
    return small * (float(correlations.double().square().sum()) / small - chance) / (1 - chance)


def corrected_correlations(correlations: Tensor, null: Tensor) -> Tensor:
    """In-sample correlations without their chance part.

        sqrt(max(0, (ρ² - ρ0²) / (1 - ρ0²))),   ρ0² = mean over permutations of the k-th square

    0 where the views are independent, 1 where ρ = 1 and chance is below 1. Where chance is 1 (n of
    the order of the widths) the result is 0. The correction of components after strong ones has an
    error of the order of K / n.

    Args:
        correlations: (K,) in-sample correlations, in falling order.
        null: (P, K) the same for permuted rows; see `cca.null_correlations`.

    Examples:
        >>> corrected_correlations(torch.tensor([1.0, 0.3]), torch.full((5, 2), 0.3)).tolist()
        [1.0, 0.0]
    """
    chance = null.double().square().mean(0)
    room = 1 - chance
    left = (correlations.double().square() - chance).clamp_min(0)
    return torch.where(room > 1e-9, left / room.clamp_min(1e-9), torch.zeros_like(left)).sqrt()


def checked_presence(views: Sequence[Tensor], present: Tensor | None) -> Tensor:
    """(N, M) bool of M views with N rows; all True for None."""
    n = len(views[0])
    if any(len(v) != n for v in views):
        raise ValueError(f"views must have matched rows, got {[len(v) for v in views]}")
    if present is None:
        return torch.ones(n, len(views), dtype=torch.bool, device=views[0].device)
    if present.shape != (n, len(views)) or present.dtype != torch.bool:
        raise ValueError(
            f"present must be bool {(n, len(views))}, got {present.dtype} {tuple(present.shape)}"
        )
    return present


def _permutation(n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    source = generator.device if generator is not None else torch.device("cpu")
    return torch.randperm(n, generator=generator, device=source).to(device)


def _as_rows(name: str, x: Tensor) -> Tensor:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"{name} must be a floating (N, K), got {x.dtype} {tuple(x.shape)}")
    return x.detach().double()


def _unit_columns(x: Tensor) -> Tensor:
    size = x.abs().amax(0) if len(x) else x.new_zeros(x.shape[1])
    x = x - x.mean(0)
    length = x.norm(dim=0)
    # A deviation at the level of rounding errors counts as no variance.
    empty = length <= size * 1e-13 * max(1, len(x)) ** 0.5
    return torch.where(empty, torch.zeros_like(x), x / length.masked_fill(empty, 1.0))
