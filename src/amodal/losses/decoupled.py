"""Decoupled contrastive learning: InfoNCE without the positive in its denominator."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from amodal.losses.config import TemperatureConfig


def decoupled_loss(
    left: Tensor, right: Tensor, log_scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Mean of `one_way_decoupled` from left to right and from right to left.

    Args:
        left: (N, E) unit-norm embeddings of one modality.
        right: (M, E) unit-norm embeddings of the other.
        log_scale: () natural log of the inverse temperature.
        positives: (N, M) bool, True where the rows belong together; None: N = M and row i
            belongs to row i.

    Returns:
        () loss in float32 or wider; it may be negative.

    Raises:
        ValueError: the shapes do not fit together.

    References:
        Yeh et al. 2021, arXiv:2110.06848, eq. 6.

    Examples:
        >>> import torch
        >>> from amodal.losses import decoupled_loss
        >>> z = torch.eye(4)
        >>> round(decoupled_loss(z, z, log_scale=torch.tensor(2.0)).item(), 3)
        -6.29
    """
    n, m = len(left), len(right)
    if positives is None:
        if n != m:
            raise ValueError(
                f"paired embeddings differ: {tuple(left.shape)} vs {tuple(right.shape)}"
            )
        positives = torch.eye(n, dtype=torch.bool, device=left.device)
    if positives.shape != (n, m):
        raise ValueError(f"positives must be {(n, m)}, got {tuple(positives.shape)}")
    forth = one_way_decoupled(left, right, log_scale, positives)
    return (forth + one_way_decoupled(right, left, log_scale, positives.T)) / 2


def one_way_decoupled(
    query: Tensor, candidates: Tensor, log_scale: Tensor, positives: Tensor
) -> Tensor:
    """Mean over p in P of -S_p + log sum over n in N of e^S_n, S = exp(log_scale) q . c.

    In InfoNCE the gradient of a row shrinks once its positive stands out among few negatives,
    which slows training with small batches; here it does not. Rows without a positive or without a
    negative are left out; if none remains, the loss is exactly 0.
    """
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(
            torch.promote_types(query.dtype, candidates.dtype), torch.float32
        )
        query, candidates = query.to(dtype), candidates.to(dtype)
        logits = query @ candidates.T * log_scale.to(dtype).exp()  # (N, M)
        counted = positives.any(1) & ~positives.all(1)
        # Finite in place of -inf: a row that does not count has a gradient of 0, not NaN.
        nothing = torch.finfo(dtype).min / 4
        rivals = logits.masked_fill(positives, nothing)[counted].logsumexp(1)
        held = positives[counted]
        agreement = (logits[counted] * held).sum(1) / held.sum(1).clamp_min(1)
        return (rivals - agreement).sum() / counted.sum().clamp_min(1) + logits.sum() * 0.0


class DecoupledConfig(TemperatureConfig):
    """`decoupled_loss` with a learned temperature."""

    kind: Literal["decoupled"] = "decoupled"

    def build(self, dim: int | None = None) -> Decoupled:
        return Decoupled(temperature=self.temperature, min_temperature=self.min_temperature)


class Decoupled(nn.Module):
    """`decoupled_loss` with a learned, bounded temperature.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import DecoupledConfig
        >>> loss = DecoupledConfig(temperature=0.1).build()
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> loss(image, text).shape
        torch.Size([])
    """

    def __init__(self, *, temperature: float, min_temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.max_log_scale = -math.log(min_temperature)

    def forward(self, left: Tensor, right: Tensor, positives: Tensor | None = None) -> Tensor:
        """Loss of (N, E) and (M, E) unit-norm embeddings; see `decoupled_loss`."""
        return decoupled_loss(left, right, self.log_scale, positives)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put the temperature back above its floor; call after each optimizer step."""
        self.log_scale.clamp_(max=self.max_log_scale)
