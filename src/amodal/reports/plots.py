"""Plots of a report: loss, recall, similarities, and a map of the joint space."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from amodal.data.atomic import staged_file

CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "PingFang SC",
             "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei")  # fmt: skip
LABEL_LENGTH = 40  # characters of a caption on an axis


@dataclass(frozen=True)
class Palette:
    """Colours by role; `first` and `second` are those of the first two curves or inputs."""

    ink: str
    muted: str
    grid: str
    first: str
    second: str
    background: str


ON_PAPER = Palette("#16191d", "#5b6470", "#e1e5ea", "#2563c9", "#c8540f", "#ffffff")
# Stand-ins that `to_svg` replaces by CSS variables, so that a figure follows the page's theme.
ON_PAGE = Palette("#010101", "#010102", "#010103", "#010104", "#010105", "none")
_VARIABLES = {
    getattr(ON_PAGE, role): f"var(--{role})" for role in ("ink", "muted", "grid", "first", "second")
}


@dataclass(frozen=True)
class JointMap:
    """Two-dimensional map of paired embeddings.

    Args:
        first: (N, 2) positions; row i belongs to row i of `second`.
        second: (N, 2).
        gap: distance between the means of the two inputs, in [0, 2].
        explained: fraction of the variance that the two axes hold.
        names: of the two inputs.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    gap: float
    explained: float
    names: tuple[str, str]


def joint_map(first: Tensor, second: Tensor, names: tuple[str, str]) -> JointMap:
    """Project paired embeddings on their two common principal axes.

    Args:
        first: (N, E) unit-norm embeddings; row i is paired with row i of `second`.
        second: (N, E).
        names: of the two inputs.

    References:
        Liang et al. 2022, arXiv:2203.02053 (the modality gap).
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 1:
        raise ValueError(f"expected two (N, E), got {tuple(first.shape)}, {tuple(second.shape)}")
    first, second = first.detach().cpu().double(), second.detach().cpu().double()
    both = torch.cat([first, second])
    centre = both.mean(0)
    both = both - centre
    variances, axes = torch.linalg.eigh(both.T @ both)  # rising
    if axes.shape[1] < 2:
        axes = torch.cat([torch.zeros_like(axes), axes], dim=1)
    axes = axes[:, -2:].flip(1)  # (E, 2)
    axes = axes * torch.sign(axes[axes.abs().argmax(0), torch.arange(2)] + 1e-30)
    total = variances.clamp_min(0).sum()
    held = variances.clamp_min(0)[-2:].sum()
    return JointMap(
        first=((first - centre) @ axes).float().numpy(),
        second=((second - centre) @ axes).float().numpy(),
        gap=float((first.mean(0) - second.mean(0)).norm()),
        explained=float(held / total) if total > 0 else 1.0,
        names=names,
    )


def new_figure(palette: Palette, size: tuple[float, float]) -> tuple[Figure, Any]:
    """An empty figure in the style of all plots, and its axes."""
    figure = Figure(figsize=size, layout="constrained", facecolor=palette.background)
    axes = figure.subplots()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.grid)
    axes.tick_params(colors=palette.muted, length=0, labelsize=11)
    axes.grid(True, color=palette.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(palette.muted)
        axis.label.set_fontsize(11)
    return figure, axes


def add_legend(axes: Any, palette: Palette) -> None:
    """A legend without a frame."""
    axes.legend(frameon=False, fontsize=11, labelcolor=palette.ink, handlelength=1.4)


def series(log: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the log lines that hold a finite `key`."""
    points = [
        (float(line["step"]), float(line[key]))
        for line in log
        if isinstance(line.get(key), int | float) and isinstance(line.get("step"), int | float)
    ]
    points = [point for point in points if np.isfinite(point).all()]
    return [step for step, _ in points], [value for _, value in points]


