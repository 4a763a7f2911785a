"""Plots of predictions: confusion matrix, predicted over true numbers, bars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from amodal.reports.plots import Palette, new_figure, readable_name

MAX_CLASSES = 20  # of a confusion matrix that can still be read


def confusion_figure(
    logits: Tensor, target: Tensor, classes: Sequence[str], palette: Palette
) -> Figure | None:
    """Share of each true class (rows) that is predicted as each class (columns).

    None where there are more than 20 classes, or no target is known.

    Args:
        logits: (N, C).
        target: (N,) int64, below 0 where unknown.
    """
    known = target >= 0
    if len(classes) > MAX_CLASSES or not bool(known.any()):
        return None
    counts = torch.zeros(len(classes), len(classes))
    pairs = target[known] * len(classes) + logits[known].argmax(1)
    counts += pairs.bincount(minlength=len(classes) ** 2).view_as(counts)
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = 2.4 + 0.34 * len(classes)
    figure, axes = new_figure(palette, (side, side))
    axes.grid(False)
    for row in range(len(classes)):
        for column in range(len(classes)):
            value = float(share[row, column])
            axes.add_patch(
                _square(column, row, value, palette.first if row == column else palette.second)
            )
            if value >= 0.005:
                axes.text(
                    column, row, f"{100 * value:.0f}", ha="center", va="center",
                    color=palette.ink, fontsize=10,
                )  # fmt: skip
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", color=palette.ink)
    axes.set_yticks(range(len(classes)), classes, color=palette.ink)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (rows sum to 100 %)")
    return figure


def scatter_figure(values: Tensor, target: Tensor, palette: Palette) -> Figure | None:
    """Predicted numbers over the true ones; points on the line are exact.

    Args:
        values: (N,).
        target: (N,), NaN where unknown.
    """
    known = ~target.isnan()
    if not bool(known.any()):
        return None
    x, y = target[known].double().numpy(), values[known].double().numpy()
    figure, axes = new_figure(palette, (4.6, 4.2))
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    axes.plot([low, high], [low, high], color=palette.muted, linewidth=1)
    axes.scatter(x, y, s=14, color=palette.first, alpha=0.5, linewidths=0)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    return figure


def bars_figure(values: dict[str, float], palette: Palette, *, label: str) -> Figure:
    """Named values as bars, the first one in another colour."""
    figure, axes = new_figure(palette, (5.6, 0.9 + 0.42 * len(values)))
    names = [readable_name(name) for name in values]
    colours = [palette.second] + [palette.first] * (len(values) - 1)
    axes.barh(range(len(values)), list(values.values()), color=colours, height=0.62)
    axes.set_yticks(range(len(values)), names, color=palette.ink)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    for place, value in enumerate(values.values()):
        axes.text(value, place, f" {value:.3g}", va="center", color=palette.ink, fontsize=10)
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    return figure


def _square(column: int, row: int, value: float, colour: str) -> object:
    from matplotlib.patches import Rectangle

    # Squares in place of an image: their colour can follow the theme of a page.
    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=0.85 * value)
