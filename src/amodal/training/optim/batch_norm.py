"""Batch normalization over the rows of all processes, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amodal.distributed import world_size


class SynchronizedBatchNorm(TorchFunctionMode):
    """Context in which every batch normalization in training mode counts all processes.

    It replaces the function and not the layers, so that layers of other libraries, which are
    subclasses of their own, are covered, and weights keep their names. `torch.nn.SyncBatchNorm`
    runs on GPUs alone. All processes must run the same layers in the same order, forward and
    backward, if need be on no rows.

    A batch with fewer than two values per channel has no variance; it is normalized with the
    running statistics, in one process as in several.

    Examples:
        >>> import torch
        >>> from amodal.training.optim.batch_norm import SynchronizedBatchNorm
        >>> layer = torch.nn.BatchNorm1d(3)
        >>> with SynchronizedBatchNorm():
        ...     layer(torch.ones(1, 3)).shape  # torch alone refuses a single row
        torch.Size([1, 3])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` with the statistics of all processes.

    Args:
        input: (R, C, ...) rows of this process; R may differ between processes, and be 0.
        running_mean, running_var: (C,) or None; updated in place in training.
        weight, bias: (C,) or None.
        training: normalize with the statistics of the rows.
        momentum: weight of these rows in the running statistics.
        eps: added to the variance.

    References:
        Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
        Chan et al. 1983, doi:10.1080/00031305.1983.10483115, eq. 2.1 (moments of parts).
    """
    if not training or world_size() == 1:
        one_value = input.numel() <= input.shape[1] and running_mean is not None
        return F.batch_norm(
            input,
            running_mean,
            running_var,
            weight,
            bias,
            training and not one_value,
            momentum,
            eps,
        )
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    count, mean, variance = _moments(wide.detach())
    # As tensors, without a branch: a GPU would have to be waited for at every layer.
    enough = count >= 2
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            share = momentum * enough.to(running_mean.dtype)
            running_mean.lerp_(mean.to(running_mean.dtype), share)
            running_var.lerp_(unbiased.to(running_var.dtype), share)
        mean = torch.where(enough, mean, running_mean.to(mean.dtype))
        variance = torch.where(enough, variance, running_var.to(variance.dtype))
    inverse = (variance + eps).rsqrt()
    y: Tensor = _Normalize.apply(wide, enough / count.clamp(min=1), mean, inverse)  # type: ignore[no-untyped-call]
    if weight is not None:
        y = y * _channel(weight, y)
    if bias is not None:
        y = y + _channel(bias, y)
    return y.to(input.dtype)


class _Normalize(torch.autograd.Function):
    """(x - mean) / deviation, whose gradient passes through the statistics of all rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        """`share` is that of one value in the statistics: 1 / count, or 0 where they are fixed."""
        normed = (x - _channel(mean, x)) * _channel(inverse, x)
        ctx.save_for_backward(normed, share, inverse)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        normed, share, inverse = ctx.saved_tensors
        (gradient,) = gradients
        axes = _axes(gradient)
        sums = torch.stack([gradient.sum(axes), (gradient * normed).sum(axes)])  # (2, C)
        dist.all_reduce(sums)
        of_mean, of_deviation = sums * share
        centred = gradient - _channel(of_mean, normed) - normed * _channel(of_deviation, normed)
        return centred * _channel(inverse, normed), None, None, None


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values per channel, mean and biased variance, over all processes."""
    axes = _axes(x)
    own = x.numel() // x.shape[1]
    mean = x.mean(axes) if own else x.new_zeros(x.shape[1])
    square = (x - _channel(mean, x)).square().sum(axes)
    mine = torch.cat([x.new_tensor([float(own)]), mean, square])
    all_rows = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(all_rows, mine)
    parts = torch.stack(all_rows)  # (P, 1 + 2 C)
    counts, means, squares = parts[:, :1], *parts[:, 1:].chunk(2, dim=1)
    total = counts.sum()
    over = total.clamp(min=1)
    whole = (counts * means).sum(0) / over
    variance = (squares + counts * (means - whole).square()).sum(0) / over
    return total, whole, variance


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) so that it broadcasts to `x`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