def recall_keys(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the log that hold a recall at rank 1, in order of appearance."""
    keys = dict.fromkeys(key for line in log for key in line)
    return [key for key in keys if key.startswith("eval/") and key.endswith("recall@1")]


def loss_curve(log: Sequence[Mapping[str, Any]], palette: Palette) -> Figure | None:
    """Training loss over steps, smoothed where there are many, with the validation loss."""
    steps, losses = series(log, "loss")
    if len(steps) < 2:
        return None
    figure, axes = new_figure(palette, (5.6, 3.2))
    if len(steps) > 40:
        axes.plot(steps, losses, color=palette.first, alpha=0.3, linewidth=1)
        axes.plot(steps, _smooth(losses), color=palette.first, linewidth=2, label="training")
    else:
        axes.plot(steps, losses, color=palette.first, linewidth=2, label="training")
    eval_steps, eval_losses = series(log, "eval/loss")
    if eval_steps:
        axes.plot(
            eval_steps, eval_losses, color=palette.second, linewidth=2, marker="o", markersize=4,
            label="validation",
        )  # fmt: skip
        add_legend(axes, palette)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.set_xlim(left=0)
    return figure


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Mean over a centred window of a fortieth of the curve; shorter at both ends."""
    half = max(1, len(values) // 80)
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def recall_curve(log: Sequence[Mapping[str, Any]], palette: Palette) -> Figure | None:
    """Recall at rank 1 on the validation data over steps, in both directions."""
    return score_curve(log, recall_keys(log), palette, label="recall@1 (%)", scale=100)


def score_curve(
    log: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    palette: Palette,
    *,
    label: str,
    scale: float = 1.0,
) -> Figure | None:
    """Metrics on the validation data over steps; None where the log has none of `keys`."""
    curves = [(key, *series(log, key)) for key in keys]
    curves = [(key, steps, values) for key, steps, values in curves if steps]
    if not curves:
        return None
    figure, axes = new_figure(palette, (5.6, 3.2))
    colours = [palette.second, palette.first, palette.muted, palette.ink]
    for number, (key, steps, values) in enumerate(curves):
        axes.plot(
            steps, [scale * v for v in values], color=colours[number % 4], linewidth=2, marker="o",
            markersize=4, label=readable_name(key.removeprefix("eval/")),
            linestyle="-" if number < 4 else "--",
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.set_xlim(left=0)
    if min(v for _, _, values in curves for v in values) >= 0:
        axes.set_ylim(bottom=0)
    add_legend(axes, palette)
    return figure


def map_plot(points: JointMap, palette: Palette, pairs: int = 150) -> Figure:
    """At most `pairs` pairs of the map, the two of each joined by a line."""
    figure, axes = new_figure(palette, (5.6, 4.6))
    chosen = np.unique(np.linspace(0, len(points.first) - 1, pairs).astype(int))
    first, second = points.first[chosen], points.second[chosen]
    axes.plot(
        np.stack([first[:, 0], second[:, 0]]), np.stack([first[:, 1], second[:, 1]]),
        color=palette.muted, linewidth=0.7, alpha=0.45, zorder=1,
    )  # fmt: skip
    for rows, name, colour, marker in (
        (first, points.names[0], palette.first, "o"),
        (second, points.names[1], palette.second, "s"),
    ):
        axes.scatter(*rows.T, s=26, color=colour, label=name, zorder=2, marker=marker, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("first principal axis")
    axes.set_ylabel("second principal axis")
    add_legend(axes, palette)
    return figure


def similarity_plot(
    scores: NDArray[np.floating[Any]], rows: Sequence[str], column: str, palette: Palette
) -> Figure:
    """Cosine similarities (R, C) as colours with their values.

    Args:
        rows: a label per row.
        column: what the columns are.
    """
    height = 1.2 + 0.36 * len(rows)
    figure, axes = new_figure(palette, (4.2 + 0.5 * scores.shape[1], height))
    axes.grid(False)
    drawn = axes.imshow(scores, cmap="Blues", aspect="auto")
    axes.set_xticks(range(scores.shape[1]), [str(i + 1) for i in range(scores.shape[1])])
    labels = [f"{i + 1}  {shorten(text)}" for i, text in enumerate(rows)]
    axes.set_yticks(range(len(rows)), labels, fontfamily=_fonts())
    axes.set_xlabel(column)
    middle = (scores.min() + scores.max()) / 2
    for (y, x), score in np.ndenumerate(scores):
        colour = "white" if score > middle else "black"
        axes.text(x, y, f"{score:.2f}", ha="center", va="center", color=colour, size=8)
    bar = figure.colorbar(drawn, ax=axes)
    bar.ax.tick_params(colors=palette.muted)
    bar.set_label("cosine similarity", color=palette.muted)
    return figure


def _fonts() -> list[str]:
    """Matplotlib's own font, then those of this machine that have Chinese characters."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]


def shorten(text: str, length: int = LABEL_LENGTH) -> str:
    """`text`, truncated to `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def readable_name(name: str) -> str:
    """A metric's name for people: "retrieval/text_to_image/recall@1" → "text → image recall@1"."""
    parts = [re.sub(r"_to_", " → ", part).replace("_", " ") for part in name.split("/")]
    return " ".join(parts[1:] if len(parts) > 1 and parts[0] == "retrieval" else parts)


def to_svg(figure: Figure, salt: str) -> str:
    """An inline SVG whose colours are the page's; equal figures give equal text."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    # Several figures share a page, where an id may occur once only.
    svg = re.sub(r'\b(id="|xlink:href="#|href="#|url\(#)', rf"\g<1>{salt}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)


def save_png(figure: Figure, file: Path) -> None:
    """Write the figure as a PNG for use outside the report."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(file) as staged, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # captions in any script
        figure.savefig(staged, dpi=160, format="png", metadata={"Software": None})
