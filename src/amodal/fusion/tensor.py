"""Tensor fusion: the outer product of all modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.fusion.config import FusionBase, Widths, check_widths, cleared

LARGEST = 1 << 20  # numbers per item in the product


def outer_product(rows: Sequence[Tensor]) -> Tensor:
    """(B, Π (D_m + 1)) entries of [1; x_1] ⊗ ... ⊗ [1; x_M], the last modality fastest.

    It contains the products of every subset of the modalities, the constant included.

    Args:
        rows: M tensors (B, D_m).

    Examples:
        >>> import torch
        >>> from amodal.fusion import outer_product
        >>> outer_product([torch.tensor([[2.0]]), torch.tensor([[3.0, 5.0]])])
        tensor([[ 1.,  3.,  5.,  2.,  6., 10.]])
    """
    found = _with_one(rows[0])
    for x in rows[1:]:
        found = (found[:, :, None] * _with_one(x)[:, None, :]).flatten(1)
    return found


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x.new_ones(len(x), 1), x], dim=1)


class TensorFusionConfig(FusionBase):
    """`outer_product` of reduced modalities, then a linear layer."""

    kind: Literal["tensor"] = "tensor"
    reduced_dim: int | None = Field(16, ge=1)  # of each modality in the product; None: its own

    def build(self, widths: Widths) -> TensorFusion:
        return TensorFusion(self, widths)


class TensorFusion(nn.Module):
    """W vec([1; x_1] ⊗ ... ⊗ [1; x_M]); an absent x_m is 0, so that products without it remain.

    Args:
        config: sizes and options.
        widths: modality -> D.

    Raises:
        ValueError: the product would have more than 2^20 numbers per item.

    References:
        Zadeh et al. 2017, arXiv:1707.07250, section 4.2.

    Examples:
        >>> import torch
        >>> from amodal.fusion import TensorFusionConfig
        >>> fusion = TensorFusionConfig(dim=8, reduced_dim=3).build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 6), "audio": torch.randn(2, 4)}
        >>> present = {"image": torch.tensor([True, True]), "audio": torch.tensor([True, False])}
        >>> fusion(values, present).shape
        torch.Size([2, 8])
    """

    level = "vectors"

    def __init__(self, config: TensorFusionConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        narrow = {m: min(d, config.reduced_dim or d) for m, d in widths.items()}
        size = prod(d + 1 for d in narrow.values())
        if size > LARGEST:
            raise ValueError(
                f"the product of {' x '.join(str(d + 1) for d in narrow.values())} has {size:,} "
                f"numbers per item, more than {LARGEST:,}; set `reduced_dim`, or use low_rank"
            )
        self.reduce = nn.ModuleDict(
            {m: nn.Linear(d, narrow[m]) for m, d in widths.items() if narrow[m] != d}
        )
        self.layer = nn.Linear(size, config.dim)

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, D_m) and (B,) bool of every modality → (B, dim)."""
        rows = []
        for m, (x, there) in cleared(values, present, self.widths, ndim=2).items():
            x = self.reduce[m](x) * there[:, None] if m in self.reduce else x
            rows.append(x)
        fused: Tensor = self.layer(outer_product(rows))
        return fused
