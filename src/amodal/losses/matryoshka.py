"""Matryoshka representation learning: every prefix of an embedding is an embedding too."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.losses.config import ContrastiveConfig
from amodal.losses.decoupled import DecoupledConfig
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.sigmoid import SigmoidConfig
from amodal.losses.triplet import TripletConfig

PairwiseConfig = Annotated[
    DecoupledConfig | InfoNCEConfig | SigmoidConfig | TripletConfig, Field(discriminator="kind")
]


def truncate_embedding(z: Tensor, dim: int) -> Tensor:
    """(N, dim) first coordinates of (N, E) rows, normalised to unit length; zeros stay zeros.

    Examples:
        >>> import torch
        >>> from amodal.losses import truncate_embedding
        >>> truncate_embedding(torch.tensor([[3.0, 4.0, 12.0]]), dim=2)
        tensor([[0.6000, 0.8000]])
    """
    if not 1 <= dim <= z.shape[1]:
        raise ValueError(f"a prefix of {dim} dimensions does not fit embeddings of {z.shape[1]}")
    # In float16 squares overflow, and a small floor of the norm would be 0.
    rows = z[:, :dim].to(torch.promote_types(z.dtype, torch.float32))
    length = rows.norm(dim=1, keepdim=True)
    return (rows / length.masked_fill(length == 0, 1.0)).to(z.dtype)


class MatryoshkaConfig(ContrastiveConfig):
    """One pairwise loss at several prefixes of the embedding; `loss.weight` must stay 1."""

    kind: Literal["matryoshka"] = "matryoshka"
    dims: tuple[int, ...] = Field(min_length=1)  # lengths of the prefixes
    weights: tuple[float, ...] | None = None  # of each prefix; None: all 1
    loss: PairwiseConfig = InfoNCEConfig()  # of each prefix

    @model_validator(mode="after")
    def _fits(self) -> MatryoshkaConfig:
        if any(dim < 1 for dim in self.dims) or len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims must be different and above 0, got {list(self.dims)}")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.weights)} weights for {len(self.dims)} dims")
        if self.loss.weight != 1:
            raise ValueError("set the weight of the matryoshka objective, not that of its loss")
        if getattr(self.loss, "queue_size", 0):
            raise ValueError("a queue holds rows of one width; set queue_size: 0 inside matryoshka")
        if getattr(self.loss, "momentum", None) is not None:
            raise ValueError("matryoshka has no momentum encoder; leave momentum out of its loss")
        if self.loss.positives != "item":
            raise ValueError("set positives on the matryoshka objective, not on its loss")
        return self

    def build(self, dim: int | None = None) -> Matryoshka:
        """The loss; `dim` is E, with which prefixes that are too long are refused."""
        if dim is not None and max(self.dims) > dim:
            raise ValueError(f"dims {list(self.dims)} do not fit embeddings of {dim}")
        weights = self.weights or (1.0,) * len(self.dims)
        return Matryoshka(self.loss.build(dim), self.dims, weights)


class Matryoshka(nn.Module):
    """Weighted mean of one pairwise loss over prefixes that are each normalised to unit length.

    All prefixes share the loss's temperature.

    Args:
        loss: (N, E), (M, E), (N, M) mask or None → ().
        dims: of the prefixes.
        weights: of each; their sum divides.

    References:
        Kusupati et al. 2022, arXiv:2205.13147, eq. 1.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import InfoNCEConfig, MatryoshkaConfig
        >>> config = MatryoshkaConfig(dims=(4, 8, 16), loss=InfoNCEConfig(temperature=0.1))
        >>> loss = config.build(dim=16)
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> loss(image, text).shape
        torch.Size([])
    """

    def __init__(self, loss: nn.Module, dims: tuple[int, ...], weights: tuple[float, ...]) -> None:
        super().__init__()
        self.loss = loss
        self.dims, self.weights = dims, weights

    @property
    def log_scale(self) -> nn.Parameter | None:
        """Log inverse temperature of the inner loss, if it has one."""
        return getattr(self.loss, "log_scale", None)

    def forward(self, left: Tensor, right: Tensor, positives: Tensor | None = None) -> Tensor:
        """Loss of (N, E) and (M, E) unit-norm embeddings; the mask is that of the inner loss."""
        terms = [
            weight
            * self.loss(truncate_embedding(left, dim), truncate_embedding(right, dim), positives)
            for dim, weight in zip(self.dims, self.weights, strict=True)
        ]
        return torch.stack(terms).sum() / sum(self.weights)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put a temperature of the inner loss back above its floor."""
        constrain = getattr(self.loss, "constrain_", None)
        if constrain is not None:
            constrain()
