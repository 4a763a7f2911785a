"""Gated fusion: how much each modality counts is decided for each item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.fusion.config import FusionBase, Widths, check_widths, cleared


def softmax_of_present(scores: Tensor, present: Tensor) -> Tensor:
    """(B, M) softmax over the modalities that are there; all 0 where none is.

    Args:
        scores: (B, M).
        present: (B, M) bool.
    """
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    filled = scores.masked_fill(~present, torch.finfo(scores.dtype).min / 4)
    return filled.softmax(1) * present


class GatedConfig(FusionBase):
    """Gates from what all modalities say ("all"), or from what each says of itself ("own")."""

    kind: Literal["gated"] = "gated"
    # all: a gated multimodal unit. own: each modality tells its own precision, so that noise in
    # one cannot move the gate of another but by the sum.
    gate: Literal["all", "own"] = "all"
    gate_hidden: int = Field(32, ge=1)  # of "own"

    def build(self, widths: Widths) -> Gated:
        return Gated(self, widths)


class Gated(nn.Module):
    """sum over m of g_m tanh(W_m x_m), the gates g a softmax over the modalities that are there.

    - "all": g = softmax(U [x_1; ...; x_M]), the gated multimodal unit for M modalities.
    - "own": g = softmax(s_1(x_1), ..., s_M(x_M)) with a small network s_m per modality: with s_m
      its log precision, g_m is the weight that inverse variances give.

    Args:
        config: see there.
        widths: modality -> D.

    References:
        Arevalo et al. 2017, arXiv:1702.01992, section 3.1 ("all", for two and more).
    """

    level = "vectors"

    def __init__(self, config: GatedConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim, self.gate = dict(widths), config.dim, config.gate
        self.project = nn.ModuleDict({m: nn.Linear(d, config.dim) for m, d in widths.items()})
        if config.gate == "all":
            self.score: nn.Module = nn.Linear(sum(widths.values()), len(widths))
        else:
            self.score = nn.ModuleDict(
                {
                    m: nn.Sequential(
                        nn.Linear(d, config.gate_hidden),
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
        content = torch.stack(
            [torch.tanh(self.project[m](x)) for m, (x, _) in found.items()], dim=1
        )  # (B, M, dim)
        return (gates[..., None].to(content.dtype) * content).sum(1)

    def gates(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, M) how much each modality counts; rows sum to 1, or to 0 where all are absent."""
        return self._gates(cleared(values, present, self.widths, ndim=2))

    def _gates(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        there = torch.stack([mask for _, mask in found.values()], dim=1)
        if self.gate == "all":
            scores = self.score(torch.cat([x for x, _ in found.values()], dim=1))
        else:
            assert isinstance(self.score, nn.ModuleDict)
            scores = torch.cat([self.score[m](x) for m, (x, _) in found.items()], dim=1)
        return softmax_of_present(scores, there)
