"""Gradient checkpointing that updates the statistics of BatchNorm once per batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, *inputs: Tensor) -> Tensor:
    """`module(*inputs)`, with its activations recomputed in the backward pass.

    References:
        Chen et al. 2016, arXiv:1604.06174.
    """
    found: Tensor = checkpoint(
        module,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _statistics_held(module)),
    )
    return found


@contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    """Running statistics of BatchNorm frozen: the first pass has counted the batch."""
    layers: list[Any] = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats
    ]
    held = [(layer, layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # running = 1 * running + 0 * batch; `None` would mean an average
    try:
        yield
    finally:
        for layer, momentum, counted in held:
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(counted)
