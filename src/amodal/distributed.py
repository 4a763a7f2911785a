"""Rows gathered from all processes, with or without their gradient; identity in one process.

Every process computes the same global loss L of the gathered rows. The backward pass of
`gather_with_gradient` sums over the P processes, so that the owner of a row receives P * dL/dz;
`average_gradients` then averages parameter gradients over the processes, which is exactly dL/dθ of
one process that holds all rows. No further factor is needed. A loss that is a sum over rows, of
which each process computes its own part, is multiplied by P instead.

`DistributedDataParallel` is not used: it waits for a gradient of every parameter from every
process, and a process whose rows lack a modality has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "any_process",
    "average_gradients",
    "barrier",
    "batch_statistics",
    "gather",
    "gather_integers",
    "gather_texts",
    "gather_with_gradient",
    "is_main",
    "rank",
    "runs_without_rows",
    "same_everywhere",
    "world_size",
]

BUCKET_BYTES = 64 << 20  # gradients that are averaged in one message


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


def gather_integers(values: Sequence[int]) -> list[list[int]]:
    """The same few integers of every process, in order of rank.

    Examples:
        >>> from amodal.distributed import gather_integers
        >>> gather_integers([3, 1])  # in a single process
        [[3, 1]]
    """
    if world_size() == 1:
        return [list(values)]
    _check_initialized()
    local = torch.tensor(list(values), dtype=torch.int64, device=_control_device())
    found = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(found, local)
    return [one.tolist() for one in found]


def any_process(value: bool) -> bool:
    """Whether `value` is true in any process.

    Examples:
        >>> from amodal.distributed import any_process
        >>> any_process(False)
        False
    """
    return value if world_size() == 1 else any(found for (found,) in gather_integers([int(value)]))


def gather_texts(text: str) -> list[str]:
    """A text of every process, in order of rank.

    Examples:
        >>> from amodal.distributed import gather_texts
        >>> gather_texts("a")  # in a single process
        ['a']
    """
    if world_size() == 1:
        return [text]
    encoded = text.encode()
    sizes = [size for (size,) in gather_integers([len(encoded)])]
    local = torch.tensor(list(encoded), dtype=torch.uint8, device=_control_device())
    parts = _all_gather(local, sizes).cpu().split(sizes)
    return [bytes(part.tolist()).decode() for part in parts]


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradient of every parameter by its mean over all processes.

    A process without a gradient of some parameter counts as one with a gradient of 0; a parameter
    that has none in any process still has none afterwards.

    Args:
        parameters: the same ones in the same order on every process.

    Examples:
        >>> import torch
        >>> from amodal.distributed import average_gradients
        >>> layer = torch.nn.Linear(2, 1)
        >>> average_gradients(layer.parameters())  # a single process changes nothing
        >>> layer.weight.grad is None
        True
    """
    if world_size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    there = torch.tensor([p.grad is not None for p in trained], dtype=torch.uint8)
    there = there.to(_control_device())
    dist.all_reduce(there, op=dist.ReduceOp.MAX)
    gradients = []
    for parameter, somewhere in zip(trained, there.tolist(), strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([g.numel() for g in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def same_everywhere(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first.

    Examples:
        >>> import torch
        >>> from amodal.distributed import same_everywhere
        >>> same_everywhere(torch.nn.Linear(2, 1))  # a single process changes nothing
    """
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def batch_statistics(module: nn.Module) -> list[str]:
    """Names of layers whose output for one row depends on the other rows of the batch.

    Examples:
        >>> import torch
        >>> from amodal.distributed import batch_statistics
        >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> batch_statistics(layers), batch_statistics(layers.eval())
        (['1'], [])
    """
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and (layer.training or not layer.track_running_stats)
    ]


def runs_without_rows(module: nn.Module) -> bool:
    """Whether a module must run on no rows too, because other processes count on its statistics.

    Examples:
        >>> import torch
        >>> from amodal.distributed import runs_without_rows
        >>> runs_without_rows(torch.nn.BatchNorm1d(3))  # in a single process
        False
    """
    return world_size() > 1 and bool(batch_statistics(module))


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Runs of tensors of one type and device, of about `BUCKET_BYTES` each."""
    found: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        last = found[-1][0] if found else None
        alike = last is not None and (last.dtype, last.device) == (tensor.dtype, tensor.device)
        if not alike or size >= BUCKET_BYTES:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += tensor.numel() * tensor.element_size()
    return found


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


def _check_initialized() -> None:
    if not _is_initialized():
        raise RuntimeError(
            f"{world_size()} processes were launched, but the process group is not initialised: "
            "call torch.distributed.init_process_group (accelerate does) before gathering"
        )


def _control_device() -> torch.device:
    """Where small integers are exchanged: the CPU where possible, which no GPU has to wait for."""
    if "cpu:" in str(dist.distributed_c10d.get_backend_config()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _describe(tensor: Tensor) -> tuple[list[int], bool]:
    """Rows on every process, and whether any of them wants a gradient."""
    table = gather_integers([len(tensor), int(tensor.requires_grad)])
    return [size for size, _ in table], any(wants for _, wants in table)


def _all_gather(tensor: Tensor, sizes: list[int]) -> Tensor:
    longest = max(sizes)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
