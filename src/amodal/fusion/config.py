"""Base class of the fusion configurations, and masking of absent modalities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Widths = Mapping[str, int]  # modality -> D, in the order of fusion
MODALITIES = range(2, 6)  # numbers of modalities that can be fused


class FusionBase(BaseModel):
    """Base of every fusion configuration: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(128, ge=1)  # output width


def check_widths(widths: Widths) -> None:
    """Raise ValueError unless there are 2 to 5 modalities."""
    if len(widths) not in MODALITIES:
        raise ValueError(f"fusion takes 2 to 5 modalities, got {', '.join(widths) or 'none'}")


def cleared(
    values: Mapping[str, Tensor], keep: Mapping[str, Tensor], widths: Widths, *, ndim: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """modality -> (values with zeros where masked, mask), in the order of `widths`.

    Masked values are replaced, not multiplied, as NaN times 0 would be NaN.

    Args:
        values: modality -> (B, D) vectors or (B, N, D) tokens.
        keep: modality -> (B,) or (B, N) bool.
        widths: modality -> D.
        ndim: 2 for vectors, 3 for tokens.

    Raises:
        ValueError: a modality is missing from the mapping, or has another shape.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for modality, width in widths.items():
        x, mask = values.get(modality), keep.get(modality)
        if x is None or mask is None:
            raise ValueError(
                f"expected values of {', '.join(widths)}, got {', '.join(values) or 'none'}; pass "
                "an absent modality with a mask of False"
            )
        if x.ndim != ndim or x.shape[-1] != width or mask.shape != x.shape[:-1]:
            expected = "(B, N, D) and (B, N)" if ndim == 3 else "(B, D) and (B,)"
            raise ValueError(
                f"{modality}: expected {expected} with D = {width}, got {tuple(x.shape)} and "
                f"{tuple(mask.shape)}"
            )
        found[modality] = (kept(x, mask), mask)
    return found


def kept(x: Tensor, mask: Tensor) -> Tensor:
    """(..., D) with zeros where the mask, (...) bool, is False, even in place of NaN."""
    if all_kept(mask):
        return x
    return torch.where(mask[..., None], x, torch.zeros_like(x))


def all_kept(mask: Tensor) -> bool:
    """Whether nothing is masked; always False on an accelerator, to avoid a synchronisation.

    On a CPU the check is cheap and saves a copy.
    """
    return mask.device.type == "cpu" and bool(mask.all())
