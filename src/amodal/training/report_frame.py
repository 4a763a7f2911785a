"""What the page of every run has: its log, its recipe, what was skipped, what to try next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amodal.evaluation.report import Metric, Report
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult
from amodal.training.trainer import LOG


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


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
