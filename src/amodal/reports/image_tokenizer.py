"""The report of an image tokenizer: metrics, curves, images before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from amodal.data.record import BrokenRecordError, Source, sample_rng
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.inputs import collator_of
from amodal.reports.plots import score_curve
from amodal.reports.report import Example, Plot, Report
from amodal.reports.run_report import read_log, run_report, size_and_time
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SHOWN = 12  # images


def image_tokenizer_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """The report of a run of an image tokenizer.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        source: the validation source, whose images are shown.
        title: heading of the page.
        commands: what to try next.
    """
    model = cast(ImageTokenizer, result.model)
    log = read_log(result.folder)
    return run_report(
        result,
        recipe,
        title=title,
        summary=(
            f"Turns an image of {model.architecture.size} pixels into {model.tokens} tokens out "
            f"of {model.vocabulary}, and back: {size_and_time(result)}."
        ),
        metrics=dict(result.metrics),
        commands=commands,
        plots=[
            Plot(
                "psnr",
                "Peak signal-to-noise ratio of validation images, in dB.",
                lambda palette: score_curve(log, ["eval/reconstruction/psnr"], palette, label="dB"),
            ),
            Plot(
                "perplexity",
                "Perplexity of the codes: how many are in use.",
                lambda palette: score_curve(
                    log, ["perplexity", "eval/reconstruction/perplexity"], palette, label="codes"
                ),
            ),
        ],
        examples=_examples(model, source) if source is not None else (),
    )


@torch.inference_mode()
def _examples(model: ImageTokenizer, source: Source) -> list[Example]:
    """Images beside their reconstructions."""
    collate = collator_of(model)
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SHOWN, len(source))).astype(int))
    examples = []
    for row in chosen.tolist():
        try:
            batch = collate([source[row]], [sample_rng(0, 0, 0)])
        except BrokenRecordError:
            continue
        if not len(batch):
            continue
        pixels = batch.tensors["image"]["pixel_values"].to(model.device)
        back = model.decode(model.encode(pixels))[0].cpu()
        before = ((pixels[0].cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        both = torch.cat([before, back], dim=2).permute(1, 2, 0).numpy()
        examples.append(Example([("left", "the image"), ("right", "its reconstruction")], both))
    return examples
