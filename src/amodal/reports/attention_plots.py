"""Attention maps over images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from amodal.reports.plots import ON_PAPER, new_figure, save_png


def save_attention(file: Path, image: np.ndarray, shares: Tensor, title: str) -> None:
    """Write a PNG of the image with its attention map over it.

    Args:
        image: (H, W, 3) uint8.
        shares: (N,) attention on the tokens of a square grid, row by row.
        title: above.

    Raises:
        ValueError: the number of shares is no square.
    """
    side = math.isqrt(len(shares))
    if side * side != len(shares):
        raise ValueError(f"expected the shares of a square grid, got {len(shares)}")
    figure, axes = new_figure(ON_PAPER, (4.2, 4.4))
    axes.grid(False)
    axes.set_axis_off()
    extent = (0, image.shape[1], image.shape[0], 0)
    axes.imshow(image, extent=extent)
    grid = shares.view(side, side).numpy()
    axes.imshow(grid, extent=extent, cmap="inferno", alpha=0.55, interpolation="bilinear", vmin=0.0)
    axes.set_title(title, color=ON_PAPER.ink, fontsize=11, wrap=True)
    save_png(figure, file)
