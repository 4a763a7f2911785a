"""Evaluation mode of a module for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Dropout and BatchNorm as in evaluation; the mode of before is restored, whatever happens.

    Examples:
        >>> from torch import nn
        >>> layer = nn.Dropout(0.5).train()
        >>> with evaluation_mode(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
