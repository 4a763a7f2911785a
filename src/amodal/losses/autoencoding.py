"""Deep canonically correlated autoencoders: deep CCA with a reconstruction term per view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.config import Config
from amodal.losses.deep_cca import DeepCCA, Variant


def reconstruction_mse(decoded: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of a decoder, over rows and features.

    Args:
        decoded: (N, d) output of the decoder.
        target: (N, d) features to reconstruct; no gradient flows into them.

    Returns:
        () loss in float32 or wider, in squared units of the features; 0 without rows.
    """
    if decoded.shape != target.shape:
        raise ValueError(f"decoded {tuple(decoded.shape)} and target {tuple(target.shape)} differ")
    with torch.autocast(decoded.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(decoded.dtype, target.dtype), torch.float32)
        error = decoded.to(dtype) - target.detach().to(dtype)
        return error.square().sum() / max(1, error.numel())


def deep_ccae_loss(
    correlation_loss: Tensor,
    decoded: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    reconstruction_weight: float,
) -> Tensor:
    """Loss of deep canonically correlated autoencoders:

        correlation loss + λ * sum over views of the mean squared reconstruction error.

    Args:
        correlation_loss: () of `deep_cca_loss`, or of a `DeepCCA` with running covariance.
        decoded: M tensors (N, d_i).
        targets: M tensors (N, d_i), the inputs, or features of them.
        reconstruction_weight: λ >= 0.

    References:
        Wang et al. 2015, ICML, "On Deep Multi-View Representation Learning" (DCCAE; there the
        error is summed over features).

    Examples:
        >>> import torch
        >>> from amodal.losses import deep_cca_loss, deep_ccae_loss
        >>> views = [torch.randn(32, 3), torch.randn(32, 3)]
        >>> features = [torch.randn(32, 10), torch.randn(32, 6)]
        >>> decoded = [torch.zeros(32, 10), torch.zeros(32, 6)]
        >>> correlation = deep_cca_loss(views)
        >>> deep_ccae_loss(correlation, decoded, features, reconstruction_weight=0.1).shape
        torch.Size([])
    """
    if len(decoded) != len(targets):
        raise ValueError(f"{len(decoded)} decoded views but {len(targets)} targets")
    errors = [reconstruction_mse(d, t) for d, t in zip(decoded, targets, strict=True)]
    return correlation_loss + reconstruction_weight * torch.stack(errors).sum()


class Decoder(nn.Sequential):
    """Two linear layers with a GELU between them, from an embedding back to features.

    Args:
        dim: E.
        out_dim: d, width of the features.
        hidden: width of the hidden layer.
    """

    def __init__(self, dim: int, out_dim: int, hidden: int = 512) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out_dim))


class DeepCCAEConfig(Config):
    """`deep_ccae_loss` with one decoder per view."""

    kind: Literal["deep_ccae"] = "deep_ccae"
    ridge: float = Field(1e-3, ge=1e-6)
    variant: Variant = "squared"
    momentum: float = Field(0.0, ge=0, lt=1)
    reconstruction_weight: float = Field(0.1, ge=0)
    hidden: int = Field(512, ge=1)  # width of the decoders

    def build(self, dim: int, out_dims: Sequence[int]) -> DeepCCAE:
        """The loss; `dim` is E, `out_dims` the widths of the features to reconstruct."""
        correlation = DeepCCA(
            dim,
            views=len(out_dims),
            ridge=self.ridge,
            variant=self.variant,
            momentum=self.momentum,
        )
        decoders = [Decoder(dim, width, self.hidden) for width in out_dims]
        return DeepCCAE(correlation, decoders, reconstruction_weight=self.reconstruction_weight)


class DeepCCAE(nn.Module):
    """`deep_ccae_loss` with its decoders.

    Reconstruction keeps information in the embedding that the other view does not share. It helps
    where training rows are few, and costs correlation where E is small.

    Examples:
        >>> import torch
        >>> from amodal.losses import DeepCCAEConfig
        >>> loss = DeepCCAEConfig(hidden=16).build(dim=3, out_dims=[10, 6])
        >>> views = [torch.randn(32, 3), torch.randn(32, 3)]
        >>> loss(views, targets=[torch.randn(32, 10), torch.randn(32, 6)]).shape
        torch.Size([])
    """

    def __init__(
        self, correlation: DeepCCA, decoders: Sequence[nn.Module], *, reconstruction_weight: float
    ) -> None:
        super().__init__()
        self.correlation = correlation
        self.decoders = nn.ModuleList(decoders)
        self.reconstruction_weight = reconstruction_weight

    def forward(self, views: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Loss of M embeddings (N, E) and the M features (N, d_i) to reconstruct."""
        if len(views) != len(self.decoders):
            raise ValueError(f"expected {len(self.decoders)} views, got {len(views)}")
        decoded = [decode(z) for decode, z in zip(self.decoders, views, strict=True)]
        return deep_ccae_loss(
            self.correlation(views),
            decoded,
            targets,
            reconstruction_weight=self.reconstruction_weight,
        )
