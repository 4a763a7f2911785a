"""Sigmoid loss: binary classification of every pair of rows as related or not."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from amodal.losses.config import TemperatureConfig

# Similarities held at once; a larger matrix is computed in strips of rows, twice.
STRIP = 1 << 24


def sigmoid_loss(
    left: Tensor, right: Tensor, log_scale: Tensor, bias: Tensor, positives: Tensor | None = None
) -> Tensor:
    """-1/N sum over i, j of log sigmoid(z_ij (s x_i . y_j + b)), s = exp(log_scale).

    z_ij is 1 where rows i and j belong together and -1 elsewhere. N is the mean of both numbers of
    rows, so that left and right may be exchanged; with as many rows on both sides this is the
    paper's sum over all pairs, divided by the batch size. It is in nats per row, and the loss of a
    pair does not depend on the rest of the batch.

    Args:
        left: (N, E) unit-norm embeddings of one modality.
        right: (M, E) unit-norm embeddings of the other.
        log_scale: () natural log of the inverse temperature.
        bias: () added to every logit.
        positives: (N, M) bool, True where the rows belong together; None: N = M and row i
            belongs to row i.

    Returns:
        () loss in float32 or wider; exactly 0 without rows.

    Raises:
        ValueError: the shapes do not fit together.

    References:
        Zhai et al. 2023, arXiv:2303.15343, section 3.2.

    Examples:
        >>> import torch
        >>> from amodal.losses import sigmoid_loss
        >>> z = torch.eye(4)
        >>> scale, bias = torch.tensor(2.0), torch.tensor(-4.0)
        >>> round(sigmoid_loss(z, z, scale, bias).item(), 4)
        0.0876
    """
    n, m = len(left), len(right)
    if positives is None and n != m:
        raise ValueError(f"paired embeddings differ: {tuple(left.shape)} vs {tuple(right.shape)}")
    if positives is not None and positives.shape != (n, m):
        raise ValueError(f"positives must be {(n, m)}, got {tuple(positives.shape)}")
    with torch.autocast(left.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
        left, right = left.to(dtype), right.to(dtype)
        scale, bias = log_scale.to(dtype).exp(), bias.to(dtype)
        if n == 0 or m == 0:
            return (left.sum() + right.sum() + scale + bias) * 0.0
        rows = max(1, STRIP // m)
        totals = []
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            mask = positives[part] if positives is not None else None
            arguments = (left[part], right, scale, bias, mask, start)
            totals.append(
                _strip(*arguments)
                if rows >= n
                else checkpoint(_strip, *arguments, use_reentrant=False)
            )
        return torch.stack(totals).sum() / ((n + m) / 2)


def _strip(
    left: Tensor,
    right: Tensor,
    scale: Tensor,
    bias: Tensor,
    positives: Tensor | None,
    start: int,
) -> Tensor:
    logits = left @ right.T * scale + bias  # (n, M)
    if positives is None:
        positives = torch.zeros_like(logits, dtype=torch.bool)
        positives.diagonal(start).fill_(True)
    return F.softplus(torch.where(positives, -logits, logits)).sum()


class SigmoidConfig(TemperatureConfig):
    """`sigmoid_loss` with a learned temperature and bias."""

    kind: Literal["sigmoid"] = "sigmoid"
    temperature: float = Field(0.1, gt=0)
    # With about as many negatives as rows, -10 makes the first loss that of the positives alone.
    bias: float = -10.0

    def build(self, dim: int | None = None) -> SigmoidLoss:
        return SigmoidLoss(
            temperature=self.temperature, min_temperature=self.min_temperature, bias=self.bias
        )


class SigmoidLoss(nn.Module):
    """`sigmoid_loss` with a learned, bounded temperature and a learned bias.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import SigmoidConfig
        >>> loss = SigmoidConfig(temperature=0.1, bias=-10.0).build()
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> loss(image, text).shape
        torch.Size([])
    """

    def __init__(self, *, temperature: float, min_temperature: float, bias: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.max_log_scale = -math.log(min_temperature)

    def forward(self, left: Tensor, right: Tensor, positives: Tensor | None = None) -> Tensor:
        """Loss of (N, E) and (M, E) unit-norm embeddings; see `sigmoid_loss`."""
        return sigmoid_loss(left, right, self.log_scale, self.bias, positives)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put the temperature back above its floor; call after each optimizer step."""
        self.log_scale.clamp_(max=self.max_log_scale)
