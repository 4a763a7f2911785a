"""Reconstruction error of an image tokenizer over a source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.loop import Autocast, Tick, evaluation_batches
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.inputs import collator_of


@dataclass(frozen=True)
class ReconstructionResult:
    """How closely images come back from their tokens.

    Args:
        metrics: flat `reconstruction/…` values.
        items: images that were read.
        broken: records that were skipped.
    """

    metrics: dict[str, float]
    items: int
    broken: tuple[BrokenRecordError, ...] = ()


def evaluate_reconstruction(
    model: ImageTokenizer,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> ReconstructionResult:
    """Reconstruction error of images with values from 0 to 1, and the use of the codebook.

    - psnr: -10 log10 of the mean squared error, in dB. mae: mean absolute error.
    - perplexity: exp of the entropy of all codes. used: share of the codes that occur.

    Args:
        items: row numbers; None means all.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one image can be read.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_reconstruction
        >>> from amodal.models import ImageTokenizer, ImageTokenizerConfig
        >>> sizes = dict(size=16, patch_size=4, widths=[4], codebook_size=6, codebook_dim=2)
        >>> model = ImageTokenizer(ImageTokenizerConfig(sizes))
        >>> result = evaluate_reconstruction(model, parse_source("scenes:size=8").open())
        >>> result.items, list(result.metrics)[:2]
        (8, ['reconstruction/psnr', 'reconstruction/mae'])
        >>> 1 <= result.metrics["reconstruction/perplexity"] <= 6  # of a codebook of 6
        True
    """
    squared = absolute = values = 0.0
    images = 0
    counts = torch.zeros(model.vocabulary)
    with evaluation_batches(
        model, source, collator_of(model), items=items, batch_size=batch_size, tick=tick
    ) as batches:
        for batch in batches:
            present = batch.present["image"].reshape(-1)
            if not bool(present.any()):
                continue
            batch = batch.to(model.device)
            with autocast():
                found = model(batch)
            target = batch.tensors["image"]["pixel_values"][present.to(model.device)]
            error = (found.pixels.float().clamp(-1, 1) - target) / 2
            squared += float(error.square().sum())
            absolute += float(error.abs().sum())
            values += error.numel()
            images += len(target)
            counts += torch.bincount(found.codes.flatten().cpu(), minlength=len(counts))
    if not values:
        raise batches.nothing_usable("no image can be read")
    share = counts / counts.sum()
    metrics = {
        "reconstruction/psnr": -10 * math.log10(max(squared / values, 1e-12)),
        "reconstruction/mae": absolute / values,
        "reconstruction/perplexity": float((-(share * (share + 1e-12).log()).sum()).exp()),
        "reconstruction/codebook_usage": float((counts > 0).float().mean()),
    }
    return ReconstructionResult(metrics, images, tuple(batches.broken))
