"""Rows gathered from all processes, with or without their gradient; identity in one process.

Every process computes the same global loss L of the gathered rows. The backward pass of
`gather_with_gradient` sums over the P processes, so that the owner of a row receives P * dL/dz;
`DistributedDataParallel` then averages parameter gradients over the processes, which is exactly
dL/dθ of one process that holds all rows. No further factor is needed. Without DDP, average the
parameter gradients (`ReduceOp.AVG`).
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["barrier", "gather", "gather_with_gradient", "is_main", "rank", "world_size"]


def world_size() -> int:
    """Number of processes that train together.

    Examples:
        >>> from amodal.distributed import world_size
        >>> world_size()  # without torchrun
        1
    """
    if _is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if _is_launched() else 1


def rank() -> int:
    """Rank of this process, from 0.

    Examples:
        >>> from amodal.distributed import rank
        >>> rank()  # without torchrun
        0
    """
    if _is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if _is_launched() else 0


def is_main() -> bool:
    """Whether this process is the one that writes files and prints.

    Examples:
        >>> from amodal.distributed import is_main
        >>> is_main()  # without torchrun
        True
    """
    return rank() == 0


def barrier() -> None:
    """Wait until every process has reached this call.

    Examples:
        >>> from amodal.distributed import barrier
        >>> barrier()  # returns at once in a single process
    """
    if _is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in order of rank, without gradient.

    Args:
        tensor: (R, ...) rows of this process; R may differ between processes.

    Returns:
        (sum of R, ...) rows; equal on every process.

    Examples:
        >>> import torch
        >>> from amodal.distributed import gather
        >>> gather(torch.ones(2, 3)).shape  # (P * 2, 3) with P processes
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return tensor.detach()
    sizes, _ = _describe(tensor)
    return _all_gather(tensor.detach(), sizes)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """The rows of all processes in order of rank; their gradient flows back to the owner.

    The gradient of a row is the sum over processes. All processes must call this, and the
    backward pass, in the same order.

    Args:
        tensor: (R, ...) rows of this process; R may differ between processes.

    Returns:
        (sum of R, ...) rows; equal on every process.

    Examples:
        >>> import torch
        >>> from amodal.distributed import gather_with_gradient
        >>> z = torch.ones(2, 3, requires_grad=True)
        >>> gather_with_gradient(z).sum().backward()
        >>> z.grad.shape
        torch.Size([2, 3])
    """
    if world_size() == 1:
        return tensor
    sizes, any_gradient = _describe(tensor)
    if any_gradient and torch.is_grad_enabled() and not tensor.requires_grad:
        # A process without rows has nothing to differentiate, but must take part in the
        # all-reduce of gradients, or the others wait for it forever.
        tensor = tensor.detach().requires_grad_()
    gathered: Tensor = _GatherWithGradient.apply(tensor, sizes)  # type: ignore[no-untyped-call]
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        start = sum(ctx.sizes[: dist.get_rank()])
        return total[start : start + ctx.sizes[dist.get_rank()]], None


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_launched() -> bool:
    # torchrun sets these before anything has joined the process group.
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def _describe(tensor: Tensor) -> tuple[list[int], bool]:
    """Rows on every process, and whether any of them wants a gradient."""
    if not _is_initialized():
        raise RuntimeError(
            f"{world_size()} processes were launched, but the process group is not initialised: "
            "call torch.distributed.init_process_group (accelerate does) before gathering"
        )
    local = torch.tensor([len(tensor), int(tensor.requires_grad)], device=tensor.device)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    table = torch.stack(gathered).tolist()
    return [size for size, _ in table], any(wants for _, wants in table)


def _all_gather(tensor: Tensor, sizes: list[int]) -> Tensor:
    longest = max(sizes)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
