"""Geometry of a joint space for people: a table, and plots as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Column, Table

from amodal.evaluators.geometry import GeometryOfSource
from amodal.reports.geometry_plots import write_plots
from amodal.reports.tables import interval, number

EXTRAS = ("low", "high", "chance", "p")  # last parts of names that belong to another metric


def present_geometry(
    result: GeometryOfSource, metrics: Mapping[str, float], title: str, folder: Path
) -> Sequence[Table]:
    """One line per metric with its interval, its value by chance and its p-value.

    Plots are written to `folder`.
    """
    write_plots(folder, result.samples, result.geometry)
    table = Table(
        Column("metric", overflow="fold"), "value", "95 % interval", "by chance", "p",
        title=title, caption=f"plots are in {folder}",
    )  # fmt: skip
    for name, value in metrics.items():
        if name.rpartition("/")[2] in EXTRAS or "/settings/" in name:
            continue
        chance, p = metrics.get(f"{name}/chance"), metrics.get(f"{name}/p")
        table.add_row(
            name.removeprefix("geometry/"),
            number(value),
            interval(metrics, name),
            number(chance) if chance is not None else "",
            f"{p:.3f}" if p is not None else "",
        )
    return [table]
