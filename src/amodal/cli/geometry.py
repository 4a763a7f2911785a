"""`amodal evaluate --task geometry`: the figures, their table and their images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Column, Table

from amodal.cli.console import console
from amodal.data.record import DataError, Source
from amodal.data.sources.specification import open_random_access
from amodal.metrics.geometry import EmbeddingSet, geometry_metrics
from amodal.models.joint_embedding import Embeddings
from amodal.reports.geometry_plots import write_plots
from amodal.training.recipe import load_recipe

EXTRAS = ("low", "high", "chance", "p")  # last parts of names that belong to another figure


def measure(rows: Mapping[str, Embeddings], plots: Path) -> dict[str, float]:
    """Figures as `geometry/...`, with what they depend on; PNGs are written to `plots`."""
    samples = {name: EmbeddingSet(embedded.z, embedded.item) for name, embedded in rows.items()}
    result = geometry_metrics(samples)
    write_plots(plots, samples, result)
    options = result.options
    settings = {"alpha": options.alpha, "t": options.t, "k": options.k, "folds": options.folds}
    settings |= {"permutations": options.permutations, "max_items": options.max_items}
    figures = {f"geometry/{name}": value for name, value in result.to_dict().items()}
    return figures | {f"geometry/settings/{name}": value for name, value in settings.items()}


def show(metrics: Mapping[str, float], title: str) -> None:
    """One line per figure, with its interval, its value by chance and its p-value."""
    table = Table(
        Column("figure", overflow="fold"), "value", "95 % interval", "by chance", "p", title=title
    )
    for name, value in metrics.items():
        if name.rpartition("/")[2] in EXTRAS or "/settings/" in name:
            continue
        low, high, chance, p = (metrics.get(f"{name}/{extra}") for extra in EXTRAS)
        table.add_row(
            name.removeprefix("geometry/"),
            _number(value),
            f"{low:.4f} … {high:.4f}" if low is not None and high is not None else "",
            _number(chance) if chance is not None else "",
            f"{p:.3f}" if p is not None else "",
        )
    console.print(table)


def validation_source(run: Path) -> Source:
    """The validation source of the recipe that a run was trained with.

    Raises:
        DataError: the recipe names none, or it can only be streamed.
    """
    config = load_recipe(run / "recipe.yaml").data.validation
    if config is None:
        raise DataError(f"{run}: its recipe has no data.validation; name a source with --on")
    return open_random_access(config, f"{run}: data.validation")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
