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


def cleared(
    values: Mapping[str, Tensor], keep: Mapping[str, Tensor], widths: Widths, *, ndim: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """modality -> (its values with zeros where they do not count, its mask), as in `widths`.

    What stands where the mask is False is never read: NaN times 0 would be NaN.

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
                f"expected values of {', '.join(widths)}, got {', '.join(values) or 'none'}; an "
                "absent modality is given with a mask of False"
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
    """(..., D) with zeros where the mask, (...) bool, is False, whatever stands there."""
    if all_kept(mask):
        return x
    return torch.where(mask[..., None], x, torch.zeros_like(x))


def all_kept(mask: Tensor) -> bool:
    """Whether nothing is masked; False on an accelerator, which would have to be waited for.

    On a CPU it costs next to nothing to see that all is there, and much to copy it.
    """
    return mask.device.type == "cpu" and bool(mask.all())
