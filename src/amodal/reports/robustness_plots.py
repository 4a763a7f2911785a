"""Plots of robustness: scores over corruption rates, and of every subset of the inputs."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from amodal.metrics.robustness import RobustnessCurve
from amodal.reports.plots import Palette, add_legend, new_figure

MARKS = ("o", "s", "^", "D", "v")


def curves_figure(
    curves: Mapping[str, RobustnessCurve],
    chance: float,
    palette: Palette,
    *,
    title: str,
    label: str,
) -> Figure:
    """Score over the rate of one corruption, a line per input with its 95 % band."""
    figure, axes = new_figure(palette, (5.6, 3.6))
    colours = [palette.first, palette.second, palette.ink, palette.muted, palette.first]
    for number, (name, curve) in enumerate(curves.items()):
        percent = [100 * rate for rate in curve.rates]
        colour = colours[number % len(colours)]
        axes.plot(
            percent, [s.value for s in curve.scores], color=colour, linewidth=2,
            marker=MARKS[number % len(MARKS)], markersize=4, label=name,
        )  # fmt: skip
        low, high = [s.low for s in curve.scores], [s.high for s in curve.scores]
        if low[0] == low[0]:
            axes.fill_between(percent, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(chance, color=palette.muted, linewidth=1, linestyle=":")
    axes.text(0, chance, " best constant", color=palette.muted, fontsize=10, va="bottom")
    axes.set_xlabel(f"{title} (%)")
    axes.set_ylabel(label)
    add_legend(axes, palette)
    return figure


def subsets_figure(
    scores: Mapping[str, float], chance: float, palette: Palette, *, label: str
) -> Figure:
    """Scores with only these inputs present, best first."""
    ordered = sorted(scores.items(), key=lambda item: -item[1])
    figure, axes = new_figure(palette, (5.6, 0.9 + 0.42 * len(ordered)))
    axes.barh(range(len(ordered)), [v for _, v in ordered], color=palette.first, height=0.62)
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], color=palette.ink)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.axvline(chance, color=palette.muted, linewidth=1, linestyle=":")
    for place, (_, value) in enumerate(ordered):
        axes.text(value, place, f" {value:.3g}", va="center", color=palette.ink, fontsize=10)
    axes.set_xlabel(f"{label}; dotted: the best constant prediction")
    axes.margins(x=0.12)
    return figure
