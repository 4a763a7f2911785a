"""Robustness of a fusion model: tables, and plots as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from amodal.evaluators.robustness import RobustnessResult
from amodal.reports.plots import ON_PAPER, save_png
from amodal.reports.robustness_plots import curves_figure, subsets_figure

RATES = {
    "missing": "items without the input",
    "noise": "share of noise in the input",
    "swap": "items with the input of another item",
}
SCORES = {"classification": "accuracy", "multi_label": "example-based F1", "regression": "R²"}


def present_robustness(
    result: RobustnessResult, metrics: Mapping[str, float], title: str, folder: Path
) -> Sequence[Table]:
    """Scores of every subset of the inputs, over the rates of every corruption, and a summary.

    Plots are written to `folder`.
    """
    label = SCORES[result.target.task]
    for kind, curves in result.curves.items():
        figure = curves_figure(curves, result.chance, ON_PAPER, title=RATES[kind], label=label)
        save_png(figure, folder / f"{kind}.png")
    subsets = {names: estimate.value for names, estimate in result.subsets.items()}
    save_png(subsets_figure(subsets, result.chance, ON_PAPER, label=label), folder / "subsets.png")
    return [
        _subsets(result, label),
        *(_curves(result, kind, label) for kind in result.curves),
        _summary(result, folder),
    ]


def _subsets(result: RobustnessResult, label: str) -> Table:
    table = Table("inputs present", label, "95 % interval", title="subsets of the inputs")
    for names, score in sorted(result.subsets.items(), key=lambda item: -item[1].value):
        table.add_row(names, f"{score.value:.3f}", f"{score.low:.3f} … {score.high:.3f}")
    table.add_row("best constant prediction", f"{result.chance:.3f}", "")
    return table


def _curves(result: RobustnessResult, kind: str, label: str) -> Table:
    curves = result.curves[kind]
    gates = result.gates.get(kind, {})
    title = f"{label}{' (mean gate)' if gates else ''} by {RATES[kind]}"
    table = Table("rate", *curves, title=title)
    for i, rate in enumerate(next(iter(curves.values())).rates):
        cells = []
        for name, curve in curves.items():
            gate = f" ({gates[name][i]:.2f})" if name in gates else ""
            cells.append(f"{curve.scores[i].value:.3f}{gate}")
        table.add_row(f"{100 * rate:.0f} %", *cells)
    return table


def _summary(result: RobustnessResult, folder: Path) -> Table:
    table = Table(
        "corruption", "input", "relative", "effective", "95 % interval",
        title="robustness over all rates",
        caption="relative: mean score over the score without corruption; effective: mean score "
        f"above chance on the corrupted items. Plots are in {folder}",
    )  # fmt: skip
    for kind, curves in result.curves.items():
        for name, curve in curves.items():
            low, high = curve.effective.low, curve.effective.high
            table.add_row(
                kind,
                name,
                f"{curve.relative.value:.3f}",
                f"{curve.effective.value:+.3f}",
                f"{low:+.3f} … {high:+.3f}",
            )
    return table
