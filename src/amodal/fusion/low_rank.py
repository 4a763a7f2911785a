"""Low-rank tensor fusion: the same products, without ever writing them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.fusion.config import FusionBase, Widths, check_widths, cleared


def low_rank_product(rows: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """sum over r of  Π_m ([1; x_m] F_m^r): a tensor of rank R contracted with all modalities.

    It equals vec([1; x_1] ⊗ ... ⊗ [1; x_M]) times the weight whose slice for each output is
    sum over r of f_1^r ⊗ ... ⊗ f_M^r, at the cost of the factors.

    Args:
        rows: M tensors (B, D_m).
        factors: M tensors (R, D_m + 1, E).

    Returns:
        (B, E).

    References:
        Liu et al. 2018, arXiv:1806.00064, eq. 6.
    """
    product = None
    for x, factor in zip(rows, factors, strict=True):
        # One split, as the gradient of each slice would fill a whole tensor of zeros.
        bias, weight = factor.split([1, factor.shape[1] - 1], dim=1)
        term = torch.baddbmm(bias, x.expand(len(factor), -1, -1), weight)  # (R, B, E)
        product = term if product is None else product * term
    assert product is not None
    return product.sum(0)


class LowRankConfig(FusionBase):
    """`low_rank_product` with learned factors and a bias."""

    kind: Literal["low_rank"] = "low_rank"
    rank: int = Field(4, ge=1)

    def build(self, widths: Widths) -> LowRank:
        return LowRank(self, widths)


class LowRank(nn.Module):
    """`low_rank_product` plus a bias; an absent x_m is 0, so products without it stay.

    Args:
        config: see there.
        widths: modality -> D.
    """

    level = "vectors"

    def __init__(self, config: LowRankConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        self.factors = nn.ParameterDict(
            {
                m: torch.randn(config.rank, d + 1, config.dim) * (d + 1) ** -0.5
                for m, d in widths.items()
            }
        )
        with torch.no_grad():  # at the start the terms of the sum are about 1, and so their product
            for factor in self.factors.values():
                factor[:, 0] += 1
        self.scale = config.rank**-0.5
        self.bias = nn.Parameter(torch.zeros(config.dim))

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, D_m) and (B,) bool of every modality → (B, dim)."""
        found = cleared(values, present, self.widths, ndim=2)
        rows = [x for x, _ in found.values()]
        factors = [self.factors[m].to(x.dtype) for m, (x, _) in found.items()]
        return self.scale * low_rank_product(rows, factors) + self.bias
