"""The report of a multimodal Transformer, by what it was trained to generate."""

from __future__ import annotations

from collections.abc import Sequence

from amodal.data.record import Source
from amodal.reports.generation import generation_report
from amodal.reports.report import Report
from amodal.reports.text_to_image import text_to_image_report
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult


def multimodal_transformer_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """The report of a run of a multimodal Transformer.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        source: the validation source, whose items are shown.
        title: heading of the page.
        commands: what to try next.
    """
    images = "text_to_image" in getattr(recipe.model, "tasks", ())
    build = text_to_image_report if images else generation_report
    return build(result, recipe, source, title=title, commands=commands)
