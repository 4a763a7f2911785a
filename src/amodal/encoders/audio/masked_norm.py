"""Batch and group normalization whose statistics exclude padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.distributed import world_size


def masked_moments(x: Tensor, keep: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `axes` of the values that are kept.

    Args:
        x: any shape.
        keep: bool, broadcasts to x.
        axes: reduced to length 1.

    Returns:
        Mean and variance; zeros where nothing is kept.
    """
    keep = keep.expand_as(x)
    over = keep.sum(dim=axes, keepdim=True).clamp(min=1).to(x.dtype)
    mean = x.masked_fill(~keep, 0).sum(dim=axes, keepdim=True) / over
    centred = (x - mean).masked_fill(~keep, 0)
    return mean, centred.square().sum(dim=axes, keepdim=True) / over


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch normalization of (B, C, T, M) whose statistics leave out frames that are not kept.

    On the kept frames it equals `BatchNorm2d`; the output elsewhere is 0. A batch without two
    values per channel has no variance and is normalised as in evaluation mode.

    References:
        Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, T, M) and (B, T) bool → (B, C, T, M)."""
        frames = x.permute(0, 2, 3, 1)  # (B, T, M, C), contiguous where channels come last
        place = keep.flatten().nonzero()[:, 0]  # (K,)
        kept = frames.flatten(0, 1)[place]  # (K, M, C)
        # Of several processes each one counts the values of all, see `SynchronizedBatchNorm`.
        enough = world_size() > 1 or kept.shape[0] * kept.shape[1] > 1
        training = self.training and enough
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        # As rows (K M, C): several times faster on a CPU than (B, C, T, M) with channels last.
        normed = F.batch_norm(
            kept.flatten(0, 1),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum if self.momentum is not None else 0.1,
            self.eps,
        ).view_as(kept)
        scattered = normed.new_zeros(frames.flatten(0, 1).shape).index_copy(0, place, normed)
        return scattered.view(frames.shape).permute(0, 3, 1, 2)


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalization of (B, C, T, M) whose statistics leave out frames that are not kept.

    References:
        Wu and He 2018, arXiv:1803.08494, eq. 7.
    """

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, T, M) and (B, T) bool → (B, C, T, M), 0 where nothing is kept."""
        there = keep[:, None, :, None]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        groups = wide.unflatten(1, (self.num_groups, -1))  # (B, G, C / G, T, M)
        mean, variance = masked_moments(groups, there.unsqueeze(1), (2, 3, 4))
        y = ((groups - mean) * (variance + self.eps).rsqrt()).flatten(1, 2).to(x.dtype)
        y = y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y.masked_fill(~there, 0)
