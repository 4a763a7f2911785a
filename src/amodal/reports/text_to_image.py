"""The report of a model that generates images: metrics, curves, images beside references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from amodal.data.record import Source
from amodal.evaluators.text_to_image import TextToImageResult
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.reports.plots import score_curve
from amodal.reports.report import Example, Plot, Report
from amodal.reports.run_report import read_log, run_report, with_intervals
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SHOWN = 24  # images
HEADLINES = (
    "text_to_image/objects_and_relations_match",
    "text_to_image/object_recall",
    "text_to_image/relation_accuracy",
    "text_to_image/nearest_training_distance",
)
MIN_WIDTH = 96  # pixels of a shown image


def text_to_image_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """The report of a multimodal Transformer that generates images.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        source: the validation source; the result holds its images already.
        title: heading of the page.
        commands: what to try next.
    """
    model = cast(MultimodalTransformer, result.model)
    assert model.image_tokens is not None
    log = read_log(result.folder)
    tokenizer = model.image_tokens.tokenizer
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    generated = cast("TextToImageResult | None", result.results.get("text_to_image"))
    return run_report(
        result,
        recipe,
        title=title,
        summary=(
            f"Generates images of {tokenizer.size} pixels from their captions, as "
            f"{tokenizer.tokens} tokens out of {tokenizer.vocabulary}: {learned:.2f} million "
            f"parameters beside those of the image tokenizer, trained for {result.steps} steps in "
            f"{result.train_seconds:.0f} seconds."
        ),
        metrics=with_intervals(result.metrics, HEADLINES),
        commands=commands,
        plots=[
            Plot(
                "nll",
                "Negative log-likelihood per token of validation images, in nats.",
                lambda palette: score_curve(
                    log, ["eval/text_to_image/nll"], palette, label="nats per token"
                ),
            )
        ],
        examples=_examples(generated) if generated is not None else (),
    )


def _examples(generated: TextToImageResult) -> list[Example]:
    chosen = np.linspace(0, len(generated.rows) - 1, min(SHOWN, len(generated.rows))).astype(int)
    examples = []
    for i in np.unique(chosen).tolist():
        beside, lines = [generated.images[i]], [("caption", generated.texts[i])]
        reference = generated.references[i]
        if reference is not None:
            beside.append(reference)
            lines += [("left", "generated"), ("right", "reference")]
        whole = np.concatenate(beside, axis=1)
        scale = max(1, MIN_WIDTH // len(whole))
        examples.append(Example(lines, whole.repeat(scale, axis=0).repeat(scale, axis=1)))
    return examples
