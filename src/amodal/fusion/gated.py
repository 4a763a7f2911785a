"""Gated fusion: the weight of each modality is predicted for each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.fusion.config import FusionBase, Widths, all_kept, check_widths, cleared


def softmax_of_present(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the present modalities; all 0 where none is present.

    Args:
        scores: (B, M) or (B, M, units).
        present: bool, (B, M) or (B, M, 1).
    """
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if all_kept(present):
        return scores.softmax(1)
    filled = scores.masked_fill(~present, torch.finfo(scores.dtype).min / 4)
    return filled.softmax(1) * present


class GatedConfig(FusionBase):
    """Gates from all modalities, one or one per unit, or from each modality alone.

    - modality: one gate per modality, from all of them together.
    - unit: a gate per modality and unit of the result, the gated multimodal unit.
    - precision: each modality predicts its own precision, so that noise in one changes the gates
      of the others only through the normalisation. Precision is learned from the loss.
    """

    kind: Literal["gated"] = "gated"
    # one per input, one per unit, or from each input alone
    gate: Literal["modality", "unit", "precision"] = "modality"
    gate_hidden: int = Field(32, ge=1)  # of "precision"

    def build(self, widths: Widths) -> nn.Module:
        return (PrecisionGated if self.gate == "precision" else Gated)(self, widths)


class Gated(nn.Module):
    """sum over m of g_m tanh(W_m x_m), g = softmax over present m of U [x_1; ...; x_M].

    Args:
        config: with gate "modality" (g_m is a number) or "unit" (g_m has a number per unit).
        widths: modality -> D.

    References:
        Arevalo et al. 2017, arXiv:1702.01992, section 3.1 ("units", for two and more).

    Examples:
        >>> import torch
        >>> from amodal.fusion import GatedConfig
        >>> fusion = GatedConfig(dim=8).build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 6), "audio": torch.randn(2, 4)}
        >>> present = {"image": torch.tensor([True, True]), "audio": torch.tensor([True, False])}
        >>> fusion(values, present).shape
        torch.Size([2, 8])
        >>> fusion.gates(values, present)[1].tolist()  # the second item has no audio
        [1.0, 0.0]
    """

    level = "vectors"

    def __init__(self, config: GatedConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        self.units = config.dim if config.gate == "unit" else 1
        self.project = nn.ModuleDict({m: nn.Linear(d, config.dim) for m, d in widths.items()})
        self.score = nn.Linear(sum(widths.values()), len(widths) * self.units)

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, D_m) and (B,) bool of every modality → (B, dim); zeros where all are absent."""
        found = cleared(values, present, self.widths, ndim=2)
        gates = self._gates(found)  # (B, M, units)
        content = torch.stack(
            [torch.tanh(self.project[m](x)) for m, (x, _) in found.items()], dim=1
        )  # (B, M, dim)
        return (gates.to(content.dtype) * content).sum(1)

    def gates(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, M) gates, mean over units; rows sum to 1, or to 0 where all are absent."""
        return self._gates(cleared(values, present, self.widths, ndim=2)).mean(2)

    def _gates(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        there = torch.stack([mask for _, mask in found.values()], dim=1)[..., None]
        scores = self.score(torch.cat([x for x, _ in found.values()], dim=1))
        return softmax_of_present(scores.unflatten(1, (len(found), self.units)), there)


class PrecisionGated(nn.Module):
    """sum over m of g_m W_m x_m, g = softmax over present m of s_m([x_m; log mean x_m²]).

    With s_m the log precision of modality m, g_m is inverse-variance weighting. Noise
    changes the size of features, so s_m, a small network, has it as an input.

    Args:
        config: with gate "precision".
        widths: modality -> D.

    References:
        Kendall & Gal 2017, arXiv:1703.04977, section 3 (precision learned from the loss).

    Examples:
        >>> import torch
        >>> from amodal.fusion import GatedConfig
        >>> fusion = GatedConfig(dim=8, gate="precision").build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 6), "audio": torch.randn(2, 4)}
        >>> present = {"image": torch.tensor([True, True]), "audio": torch.tensor([True, False])}
        >>> fusion(values, present).shape
        torch.Size([2, 8])
        >>> fusion.gates(values, present)[1].tolist()  # the second item has no audio
        [1.0, 0.0]
    """

    level = "vectors"

    def __init__(self, config: GatedConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        self.project = nn.ModuleDict({m: nn.Linear(d, config.dim) for m, d in widths.items()})
        self.score = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Linear(d + 1, config.gate_hidden),
                    nn.GELU(),
                    nn.Linear(config.gate_hidden, 1),
                )
                for m, d in widths.items()
            }
        )

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, D_m) and (B,) bool of every modality → (B, dim); zeros where all are absent."""
        found = cleared(values, present, self.widths, ndim=2)
        gates = self._gates(found)  # (B, M)
        content = torch.stack([self.project[m](x) for m, (x, _) in found.items()], dim=1)
        return (gates[..., None].to(content.dtype) * content).sum(1)

    def gates(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, M) gates; rows sum to 1, or to 0 where all are absent."""
        return self._gates(cleared(values, present, self.widths, ndim=2))

    def log_precision(self, modality: str, x: Tensor) -> Tensor:
        """(B, D) → (B, 1) log precision, in float32 or wider and within e^-6 and e^6."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        energy = (wide.square().mean(1, keepdim=True) + 1e-6).log()
        found: Tensor = self.score[modality](torch.cat([wide, energy], dim=1))
        return found.clamp(-6, 6)

    def _gates(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        there = torch.stack([mask for _, mask in found.values()], dim=1)
        scores = [self.log_precision(m, x) for m, (x, _) in found.items()]
        return softmax_of_present(torch.cat(scores, dim=1), there)
