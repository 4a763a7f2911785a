"""The page of a run that draws: figures, curves, images beside those of the captions' records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.evaluators.text_to_image import TextToImageResult
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.reports.frame import framed, read_log, with_intervals
from amodal.reports.plots import score_curve
from amodal.reports.report import Example, Plot, Report
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SHOWN = 24  # images
HEADLINES = (
    "text_to_image/right",
    "text_to_image/named",
    "text_to_image/relations",
    "text_to_image/nearest_training",
)
SHARES = ("named", "objects", "right", "true", "relations")
LEAST = 96  # pixels that a shown image is wide


def text_to_image_report(
    result: RunResult, recipe: Recipe, *, title: str, commands: Sequence[str] = ()
) -> Report:
    """What the page of a run that draws shows.

    Args:
        result: a run that went to its end.
        recipe: what it was trained with.
        title: heading of the page.
        commands: what to try next.
    """
    model = result.model
    assert isinstance(model, MultimodalTransformer)
    assert model.image_tokens is not None
    log = read_log(result.folder)
    tokenizer = model.image_tokens.tokenizer
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    drawn = result.validation if isinstance(result.validation, TextToImageResult) else None
    return framed(
        result,
        recipe,
        title=title,
        summary=(
            f"Draws images of {tokenizer.size} pixels from their descriptions, as "
            f"{tokenizer.tokens} tokens out of {tokenizer.vocabulary}: {learned:.2f} million "
            f"weights beside those of the image tokenizer, trained for {result.steps} steps in "
            f"{result.train_seconds:.0f} seconds."
        ),
        metrics=with_intervals(
            result.metrics,
            HEADLINES,
            percent=lambda name: True if name.split("/")[-1] in SHARES else None,
        ),
        commands=commands,
        plots=[
            Plot(
                "likelihood",
                "Mean log-likelihood of a token of validation images, in nats.",
                lambda palette: score_curve(
                    log, ["eval/text_to_image/likelihood"], palette, label="nats per token"
                ),
            )
        ],
        examples=_examples(drawn) if drawn is not None else (),
    )


def _examples(drawn: TextToImageResult) -> list[Example]:
    chosen = np.linspace(0, len(drawn.rows) - 1, min(SHOWN, len(drawn.rows))).astype(int)
    examples = []
    for i in np.unique(chosen).tolist():
        beside, lines = [drawn.images[i]], [("asked for", drawn.texts[i])]
        true = drawn.true[i]
        if true is not None:
            beside.append(true)
            lines += [("left", "drawn"), ("right", "the image that this describes")]
        whole = np.concatenate(beside, axis=1)
        scale = max(1, LEAST // len(whole))
        examples.append(Example(lines, whole.repeat(scale, axis=0).repeat(scale, axis=1)))
    return examples
