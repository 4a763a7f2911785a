"""In which number format the forward pass runs."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]


def resolve_precision(wanted: str) -> Precision:
    """The format for `auto`: bf16 where the hardware multiplies it natively, else fp32.

    On a CPU that means products of bf16 numbers in hardware, by matrix tiles (AMX) or by vectors
    (AVX-512): without them bf16 is emulated and slower.

    Raises:
        ValueError: fp16 without a GPU; its gradients need the GPU's loss scaling.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return "bf16" if fast else "fp32"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a CUDA device; use bf16 or fp32 on a CPU")
    if wanted not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision is auto, fp32, bf16 or fp16; got {wanted!r}")
    return wanted  # type: ignore[return-value]
