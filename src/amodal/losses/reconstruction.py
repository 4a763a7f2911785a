"""Reconstruction loss of an image tokenizer: L1, MSE and commitment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from amodal.losses.config import Config


class ReconstructionConfig(Config):
    """Weights of the L1 and squared errors of the pixels and of the commitment loss.

    Examples:
        >>> ReconstructionConfig(mse_weight=5.0).commitment_weight
        0.25
    """

    kind: Literal["reconstruction"] = "reconstruction"
    l1_weight: float = Field(1.0, ge=0)  # of the absolute error
    mse_weight: float = Field(1.0, ge=0)  # of the squared error
    # of the distance of encoder outputs to their codes
    commitment_weight: float = Field(0.25, ge=0)


def reconstruction_loss(
    pixels: Tensor, target: Tensor, commitment: Tensor, config: ReconstructionConfig
) -> Tensor:
    """l1_weight · mean |x - y| + mse_weight · mean (x - y)² + commitment_weight · commitment.

    Args:
        pixels, target: (B, C, H, W).
        commitment: () mean squared distance of encoder outputs from their codes.
        config: the weights.

    Returns:
        () in float32; 0 with a gradient of 0 for an empty batch.

    Examples:
        >>> import torch
        >>> from amodal.losses import ReconstructionConfig, reconstruction_loss
        >>> zeros, ones = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
        >>> float(reconstruction_loss(zeros, ones, torch.tensor(2.0), ReconstructionConfig()))
        2.5

    References:
        van den Oord et al. 2017, arXiv:1711.00937, eq. 3.
    """
    if not len(pixels):
        return pixels.sum().float() * 0.0
    error = pixels.float() - target.float()
    return (
        config.l1_weight * error.abs().mean()
        + config.mse_weight * error.square().mean()
        + config.commitment_weight * commitment.float()
    )
