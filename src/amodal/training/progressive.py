"""Smaller images at first, full ones at the end: more steps in the same time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from amodal.data.batch import Batch
from amodal.data.record import StrictModel
from amodal.models.evaluation_mode import evaluation_mode
from amodal.training.recipes.error import RecipeError

MULTIPLE = 16  # a few sizes only, so that kernels are prepared once for each


class ProgressiveResizing(StrictModel):
    """The side of the training images grows evenly from `initial_size`; evaluation uses full ones.

    References:
        Tan & Le 2021, arXiv:2104.00298, section 4.2.
        Touvron et al. 2019, arXiv:1906.06423 (why the last steps need the full side).
    """

    initial_size: int = Field(ge=16)  # pixels
    end_fraction: float = Field(0.8, gt=0, le=1)  # of the steps, after which images are full


def side_at(config: ProgressiveResizing, full: int, step: int, steps: int) -> int:
    """Pixels of the training images at `step` of `steps`: a multiple of 16, or `full`."""
    share, least = min(1.0, step / (config.end_fraction * steps)), config.initial_size
    side = least + share * (full - least)
    return full if share == 1 else min(full, max(least, int(side) // MULTIPLE * MULTIPLE))


def shrink(batch: Batch, side: int) -> Batch:
    """The batch with its images scaled down to (R, 3, side, side)."""
    small = {
        name: {**named, "pixel_values": _scaled(named["pixel_values"], side)}
        for name, named in batch.tensors.items()
        if "pixel_values" in named and named["pixel_values"].shape[-1] > side
    }
    return replace(batch, tensors={**batch.tensors, **small}) if small else batch


def _scaled(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


def check_progressive_resizing(config: ProgressiveResizing, model: Any) -> None:
    """Check that the image encoders of a model read images of the smallest size.

    Args:
        model: with `preprocessors` and `encoders`.

    Raises:
        RecipeError: the model has no image encoder, or one that reads images of one size only.
    """
    encoders = dict(getattr(model, "encoders", {}).items())
    sizes = {n: p.size for n, p in model.preprocessors.items() if hasattr(p, "resize")}
    read = {name: side for name, side in sizes.items() if name in encoders}
    if not read:
        raise RecipeError("train.progressive_resizing needs an image encoder in model.encoders")
    for name, side in read.items():
        if config.initial_size > side:
            raise RecipeError(
                f"train.progressive_resizing.initial_size: {config.initial_size}; the encoder of "
                f"{name} reads {side} pixels"
            )
        if not accepts_image_size(encoders[name], config.initial_size):
            kind = getattr(getattr(encoders[name], "config", None), "kind", name)
            raise RecipeError(
                f"train.progressive_resizing: {kind} takes images of {side} pixels only; leave it "
                "out, or choose an encoder without learned positions"
            )


def accepts_image_size(encoder: nn.Module, side: int) -> bool:
    """Whether an image encoder can read a square of `side` pixels."""
    with torch.no_grad(), evaluation_mode(encoder):
        try:
            encoder(pixel_values=torch.zeros(1, 3, side, side))
        except (RuntimeError, ValueError, AssertionError):
            return False
    return True
