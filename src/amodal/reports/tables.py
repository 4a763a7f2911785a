"""Tables of metrics for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table


def present_metrics(
    result: Any, metrics: Mapping[str, float], title: str, folder: Path
) -> Sequence[Table]:
    """One line per metric with its 95 % interval; no plots are written.

    Args:
        result: of the evaluator; not needed here.
        metrics: what is shown.
        title: of the table.
        folder: for plots.
    """
    table = Table(Column("metric", overflow="fold"), "value", "95 % interval", title=title)
    for name, value in metrics.items():
        if name.endswith(("/low", "/high")):
            continue
        table.add_row(name, number(value), interval(metrics, name))
    return [table]


def present_retrieval(
    result: Any, metrics: Mapping[str, float], title: str, folder: Path
) -> Sequence[Table]:
    """The table of `present_metrics`; of three inputs and more, matrices of all pairs before it."""
    names = list(result.embedded.rows)
    matrices = [recall_matrix(metrics, names, k) for k in (1, 10)] if len(names) > 2 else []
    return [*matrices, *present_metrics(result, metrics, title, folder)]


def recall_matrix(metrics: Mapping[str, float], names: Sequence[str], k: int) -> Table:
    """Recall@k from every input (line) to every other (column); empty where no item has both."""
    table = Table("recall@" + str(k), *names, title=f"recall@{k}, queries down, gallery across")
    for query in names:
        found = (metrics.get(f"retrieval/{query}_to_{name}/recall@{k}") for name in names)
        table.add_row(query, *("" if value is None else number(value) for value in found))
    return table


def number(value: float) -> str:
    """A count with separators, any other number with four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def interval(metrics: Mapping[str, float], name: str) -> str:
    """The 95 % interval of a metric; nothing where it has none."""
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    return f"{low:.4f} … {high:.4f}" if low is not None and high is not None else ""
