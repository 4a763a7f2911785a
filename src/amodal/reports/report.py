"""The page of a run: metrics, curves, examples, and commands to try next."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from amodal.data.atomic import write_text
from amodal.reports.plots import (
    ON_PAGE,
    ON_PAPER,
    JointMap,
    Palette,
    loss_curve,
    map_plot,
    readable_name,
    recall_curve,
    save_png,
    similarity_plot,
    to_svg,
)

PAGE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
IMAGE_SIZE = 256  # pixels of the longer side
LOSSLESS_BELOW = 128  # up to here images are kept without loss
HEADLINES = 4
PERCENT = r"recall|accuracy|precision|map\b|top-?\d|exact_match|_match|/correct|relevance@"
ImageLike = NDArray[np.uint8] | Image.Image
Shown = ImageLike | str  # a value of any input as the page shows it


@dataclass(frozen=True)
class Metric:
    """One result.

    Args:
        value: the result itself.
        low: lower end of its 95 % confidence interval.
        high: upper end.
        chance: what guessing gives.
        percent: the value is a fraction and reads best in per cent; guessed from the name if
            None.
    """

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    percent: bool | None = None


@dataclass(frozen=True)
class SearchHit:
    """An item that a search returned; `correct` if it belongs to the query."""

    value: Shown
    score: float
    correct: bool = False


@dataclass(frozen=True)
class SearchExample:
    """A query and its hits, best first; `rank` of the correct item counts from 1."""

    query: Shown
    hits: Sequence[SearchHit]
    rank: int | None = None


@dataclass(frozen=True)
class Heatmap:
    """Cosine similarities (R, C) of R values of one input and C of another; pair i is (i, i).

    Args:
        scores: (R, C).
        rows: R values.
        columns: C values.
        names: of the two inputs.
    """

    scores: NDArray[np.floating[Any]]
    rows: Sequence[Shown]
    columns: Sequence[Shown]
    names: tuple[str, str] = ("text", "image")


@dataclass(frozen=True)
class Plot:
    """A plot of the page.

    Args:
        name: of its file in `plots/`.
        caption: what it shows, one sentence.
        draw: draws it in the colours of the page or of paper; None where there is nothing to draw.
    """

    name: str
    caption: str
    draw: Callable[[Palette], Figure | None]


@dataclass(frozen=True)
class Example:
    """One item: its image, if it has one, and lines of (what, text); `correct` frames it."""

    lines: Sequence[tuple[str, str]]
    image: ImageLike | None = None
    correct: bool | None = None


@dataclass(frozen=True)
class Report:
    """The content of the page; a part that is empty is left out.

    Args:
        title: names the run.
        summary: one paragraph.
        metrics: name ("retrieval/text_to_image/recall@1") -> result; the first four are shown
            large.
        meaning: sentences on what they mean.
        log: lines of `train_log.jsonl`: step, loss, `eval/…`.
        searches: examples.
        heatmap: similarities of a few pairs.
        map_points: see `plots.joint_map`.
        plots: further plots, under a heading of their own.
        examples: items with the output of the model.
        recipe: the resolved recipe, YAML.
        broken: origin and reason of every record that was skipped.
        records: how many records were read in all.
        commands: what to try next, one shell command each; an optional comment follows " # ".
    """

    title: str
    summary: str
    metrics: Mapping[str, Metric | float] = field(default_factory=dict)
    meaning: Sequence[str] = ()
    log: Sequence[Mapping[str, Any]] = ()
    searches: Sequence[SearchExample] = ()
    heatmap: Heatmap | None = None
    map_points: JointMap | None = None
    plots: Sequence[Plot] = ()
    examples: Sequence[Example] = ()
    recipe: str = ""
    broken: Sequence[tuple[str, str]] = ()
    records: int | None = None
    commands: Sequence[str] = ()


def write_report(run: Path | str, report: Report) -> Path:
    """Write `report.html` and `plots/*.png` into the run folder.

    The page is one file that needs no network: styles and images are inside.

    Returns:
        The page.

    Raises:
        ValueError: the shape of the heat map's scores is not that of its rows and columns.

    Examples:
        >>> import tempfile
        >>> from amodal.reports import Metric, Report, write_report
        >>> recall = Metric(0.5, low=0.4, high=0.6, chance=0.01)
        >>> report = Report("A run", "What it did.", {"retrieval/text_to_image/recall@1": recall})
        >>> with tempfile.TemporaryDirectory() as run:
        ...     page = write_report(run, report)
        ...     page.name, "50.0" in page.read_text(encoding="utf-8")
        ('report.html', True)
    """
    run = Path(run)
    heatmap = report.heatmap
    if heatmap is not None and heatmap.scores.shape != (len(heatmap.rows), len(heatmap.columns)):
        raise ValueError(
            f"heat map: expected scores of shape ({len(heatmap.rows)}, {len(heatmap.columns)}), "
            f"got {heatmap.scores.shape}"
        )
    _save_plots(run / "plots", report)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = data_uri
    environment.tests["text"] = lambda value: isinstance(value, str)
    rows = [_metric_row(name, metric) for name, metric in report.metrics.items()]
    loss, recall = loss_curve(report.log, ON_PAGE), recall_curve(report.log, ON_PAGE)
    points = report.map_points
    page = environment.get_template("report.html.jinja").render(
        report=report,
        metrics=rows,
        headlines=rows[:HEADLINES],
        loss=Markup(to_svg(loss, "loss")) if loss is not None else None,
        recall=Markup(to_svg(recall, "recall")) if recall is not None else None,
        seconds=_training_time(report.log),
        heatmap=_heatmap_rows(heatmap) if heatmap is not None else None,
        map=Markup(to_svg(map_plot(points, ON_PAGE), "map")) if points is not None else None,
        plots=_on_page(report.plots),
        commands=[_command(line) for line in report.commands],
    )
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / PAGE, page)
    return run / PAGE


def _on_page(plots: Sequence[Plot]) -> list[dict[str, Any]]:
    drawn = [(plot, plot.draw(ON_PAGE)) for plot in plots]
    return [
        {"caption": plot.caption, "svg": Markup(to_svg(figure, plot.name))}
        for plot, figure in drawn
        if figure is not None
    ]


def _save_plots(folder: Path, report: Report) -> None:
    figures = {
        "loss": loss_curve(report.log, ON_PAPER),
        "recall": recall_curve(report.log, ON_PAPER),
        "map": map_plot(report.map_points, ON_PAPER) if report.map_points is not None else None,
        "similarity": _similarity_plot(report.heatmap) if report.heatmap is not None else None,
        **{plot.name: plot.draw(ON_PAPER) for plot in report.plots},
    }
    for name, figure in figures.items():
        if figure is not None:
            save_png(figure, folder / f"{name}.png")


def _similarity_plot(heatmap: Heatmap) -> Figure:
    row, column = heatmap.names
    labels = [one if isinstance(one, str) else row for one in heatmap.rows]
    return similarity_plot(heatmap.scores, labels, column, ON_PAPER)


def data_uri(value: ImageLike) -> str:
    """An image, scaled to at most `IMAGE_SIZE` pixels, as a `data:` URI."""
    image = value if isinstance(value, Image.Image) else Image.fromarray(value)
    image = image.convert("RGB")
    image.thumbnail((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    kind = "PNG" if max(image.size) <= LOSSLESS_BELOW else "JPEG"
    stream = io.BytesIO()
    image.save(stream, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


@dataclass(frozen=True)
class _MetricRow:
    name: str
    value: str
    interval: str
    chance: str
    times_chance: str
    bar: Mapping[str, float] | None  # ends in per cent of the bar's width


def _metric_row(name: str, metric: Metric | float) -> _MetricRow:
    if not isinstance(metric, Metric):
        metric = Metric(float(metric))
    percent = metric.percent
    if percent is None:
        percent = re.search(PERCENT, name.lower()) is not None
        percent = percent and 0 <= metric.value <= 1

    def show(value: float | None) -> str:
        if value is None:
            return ""
        if not math.isfinite(value):
            return "not a number"
        if percent:
            return f"{100 * value:.{1 if abs(value) >= 0.01 or value == 0 else 2}f}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    unit = " %" if percent else ""
    known = metric.low is not None and metric.high is not None
    bar = None
    if percent and math.isfinite(metric.value):
        low = metric.low if known and metric.low is not None else metric.value
        high = metric.high if known and metric.high is not None else metric.value
        bar = {"value": 100 * metric.value, "low": 100 * low, "width": 100 * (high - low)}
        if metric.chance is not None:
            bar["chance"] = 100 * metric.chance
    times = ""
    least = metric.value if metric.low is None else metric.low  # a factor needs to be certain
    if percent and metric.chance and least > metric.chance and metric.value >= 2 * metric.chance:
        times = (
            f"{metric.value / metric.chance:,.{0 if metric.value >= 10 * metric.chance else 1}f}"
        )
    return _MetricRow(
        name=readable_name(name),
        value=show(metric.value) + unit,
        interval=f"{show(metric.low)} – {show(metric.high)}" if known else "",
        chance=show(metric.chance) + unit if metric.chance is not None else "",
        times_chance=times,
        bar=bar,
    )


def _heatmap_rows(heatmap: Heatmap) -> list[dict[str, Any]]:
    scores = np.asarray(heatmap.scores, dtype=np.float64)
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    strength = (scores - low) / (high - low) if high > low else np.zeros_like(scores)
    return [
        {
            "value": value,
            "cells": [
                {
                    "score": f"{scores[row, column]:.2f}",
                    "strength": round(float(np.nan_to_num(strength[row, column])) * 100),
                    "best": column == int(np.nanargmax(scores[row])),
                    "pair": row == column,
                }
                for column in range(scores.shape[1])
            ],
        }
        for row, value in enumerate(heatmap.rows)
    ]


def _training_time(log: Sequence[Mapping[str, Any]]) -> str:
    seconds = [line["seconds"] for line in log if isinstance(line.get("seconds"), int | float)]
    if not seconds:
        return ""
    minutes, rest = divmod(round(max(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _command(line: str) -> tuple[str, str]:
    command, _, comment = line.partition(" # ")
    return command.strip(), comment.strip()
