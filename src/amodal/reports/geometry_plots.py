"""Plots of the geometry of a joint space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from torch import Tensor

from amodal.metrics.geometry import EmbeddingSet, GeometryResult, second_moment
from amodal.metrics.similarity import BINS, CosineHistogram, cosine_histogram
from amodal.reports.plots import ON_PAPER, Palette, add_legend, new_figure, save_png

OTHERS = ("#1a8754", "#8b3fc4", "#b08900", "#c2255c", "#0b7d8f", "#6b4a2b")  # further inputs
MAP_ROWS = 400  # drawn of each input
BARS = 60  # of a histogram, about


def write_plots(
    folder: Path, samples: Mapping[str, EmbeddingSet], result: GeometryResult
) -> list[Path]:
    """Write the map, the spectra, and for each pair the similarities and the k-occurrences.

    Returns:
        The PNG files.
    """
    colours = input_colours(list(samples), ON_PAPER)
    figures = {
        "map": map_figure({name: sample.z for name, sample in samples.items()}, colours),
        "spectrum": spectrum_figure(result.spectra, colours),
    }
    for a, b in combinations(samples, 2):
        histogram = cosine_histogram(samples[a].z, samples[b].z, samples[a].item, samples[b].item)
        figures[f"similarity_{a}_{b}"] = similarity_figure(histogram, a, b)
        figures[f"gap_{a}_{b}"] = gap_figure({n: samples[n].z for n in (a, b)}, colours)
        # The colour is that of the gallery, whose rows are counted.
        counted = {f"{x} → {y}": (result.occurrences[f"{x}_to_{y}"], colours[y])
                   for x, y in ((a, b), (b, a))}  # fmt: skip
        figures[f"k_occurrence_{a}_{b}"] = occurrence_figure(counted, result.options.k)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        save_png(figure, files[-1])
    return files


def input_colours(names: Sequence[str], palette: Palette) -> dict[str, str]:
    """A colour per input, in the order given; they repeat after the eighth."""
    colours = (palette.first, palette.second, *OTHERS)
    return {name: colours[i % len(colours)] for i, name in enumerate(names)}


def map_figure(samples: Mapping[str, Tensor], colours: Mapping[str, str]) -> Figure:
    """Embeddings on their two common principal axes, with a mark at the centroid of each input.

    The axes are those of all inputs with equal weight; at most `MAP_ROWS` rows of each, evenly
    spaced, are drawn.
    """
    moment, centre = second_moment(list(samples.values()))
    variances, axes = torch.linalg.eigh(moment)
    axes, held = axes[:, -2:].flip(1), variances[-2:].flip(0).clamp_min(0)
    if axes.shape[1] == 1:
        axes, held = torch.cat([axes, 0 * axes], dim=1), torch.cat([held, 0 * held])
    axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)
    share = held / variances.sum() if variances.sum() > 0 else held
    figure, ax = new_figure(ON_PAPER, (6.0, 4.8))
    places, paint = [], []
    for name, z in samples.items():
        rows = torch.linspace(0, len(z) - 1, min(MAP_ROWS, len(z))).long().to(z.device)
        places.append(((z[rows].double() - centre) @ axes).cpu().numpy())
        paint += [colours[name]] * len(rows)
    points = np.concatenate(places)
    mixed = np.random.default_rng(0).permutation(len(points))  # no input covers the others
    ax.scatter(*points[mixed].T, s=14, alpha=0.6, c=np.array(paint)[mixed], linewidths=0)
    for name, z in samples.items():
        middle = ((z.mean(0, dtype=torch.float64) - centre) @ axes).cpu().numpy()
        ax.scatter([], [], s=30, color=colours[name], linewidths=0, label=name)
        ax.scatter(
            *middle, s=150, color=colours[name], marker="P", edgecolors="white", linewidths=1.5,
            zorder=3,
        )  # fmt: skip
    ax.set_aspect("equal", adjustable="datalim")
    for axis, number, part in ((ax.xaxis, "first", share[0]), (ax.yaxis, "second", share[1])):
        axis.set_label_text(f"{number} principal axis ({100 * float(part):.0f} % of the variance)")
    ax.set_title("embeddings and centroids (+)", color=ON_PAPER.muted, fontsize=11, loc="left")
    add_legend(ax, ON_PAPER)
    return figure


def spectrum_figure(spectra: Mapping[str, Tensor], colours: Mapping[str, str]) -> Figure:
    """Singular values of the centred embeddings over their number, as shares of the largest."""
    figure, ax = new_figure(ON_PAPER, (6.0, 3.6))
    for name, singular in spectra.items():
        values = singular[singular > 0].numpy()
        if len(values) == 0:
            continue
        if name in colours:
            style = {"color": colours[name], "linewidth": 2.0}
        else:
            style = {"color": ON_PAPER.muted, "linewidth": 1.5, "linestyle": "--"}
        numbers = range(1, len(values) + 1)
        ax.plot(numbers, values / values[0], label=name, marker="o", markersize=3, **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    bottom = max(ax.get_ylim()[0], 1e-4)
    ax.set_ylim(bottom, 1.3)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if bottom < 0.02 else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    longest = max((int((singular > 0).sum()) for singular in spectra.values()), default=1)
    ax.set_xticks(*_doubling(longest))
    ax.minorticks_off()
    ax.set_xlabel("index of the singular value")
    ax.set_ylabel("relative to the largest")
    add_legend(ax, ON_PAPER)
    return figure


def _doubling(last: int) -> tuple[list[int], list[str]]:
    """Ticks 1, 2, 4, ... up to `last`, and their labels."""
    ticks = [2**e for e in range(max(1, last.bit_length()))]
    return ticks, [str(tick) for tick in ticks]


def similarity_figure(histogram: CosineHistogram, a: str, b: str) -> Figure:
    """Cosines of pairs and of non-pairs, each scaled to an area of 1."""
    figure, ax = new_figure(ON_PAPER, (6.0, 3.6))
    edges = np.linspace(-1, 1, BINS + 1)
    counts = {"pairs": histogram.true.numpy(), "non-pairs": histogram.other.numpy()}
    occupied = np.flatnonzero(sum(counts.values()))
    if len(occupied):
        low, high = occupied[0], occupied[-1] + 1
        width = max(1, -(-(high - low) // BARS))
        starts = np.arange(low, high, width)
        borders = np.append(edges[starts], edges[min(starts[-1] + width, BINS)])
        for (name, count), colour in zip(
            counts.items(), (ON_PAPER.second, ON_PAPER.muted), strict=True
        ):
            total = count.sum()
            if total == 0:
                continue
            bars = np.add.reduceat(count[: starts[-1] + width], starts)
            density = bars / total / np.diff(borders)
            ax.stairs(density, borders, fill=True, color=colour, alpha=0.3)
            ax.stairs(density, borders, color=colour, linewidth=1.6, label=f"{name} ({total:,})")
        add_legend(ax, ON_PAPER)
    ax.set_xlabel(f"cosine of {a} and {b}")
    ax.set_ylabel("density")
    ax.set_ylim(bottom=0)
    return figure


def occurrence_figure(counted: Mapping[str, tuple[Tensor, str]], k: int) -> Figure:
    """Share of the gallery rows by k-occurrence, in doubling classes.

    Args:
        counted: direction -> (G,) k-occurrence and colour.
        k: nearest neighbours that were counted.
    """
    highest = max(float(occurrence.max()) for occurrence, _ in counted.values())
    tops = [0, 1, 2]  # the last number of each class
    while tops[-1] + 0.5 < highest:
        tops.append(2 * tops[-1])
    labels = ["never", "1", "2", *(f"≤{top}" for top in tops[3:])]
    # Ties make fractions: 0 is a class of its own, anything above it up to 1.5 counts as 1.
    borders = np.array([0.0, 1e-9, *(top + 0.5 for top in tops[1:])])
    figure, ax = new_figure(ON_PAPER, (6.0, 3.6))
    ax.grid(False, axis="x")
    width = 0.8 / len(counted)
    for number, (name, (occurrence, colour)) in enumerate(counted.items()):
        counts, _ = np.histogram(occurrence.numpy(), bins=borders)
        places = np.arange(len(counts)) + (number - (len(counted) - 1) / 2) * width
        label = f"{name}, mean {float(occurrence.mean()):.3g}"
        ax.bar(places, 100 * counts / len(occurrence), width, color=colour, label=label)
    ax.set_xticks(range(len(labels)), labels, fontsize=11 if len(labels) <= 10 else 9)
    ax.set_xlabel(f"k-occurrence (k = {k})")
    ax.set_ylabel("gallery rows (%)")
    add_legend(ax, ON_PAPER)
    return figure


def gap_figure(samples: Mapping[str, Tensor], colours: Mapping[str, str]) -> Figure:
    """Two inputs along the line through their centroids, with 0 halfway between them."""
    means = [z.mean(0, dtype=torch.float64) for z in samples.values()]
    line, middle = means[1] - means[0], (means[0] + means[1]) / 2
    distance = float(line.norm())
    line = line / distance if distance > 0 else line
    places = {name: ((z.double() - middle) @ line).cpu().numpy() for name, z in samples.items()}
    everything = np.concatenate(list(places.values()))
    borders = np.histogram_bin_edges(everything, bins=BARS)
    figure, ax = new_figure(ON_PAPER, (6.0, 3.6))
    for name, values in places.items():
        density, _ = np.histogram(values, bins=borders, density=True)
        ax.stairs(density, borders, fill=True, color=colours[name], alpha=0.3)
        ax.stairs(density, borders, color=colours[name], linewidth=1.6, label=name)
    for end, name in zip((-distance / 2, distance / 2), samples, strict=True):
        ax.axvline(end, color=colours[name], linewidth=1.2, linestyle="--")
    ax.set_xlabel(f"position along the line through the centroids (dashed, {distance:.3g} apart)")
    ax.set_ylabel("density")
    ax.set_ylim(bottom=0)
    add_legend(ax, ON_PAPER)
    return figure
