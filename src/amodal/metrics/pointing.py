"""Pointing game: whether the maximum of an attention map lies on its target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, intervals, resampled


class PointingGameResult(NamedTuple):
    """Result of the pointing game.

    Args:
        hits: share of maps whose largest cell touches its target; ties count by expectation.
        inside: mean share of the map's weight that lies on its target.
        chance: both values of a uniform map, which is the mean area of the targets.
    """

    hits: Estimate
    inside: Estimate
    chance: float


@torch.no_grad()
def pointing_game(
    maps: Tensor, targets: Tensor, *, bootstrap: int = 1000, seed: int = 0
) -> PointingGameResult:
    """Share of attention maps whose maximum lies on the target, and attention mass inside it.

    Args:
        maps: (B, H, W) weights, not negative.
        targets: (B, H, W) bool, cells of the target; a map without any is left out.
        bootstrap: resamples of the intervals.

    Raises:
        ValueError: shapes differ, or no target covers a cell.

    References:
        Zhang et al. 2016, arXiv:1608.00507, section 4.1.

    Examples:
        >>> import torch
        >>> from amodal.metrics import pointing_game
        >>> maps = torch.tensor([[[0.7, 0.1], [0.1, 0.1]]])  # (B, H, W) attention
        >>> target = torch.tensor([[[True, False], [False, False]]])
        >>> result = pointing_game(maps, target, bootstrap=0)
        >>> result.hits.value, round(result.inside.value, 3), result.chance
        (1.0, 0.7, 0.25)
    """
    if maps.shape != targets.shape or maps.ndim != 3:
        raise ValueError(
            f"expected maps and targets of one shape (B, H, W), got "
            f"{tuple(maps.shape)} and {tuple(targets.shape)}"
        )
    flat, there = maps.double().flatten(1), targets.flatten(1)
    known = there.any(1)
    if not bool(known.any()):
        raise ValueError("no target covers a cell")
    flat, there = flat[known], there[known]
    best = flat == flat.amax(1, keepdim=True)
    hits = (best & there).sum(1) / best.sum(1)
    whole = flat.sum(1)
    area = there.double().mean(1)
    inside = torch.where(whole > 0, (flat * there).sum(1) / whole.clamp(min=1e-30), area)
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack([hits.double(), inside], dim=1)
    drawn = resampled(values, torch.arange(len(values)), bootstrap, generator)
    found = intervals(["hits", "inside"], *drawn)
    return PointingGameResult(found["hits"], found["inside"], float(area.mean()))
