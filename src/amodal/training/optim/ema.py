"""Exponential moving average of the weights.

References:
    Tarvainen & Valpola 2017, arXiv:1703.01780.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_model(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` whose `update_parameters` follows it with weight 1 - decay.

    The decay starts low and grows as (1 + n) / (10 + n) with the number of updates n, so that
    a short run does not end with the average of its random start.
    """
    averaged = AveragedModel(model, multi_avg_fn=_warmed(decay), use_buffers=True)
    averaged.requires_grad_(False)
    return averaged


Tensors = tuple[Tensor, ...] | list[Tensor]


def _warmed(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = float(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, weight)
        else:  # counters of BatchNorm and the like
            for kept, seen in zip(averaged, current, strict=True):
                kept.copy_(seen)

    return average
