"""What the configurations of all fusions share, and how they treat what is not there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Widths = Mapping[str, int]  # modality -> D, in the order of fusion
MODALITIES = range(2, 6)  # how many can be fused


class FusionBase(BaseModel):
    """Unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(128, ge=1)  # width of what comes out


def check_widths(widths: Widths) -> None:
    """Refuse another number of modalities than 2 to 5."""
    if len(widths) not in MODALITIES:
        raise ValueError(f"fusion takes 2 to 5 modalities, got {', '.join(widths) or 'none'}")


def vectors_of(
    values: Mapping[str, Tensor], present: Mapping[str, Tensor], widths: Widths
) -> dict[str, tuple[Tensor, Tensor]]:
    """modality -> ((B, D) zeros where absent, (B,) bool), in the order of `widths`.

    What stands in an absent row is never read: NaN times 0 would be NaN.

    Raises:
        ValueError: a modality is missing from the mapping, or has another shape.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for modality, width in widths.items():
        x, there = values.get(modality), present.get(modality)
        if x is None or there is None:
            raise ValueError(
                f"expected values of {', '.join(widths)}, got {', '.join(values) or 'none'}; an "
                "absent modality is given with present False"
            )
        if x.ndim != 2 or x.shape[1] != width or there.shape != x.shape[:1]:
            raise ValueError(
                f"{modality}: expected (B, {width}) and (B,), got {tuple(x.shape)} and "
                f"{tuple(there.shape)}"
            )
        found[modality] = (torch.where(there[:, None], x, torch.zeros_like(x)), there)
    return found


def tokens_of(
    values: Mapping[str, Tensor], keep: Mapping[str, Tensor], widths: Widths
) -> dict[str, tuple[Tensor, Tensor]]:
    """modality -> ((B, N, D) zeros where not kept, (B, N) bool), in the order of `widths`.

    Raises:
        ValueError: a modality is missing from the mapping, or has another shape.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for modality, width in widths.items():
        x, mask = values.get(modality), keep.get(modality)
        if x is None or mask is None:
            raise ValueError(
                f"expected tokens of {', '.join(widths)}, got {', '.join(values) or 'none'}; an "
                "absent modality is given with keep False"
            )
        if x.ndim != 3 or x.shape[2] != width or mask.shape != x.shape[:2]:
            raise ValueError(
                f"{modality}: expected (B, N, {width}) and (B, N), got {tuple(x.shape)} and "
                f"{tuple(mask.shape)}"
            )
        found[modality] = (torch.where(mask[..., None], x, torch.zeros_like(x)), mask)
    return found
