"""Ranking measures under ties: exact expectations when equal scores are ordered at random.

An entry of a ranking is described by counts: `above` entries score more, `tied` entries
(itself included) score the same, of which `relevant` are relevant. Every order of tied entries
is equally likely. A constant score then measures exactly chance.

References:
    McSherry & Najork 2008, "Computing information retrieval performance measures efficiently
    in the presence of tied scores".
"""

from __future__ import annotations

import torch
from torch import Tensor


def hit_within(k: int, above: Tensor, tied: Tensor, relevant: Tensor) -> Tensor:
    """Probability that one of the best relevant entries is among the first k.

    The k - above places left in the group are a draw without replacement, so that all of them
    are irrelevant with probability C(tied - relevant, places) / C(tied, places).

    Args:
        k: places that count.
        above, tied, relevant: (Q,) counts of the group of the best relevant entry.

    Returns:
        (Q,) float64.
    """
    places = (k - above).clamp_min(0)
    missed = torch.ones(len(above), dtype=torch.float64, device=above.device)
    for drawn in range(int(places.clamp_max(k).max()) if len(places) else 0):
        others = (tied - relevant - drawn).clamp_min(0).double()
        left = others / (tied - drawn).clamp_min(1).double()
        missed = torch.where(places > drawn, missed * left, missed)
    return 1.0 - missed


def first_rank(above: Tensor, tied: Tensor, relevant: Tensor) -> Tensor:
    """Expected rank, from 1, of the first of `relevant` among `tied` entries; (Q,) float64."""
    return above.double() + (tied + 1).double() / (relevant + 1).double()


def reciprocal_rank(above: Tensor, tied: Tensor, relevant: Tensor) -> Tensor:
    """Expected 1 / rank of the first of `relevant` among `tied` entries; (Q,) float64."""
    groups, group_of = torch.unique(
        torch.stack([above, tied, relevant], dim=1), dim=0, return_inverse=True
    )
    above, tied, relevant = groups.unbind(1)
    value = torch.zeros(len(groups), dtype=torch.float64, device=groups.device)
    # P(first at place d) = relevant / (tied - d + 1) * P(not before d)
    alive = torch.ones_like(value)
    running = torch.arange(len(groups), device=groups.device)
    place = 0
    while len(running):
        place += 1
        a, t, r = above[running], tied[running], relevant[running]
        here = alive[running] * (r.double() / (t - place + 1).double())
        value[running] += here / (a + place).double()
        alive[running] -= here
        running = running[place < t - r + 1]
    return value[group_of]


def precision_sum(
    above: Tensor, above_relevant: Tensor, tied: Tensor, relevant: Tensor, harmonic: Tensor
) -> Tensor:
    """Expected sum of the precisions at the `relevant` entries of a group of `tied` ones.

    At place d of the group the precision at a relevant entry is expected to be
    (above_relevant + 1 + (d - 1)(relevant - 1)/(tied - 1)) / (above + d), and every place is
    equally likely; the sums over d are differences of harmonic numbers.

    Args:
        above, above_relevant: (P,) entries, and relevant entries, that score more.
        tied, relevant: (P,) entries, and relevant entries, of the group.
        harmonic: (G + 1,) harmonic numbers 0, 1, 1 + 1/2, ...

    Returns:
        (P,) float64.
    """
    inverse = harmonic[above + tied] - harmonic[above]  # sum of 1 / (above + d)
    weighted = tied.double() - (above + 1).double() * inverse  # sum of (d - 1) / (above + d)
    slope = (relevant - 1).double() / (tied - 1).clamp_min(1).double()
    total = (above_relevant + 1).double() * inverse + slope * weighted
    return relevant.double() / tied.double() * total


def discount_sums(k: int, device: torch.device) -> Tensor:
    """(k + 1,) float64 sums of the discounts 1 / log2(1 + rank) of the first 0, 1, ..., k ranks."""
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=device)
    zero = torch.zeros(1, dtype=torch.float64, device=device)
    return torch.cat([zero, (1.0 / torch.log2(1.0 + ranks)).cumsum(0)])


def expected_discount(above: Tensor, tied: Tensor, sums: Tensor) -> Tensor:
    """Expected discount within the first k ranks of an entry among `tied` ones; (P,) float64."""
    k = len(sums) - 1
    inside = sums[(above + tied).clamp_max(k)] - sums[above.clamp_max(k)]
    return inside / tied.double()


def harmonic_numbers(n: int, device: torch.device) -> Tensor:
    """(n + 1,) float64 harmonic numbers 0, 1, 1 + 1/2, ..."""
    zero = torch.zeros(1, dtype=torch.float64, device=device)
    counts = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    return torch.cat([zero, (1.0 / counts).cumsum(0)])
