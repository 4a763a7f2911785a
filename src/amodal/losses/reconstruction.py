"""The loss of images that went through tokens and came back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from amodal.losses.config import Config


class ReconstructionConfig(Config):
    """Absolute and squared error of the pixels, and the distance of vectors from their codes."""

    kind: Literal["reconstruction"] = "reconstruction"
    absolute: float = Field(1.0, ge=0)
    mse_weight: float = Field(1.0, ge=0)
    commitment: float = Field(0.25, ge=0)


def reconstruction_loss(
    pixels: Tensor, target: Tensor, commitment: Tensor, config: ReconstructionConfig
) -> Tensor:
    """absolute · mean |x - y| + squared · mean (x - y)² + commitment · the distance from the codes.

    Args:
        pixels, target: (B, C, H, W).
        commitment: (), see `Quantized`.

    Returns:
        () in float32; 0 with a gradient of 0 for an empty batch.

    References:
        van den Oord et al. 2017, arXiv:1711.00937, eq. 3.
    """
    if not len(pixels):
        return pixels.sum().float() * 0.0
    error = pixels.float() - target.float()
    return (
        config.absolute * error.abs().mean()
        + config.mse_weight * error.square().mean()
        + config.commitment * commitment.float()
    )
