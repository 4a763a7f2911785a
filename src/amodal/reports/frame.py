"""What the page of every run has: its log, its recipe, what was skipped, what to try next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amodal.reports.report import Metric, Report
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult
from amodal.training.trainer import LOG


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def with_intervals(
    values: Mapping[str, float],
    first: Iterable[str] = (),
    *,
    chance: Callable[[str], float | None] = lambda name: None,
    percent: Callable[[str], bool | None] = lambda name: None,
) -> dict[str, Metric]:
    """Flat figures, each with the interval that stands beside it as `/low` and `/high`.

    Args:
        values: name -> figure.
        first: names that lead, where there are such figures.
        chance: of a name, what guessing gives.
        percent: of a name, whether the figure is a fraction; None guesses from the name.
    """
    names = dict.fromkeys([*(n for n in first if n in values), *values])
    return {
        name: Metric(
            values[name],
            values.get(f"{name}/low"),
            values.get(f"{name}/high"),
            chance(name),
            percent(name),
        )
        for name in names
        if not name.endswith(("/low", "/high"))
    }


def framed(
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
        recipe: what it was trained with.
        title: heading of the page.
        summary: one paragraph.
        metrics: name -> result.
        commands: what to try next.
        parts: the other fields of `Report`.
    """
    return Report(
        title=title,
        summary=summary,
        metrics=metrics,
        log=read_log(result.folder),
        recipe=recipe.to_yaml(),
        broken=[(e.origin, e.reason) for e in result.broken],
        records=result.train_rows or None,
        commands=commands,
        **parts,
    )
