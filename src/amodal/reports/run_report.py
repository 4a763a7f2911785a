"""The report of a run: what every kind of model has, and the builder of each kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amodal.evaluators.interpretation import interpret
from amodal.reports.report import Metric, Report, write_report
from amodal.training.folder import LOG
from amodal.training.kinds import kind_of_recipe, resolve
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def with_intervals(
    values: Mapping[str, float],
    first: Iterable[str] = (),
    *,
    chance: Callable[[str], float | None] = lambda name: None,
) -> dict[str, Metric]:
    """Flat metrics, each with its interval from `/low` and `/high`.

    Args:
        values: name -> metric.
        first: names that lead, where there are such metrics.
        chance: of a name, the value by chance.
    """
    names = dict.fromkeys([*(n for n in first if n in values), *values])
    return {
        name: Metric(
            values[name],
            values.get(f"{name}/low"),
            values.get(f"{name}/high"),
            chance(name),
        )
        for name in names
        if not name.endswith(("/low", "/high"))
    }


def run_report(
    result: RunResult,
    recipe: Recipe,
    *,
    title: str,
    summary: str,
    metrics: Mapping[str, Metric | float],
    commands: Sequence[str] = (),
    **parts: Any,
) -> Report:
    """A page with everything that does not depend on the kind of model.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        title: heading of the page.
        summary: one paragraph.
        metrics: name -> result.
        commands: what to try next.
        parts: the other fields of `Report`.
    """
    return Report(
        title=title,
        summary=summary,
        meaning=interpret(result.metrics),
        metrics=metrics,
        log=read_log(result.folder),
        recipe=recipe.to_yaml(),
        broken=[(e.origin, e.reason) for e in result.broken],
        records=len(result.train_source) if result.train_source is not None else None,
        commands=commands,
        **parts,
    )


def write_run_report(
    result: RunResult,
    recipe: Recipe,
    *,
    title: str,
    commands: Sequence[str] | None = None,
    more: Mapping[str, float] | None = None,
) -> Path:
    """Write the report of a run into its folder, as the kind of its model has it.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        title: heading of the page.
        commands: what to try next; None: what the kind suggests.
        more: further metrics, such as those on another split.

    Returns:
        The page.
    """
    kind = kind_of_recipe(recipe)
    if commands is None:
        commands = kind.next_commands(result.folder, getattr(recipe.model, "tasks", ()))
    if more:
        result = replace(result, metrics={**result.metrics, **more})
    report: Report = resolve(kind.report)(
        result, recipe, result.validation_source, title=title, commands=commands
    )
    return write_report(result.folder, report)


def size_and_time(result: RunResult) -> str:
    """The number of weights, and the length of training, in words."""
    millions = sum(p.numel() for p in result.model.parameters()) / 1e6
    digits = 1 if millions >= 100 else 2
    return (
        f"{millions:.{digits}f} million parameters, trained for {result.steps} steps in "
        f"{result.train_seconds:.0f} seconds"
    )
