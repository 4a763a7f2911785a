"""Low-rank tensor fusion: tensor fusion without materialising the tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.fusion.config import FusionBase, Widths, check_widths, cleared


def low_rank_product(rows: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """Low-rank multimodal fusion: sum over r of Π_m ([1; x_m] F_m^r).

    It equals vec([1; x_1] ⊗ ... ⊗ [1; x_M]) times the weight whose slice for each output is
    sum over r of f_1^r ⊗ ... ⊗ f_M^r, at the cost of the factors.

    Args:
        rows: M tensors (B, D_m).
        factors: M tensors (R, D_m + 1, E).

    Returns:
        (B, E).

    References:
        Liu et al. 2018, arXiv:1806.00064, eq. 6.

    Examples:
        >>> import torch
        >>> from amodal.fusion import low_rank_product
        >>> image, audio = torch.randn(2, 3), torch.randn(2, 4)
        >>> factors = [torch.randn(5, 4, 8), torch.randn(5, 5, 8)]  # rank 5, D + 1, E
        >>> low_rank_product([image, audio], factors).shape
        torch.Size([2, 8])
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
    rank: int = Field(4, ge=1)  # of the factors of the weight tensor

    def build(self, widths: Widths) -> LowRank:
        return LowRank(self, widths)


class LowRank(nn.Module):
    """`low_rank_product` plus a bias; an absent x_m is 0, so that products without it remain.

    Args:
        config: sizes and options.
        widths: modality -> D.

    Examples:
        >>> import torch
        >>> from amodal.fusion import LowRankConfig
        >>> fusion = LowRankConfig(dim=8, rank=2).build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 6), "audio": torch.randn(2, 4)}
        >>> present = {"image": torch.tensor([True, True]), "audio": torch.tensor([True, False])}
        >>> fusion(values, present).shape
        torch.Size([2, 8])
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
        with torch.no_grad():  # initial factors of the product are about 1
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
