"""Projection into the shared space: the only place where embeddings are L2-normalised."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

__all__ = ["IdentityConfig", "LinearConfig", "MLPConfig", "Projection", "l2_normalize"]


def l2_normalize(x: Tensor) -> Tensor:
    """Every row divided by its Euclidean norm, in float32 or wider.

    A row of zeros stays zero, and its gradient is finite.

    Args:
        x: (..., E) in any floating type.

    Returns:
        (..., E) float32, or float64 where `x` is.

    Examples:
        >>> import torch
        >>> from amodal.projection import l2_normalize
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return wide / torch.where(norm > 0, norm, 1.0)


class Projection(nn.Module):
    """Projection head, (B, D) -> (B, E): layers, then normalisation to unit length.

    Args:
        layers: (B, D) -> (B, E).
        dim: E.

    Examples:
        >>> import torch
        >>> from amodal.projection import MLPConfig
        >>> projection = MLPConfig(dim=8, hidden=32).build(width=16)
        >>> z = projection(torch.randn(4, 16))
        >>> z.shape, torch.allclose(z.norm(dim=1), torch.ones(4))
        (torch.Size([4, 8]), True)
    """

    def __init__(self, layers: nn.Module, dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.dim = dim

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, E) unit-norm rows of (B, D) pooled features; see `l2_normalize`."""
        return l2_normalize(self.layers(pooled))


class Skip(nn.Module):
    """Residual connection: shortcut(x) + branch(x)."""

    def __init__(self, shortcut: nn.Module, branch: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


class GaussianNoise(nn.Module):
    """Normal noise on every number, in training alone.

    Args:
        std: its standard deviation.

    References:
        Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) → (B, D)."""
        return x + self.std * torch.randn_like(x) if self.training else x


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _HeadConfig(_Config):
    """Options of a head with weights of its own.

    Args:
        dim: E.
        input_norm: of the pooled features: `batch` gives each of them mean 0 and variance 1 over
            the training items, which features of frozen encoders need, see He et al. 2021,
            arXiv:2111.06377, appendix A.1; `layer` over the features of an item.
        input_noise: standard deviation of the noise that training adds to them.
    """

    dim: int = Field(512, ge=1)
    input_norm: Literal["none", "batch", "layer"] = "none"
    input_noise: float = Field(0.0, ge=0)

    def head(self, width: int, layers: nn.Module) -> Projection:
        """The layers with what comes before them."""
        norms = {"batch": nn.BatchNorm1d(width, affine=False), "layer": nn.LayerNorm(width)}
        before: list[nn.Module] = [norms[self.input_norm]] if self.input_norm != "none" else []
        if self.input_noise:
            before.append(GaussianNoise(self.input_noise))
        return Projection(nn.Sequential(*before, layers) if before else layers, self.dim)


class LinearConfig(_HeadConfig):
    """Linear projection without bias, as in CLIP.

    References:
        Radford et al. 2021, arXiv:2103.00020, fig. 3.
    """

    kind: Literal["linear"] = "linear"
    bias: bool = False  # whether the layer has one

    def build(self, width: int) -> Projection:
        return self.head(width, nn.Linear(width, self.dim, bias=self.bias))


class MLPConfig(_HeadConfig):
    """MLP projection: Linear, norm, GELU, dropout, Linear; optionally residual.

    References:
        Chen et al. 2020, arXiv:2002.05709, section 4.2 (a nonlinear head helps); theirs has
        ReLU in place of GELU.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: int | None = Field(None, ge=1)  # None: as wide as the encoder
    # "batch" mixes the rows of a batch, so exact micro-batches refuse it.
    norm: Literal["layer", "batch", "none"] = "layer"
    dropout: float = Field(0.0, ge=0, lt=1)  # before the last layer
    residual: bool = False  # adds a linear projection of the features

    def build(self, width: int) -> Projection:
        hidden = width if self.hidden is None else self.hidden
        norms = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "none": nn.Identity}
        branch = nn.Sequential(
            nn.Linear(width, hidden, bias=self.norm == "none"),  # a norm brings its own bias
            norms[self.norm](hidden),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(hidden, self.dim),
        )
        if not self.residual:
            return self.head(width, branch)
        shortcut = nn.Identity() if width == self.dim else nn.Linear(width, self.dim, bias=False)
        return self.head(width, Skip(shortcut, branch))


class IdentityConfig(_Config):
    """No projection, for encoders whose output is already in the shared space."""

    kind: Literal["identity"] = "identity"

    def build(self, width: int) -> Projection:
        return Projection(nn.Identity(), width)


ProjectionConfig = Annotated[LinearConfig | MLPConfig | IdentityConfig, Field(discriminator="kind")]
