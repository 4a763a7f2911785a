"""The page of a run that answers, captions or talks: figures, curves, examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.generation_metrics import GenerationResult
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.reports.frame import framed, read_log, with_intervals
from amodal.reports.plots import score_curve
from amodal.reports.prediction_plots import bars_figure
from amodal.reports.report import Example, Image, Plot, Report
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SHOWN = 12  # examples
HEADLINES = (
    "vqa/accuracy",
    "vqa/exact",
    "dialogue/relevance@1",
    "dialogue/relevance@1/refers_back",
    "dialogue/mrr",
    "dialogue/ndcg",
    "caption/scene_graph/f1",
    "caption/cider_d",
)
SAID = {
    "vqa": "answers",
    "caption": "descriptions",
    "dialogue": "answers in dialogues",
    "single_turn": "answers to questions of dialogues",
}
DOES = {
    "vqa": "answers questions about images",
    "caption": "describes images",
    "dialogue": "talks about images, minding what was said before",
    "single_turn": "answers the questions of dialogues, each by itself",
}


def generation_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """What the page of a run of the multimodal Transformer shows.

    Args:
        result: a run that went to its end.
        recipe: what it was trained with.
        source: the validation source, whose items are shown.
        title: heading of the page.
        commands: what to try next.
    """
    model = result.model
    assert isinstance(model, MultimodalTransformer)
    log = read_log(result.folder)
    generated = result.validation if isinstance(result.validation, tuple) else ()
    return framed(
        result,
        recipe,
        title=title,
        summary=_summary(result, model, generated),
        metrics=with_intervals(
            result.metrics,
            HEADLINES,
            percent=lambda name: True if "/exact" in name or "/relevance@1" in name else None,
        ),
        commands=commands,
        plots=_plots(result.metrics, log),
        examples=[e for s in generated for e in _examples(s, source)] if source is not None else (),
    )


def _plots(values: dict[str, float], log: Sequence[dict[str, float]]) -> list[Plot]:
    keys = list(dict.fromkeys(k for line in log for k in line if k.startswith("eval/")))
    exact = [k for k in keys if k.endswith("/exact")]
    likely = [k for k in keys if k.endswith("/likelihood")]
    plots = [
        Plot(
            "exact",
            "Validation answers that are right to the letter, over training.",
            lambda palette: score_curve(log, exact, palette, label="exact (%)", scale=100),
        ),
        Plot(
            "likelihood",
            "Mean log-likelihood of a token on validation data, in nats.",
            lambda palette: score_curve(log, likely, palette, label="nats per token"),
        ),
    ]
    kinds = {
        name.split("/exact/")[1]: 100 * value
        for name, value in values.items()
        if "/exact/" in name and not name.endswith(("/low", "/high"))
    }
    if kinds:
        plots.append(
            Plot(
                "kinds",
                "Right answers by kind of question, in per cent.",
                lambda palette: bars_figure(kinds, palette, label="exact (%)"),
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
        right: bool | None = None
        if generated.task == "caption":
            lines = [("says", about[0].text)]
            lines += [("true", str(text)) for text in generated.truth[row]["text"][:2]]
        elif generated.task == "vqa":
            one = about[at % len(about)]  # not always the first question
            true = generated.true(one)
            lines = [("question", one.prompt[0].text), ("says", one.text), ("true", true)]
            right = one.text.lower() == true.lower()
        else:
            for one in about:
                lines += [("question", one.prompt[-2].text), ("says", one.text)]
                if one.text.lower() != generated.true(one).lower():
                    lines.append(("true", generated.true(one)))
        examples.append(Example(lines, _image(source, row), right))
    return examples


def _image(source: Source, row: int) -> Image | None:
    try:
        record = source[row]
        return decode_image(record["image"], record["origin"], min_size=128)
    except (BrokenRecordError, KeyError):
        return None


def _summary(
    result: RunResult, model: MultimodalTransformer, generated: Sequence[GenerationResult]
) -> str:
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    does = " and ".join(DOES[s.task] for s in generated) or "says what it sees"
    counts = ", ".join(f"{len(s.generations):,} {SAID[s.task]}" for s in generated)
    return (
        f"{does[0].upper()}{does[1:]}: {millions:.2f} million weights, trained for {result.steps} "
        f"steps in {result.train_seconds:.0f} seconds."
        + (f" Measured on held-out images ({counts})." if counts else "")
    )
