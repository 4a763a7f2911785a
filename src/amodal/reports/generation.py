"""The report of a model that generates text: metrics, curves, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.generated_text import GenerationResult
from amodal.reports.plots import score_curve
from amodal.reports.prediction_plots import bars_figure
from amodal.reports.report import Example, ImageLike, Plot, Report
from amodal.reports.run_report import read_log, run_report, size_and_time, with_intervals
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SHOWN = 12  # examples
HEADLINES = (
    "vqa/accuracy",
    "vqa/exact_match",
    "dialogue/relevance@1",
    "dialogue/relevance@1/history_dependent",
    "dialogue/mrr",
    "dialogue/ndcg",
    "caption/scene_graph/f1",
    "caption/cider_d",
)
OUTPUTS = {
    "vqa": "answers",
    "caption": "captions",
    "dialogue": "answers in dialogues",
    "single_turn": "answers to questions of dialogues",
}
PURPOSES = {
    "vqa": "answers questions about images",
    "caption": "captions images",
    "dialogue": "holds dialogues about images",
    "single_turn": "answers the questions of dialogues without their history",
}


def generation_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """The report of a multimodal Transformer that generates text.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        source: the validation source, whose items are shown.
        title: heading of the page.
        commands: what to try next.
    """
    log = read_log(result.folder)
    tasks = getattr(recipe.model, "tasks", ())
    generated = [cast(GenerationResult, result.results[t]) for t in tasks if t in result.results]
    return run_report(
        result,
        recipe,
        title=title,
        summary=_summary(result, generated),
        metrics=with_intervals(result.metrics, HEADLINES),
        commands=commands,
        plots=_plots(result.metrics, log),
        examples=[e for s in generated for e in _examples(s, source)] if source is not None else (),
    )


def _plots(values: dict[str, float], log: Sequence[dict[str, float]]) -> list[Plot]:
    keys = list(dict.fromkeys(k for line in log for k in line if k.startswith("eval/")))
    exact = [k for k in keys if k.endswith("/exact_match")]
    nll = [k for k in keys if k.endswith("/nll")]
    plots = [
        Plot(
            "exact_match",
            "Exact match on validation data, teacher-forced, over training.",
            lambda palette: score_curve(log, exact, palette, label="exact match (%)", scale=100),
        ),
        Plot(
            "nll",
            "Negative log-likelihood per token on validation data, in nats.",
            lambda palette: score_curve(log, nll, palette, label="nats per token"),
        ),
    ]
    kinds = {
        name.split("/exact_match/")[1]: 100 * value
        for name, value in values.items()
        if "/exact_match/" in name and not name.endswith(("/low", "/high"))
    }
    if kinds:
        plots.append(
            Plot(
                "kinds",
                "Exact match by kind of question, in per cent.",
                lambda palette: bars_figure(kinds, palette, label="exact match (%)"),
            )
        )
    return plots


def _examples(generated: GenerationResult, source: Source) -> list[Example]:
    rows = list(dict.fromkeys(one.row for one in generated.generations))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int))
    examples = []
    for at, row in enumerate(rows[i] for i in chosen.tolist()):
        about = [one for one in generated.generations if one.row == row]
        lines: list[tuple[str, str]] = []
        correct: bool | None = None
        if generated.task == "caption":
            lines = [("generated", about[0].text)]
            references = generated.records[row]["text"][:2]
            lines += [("reference", str(text)) for text in references]
        elif generated.task == "vqa":
            one = about[at % len(about)]  # not always the first question
            reference = generated.reference(one)
            lines = [
                ("question", one.prompt[0].text),
                ("generated", one.text),
                ("reference", reference),
            ]
            correct = one.text.lower() == reference.lower()
        else:
            for one in about:
                lines += [("question", one.prompt[-2].text), ("generated", one.text)]
                if one.text.lower() != generated.reference(one).lower():
                    lines.append(("reference", generated.reference(one)))
        examples.append(Example(lines, _image(source, row), correct))
    return examples


def _image(source: Source, row: int) -> ImageLike | None:
    try:
        record = source[row]
        return decode_image(record["image"], record["origin"], min_size=128)
    except (BrokenRecordError, KeyError):
        return None


def _summary(result: RunResult, generated: Sequence[GenerationResult]) -> str:
    purpose = " and ".join(PURPOSES[one.task] for one in generated) or "generates text"
    counts = ", ".join(f"{len(one.generations):,} {OUTPUTS[one.task]}" for one in generated)
    return f"{purpose[0].upper()}{purpose[1:]}: {size_and_time(result)}." + (
        f" Evaluated on held-out images ({counts})." if counts else ""
    )
