"""The number format of the forward pass: as asked, by the hardware, or by timing."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from amodal.distributed import gather, world_size

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
MIN_GAIN = 0.1  # share of the time that bf16 must save to be worth its coarser numbers
MAX_SLOWDOWN = 3.0  # bf16 this many times slower in its first step is not timed further


def resolve_precision(wanted: str) -> Precision:
    """The format that a recipe asks for.

    `auto` is bf16 on a GPU that multiplies it natively and fp16 on an older one. On a CPU it is
    measured, see `is_measured`; where that is not done it is fp32.

    Raises:
        ValueError: fp16 without a GPU; its gradients need the GPU's loss scaling.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "fp32"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a CUDA device; use bf16 or fp32 on a CPU")
    if wanted not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision is auto, fp32, bf16 or fp16; got {wanted!r}")
    return wanted  # type: ignore[return-value]


def is_measured(wanted: str) -> bool:
    """Whether `measured_precision` decides: `auto` on a CPU.

    The flags of a CPU do not tell: with AVX-512 bf16 but without AMX, convolutions in bf16 take
    twice the time of fp32 and matrix products less.
    """
    return wanted == "auto" and not torch.cuda.is_available()


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """The context of a forward pass in this format."""
    return torch.autocast(device, dtype=DTYPES[precision], enabled=precision != "fp32")


@dataclass(frozen=True)
class PrecisionTiming:
    """The faster format, and what both take.

    Args:
        precision: the format to train in.
        seconds: format → time of one step, the shortest measured; infinite where the model has an
            operation without that format.
    """

    precision: Precision
    seconds: dict[Precision, float]

    def __str__(self) -> str:
        times = ", ".join(
            f"{seconds:.3g} s in {name}" if math.isfinite(seconds) else f"{name} not possible"
            for name, seconds in self.seconds.items()
        )
        return f"precision: auto is {self.precision} on this CPU; a step takes {times}"


def measured_precision(
    step: Callable[[Precision], object],
    module: nn.Module,
    *,
    repetitions: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> PrecisionTiming:
    """Time one step in fp32 and in bf16, each after a warm-up, and take the faster format.

    bf16 is taken where it saves at least a tenth of the time. Weights, gradients, buffers (such as
    the statistics of BatchNorm), training mode and the random state are afterwards as they were.
    Several processes decide together, by the slowest.

    Args:
        step: runs forward and backward on one batch in the given format; without an optimizer.
        module: all that `step` changes.
        repetitions: timed steps of each format.
        clock: the time in seconds.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> def step(precision):
        ...     with autocast(precision, "cpu"):
        ...         layer(torch.ones(2, 4)).sum().backward()
        >>> measured_precision(step, layer).precision in ("fp32", "bf16")
        True
        >>> layer.weight.grad is None
        True
    """

    def timed(precision: Precision) -> float:
        with _restored(module):
            begin = clock()
            step(precision)
            return clock() - begin

    first = timed("fp32")
    try:
        second = timed("bf16")
    except RuntimeError:  # an operation without a kernel for bf16
        return PrecisionTiming("fp32", {"fp32": first, "bf16": math.inf})
    if world_size() == 1 and second > MAX_SLOWDOWN * first:
        return PrecisionTiming("fp32", {"fp32": first, "bf16": second})
    rounds = [(timed("fp32"), timed("bf16")) for _ in range(repetitions)]
    shortest = torch.tensor([rounds], dtype=torch.float64).amin(1)  # (1, 2)
    fp32, bf16 = gather(shortest).amax(0).tolist()
    chosen: Precision = "bf16" if bf16 <= (1 - MIN_GAIN) * fp32 else "fp32"
    return PrecisionTiming(chosen, {"fp32": fp32, "bf16": bf16})


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Leave a module and the random state as they are, whatever a step does to them."""
    gradients = [(p, p.grad) for p in module.parameters()]
    kept = [None if gradient is None else gradient.clone() for _, gradient in gradients]
    buffers = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    modes = [(owner, owner.training) for owner in module.modules()]
    states = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        for owner, training in modes:
            owner.training = training
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                buffer.copy_(value)
                owner._buffers[name] = buffer
            for (parameter, gradient), held in zip(gradients, kept, strict=True):
                if gradient is not None and held is not None:
                    gradient.copy_(held)
                parameter.grad = gradient
