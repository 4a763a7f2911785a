"""Attention bottlenecks: modalities exchange information through a few tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.fusion.attention import AttentionLayer
from amodal.fusion.config import FusionBase, Widths, check_widths, cleared, kept


class BottleneckConfig(FusionBase):
    """Transformer layers with a few bottleneck tokens between the modalities."""

    kind: Literal["bottleneck"] = "bottleneck"
    tokens: int = Field(4, ge=1)  # bottleneck tokens
    layers: int = Field(2, ge=1)  # of the Transformer
    heads: int = Field(4, ge=1)  # of attention; they divide dim
    dropout: float = Field(0.0, ge=0, lt=1)  # of the layers

    @model_validator(mode="after")
    def _heads_fit(self) -> BottleneckConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide by {self.heads} heads")
        return self

    def build(self, widths: Widths) -> Bottleneck:
        return Bottleneck(self, widths)


class Bottleneck(nn.Module):
    """Attention bottleneck fusion.

    In each layer the tokens of a modality attend to each other and to the bottleneck, and update
    their own copy of it; the copies of the present modalities are averaged before the next layer.
    The cost of fusion grows with the number of bottleneck tokens, not with the product of lengths.

    Args:
        config: sizes and options.
        widths: modality -> D.

    References:
        Nagrani et al. 2021, arXiv:2107.00135, eq. 5 to 7.

    Examples:
        >>> import torch
        >>> from amodal.fusion import BottleneckConfig
        >>> config = BottleneckConfig(dim=8, tokens=2, layers=1, heads=2)
        >>> fusion = config.build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 9, 6), "audio": torch.randn(2, 5, 4)}
        >>> keep = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in values.items()}
        >>> tokens, mask = fusion(values, keep)
        >>> tokens.shape  # 9 + 5 tokens and the bottleneck
        torch.Size([2, 16, 8])
    """

    level = "tokens"

    def __init__(self, config: BottleneckConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        self.project = nn.ModuleDict({m: nn.Linear(d, config.dim) for m, d in widths.items()})
        self.bottleneck = nn.Parameter(0.02 * torch.randn(config.tokens, config.dim))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {m: AttentionLayer(config.dim, config.heads, config.dropout) for m in widths}
            )
            for _ in range(config.layers)
        )

    def forward(
        self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, N_m, D_m) and (B, N_m) bool of every modality → (B, N + bottleneck, dim), (B, ...).

        The bottleneck comes last and is kept for every item; where all modalities are absent it
        has its initial, learned value.
        """
        found = {
            m: (self.project[m](x), mask)
            for m, (x, mask) in cleared(values, keep, self.widths, ndim=3).items()
        }
        batch, count = len(next(iter(found.values()))[0]), len(self.bottleneck)
        between = self.bottleneck.expand(batch, -1, -1)
        always = torch.ones(batch, count, dtype=torch.bool, device=between.device)
        there = torch.stack([mask.any(1) for _, mask in found.values()], dim=1)  # (B, M)
        for layer in self.layers:
            copies, rewritten = [], {}
            for m, (x, mask) in found.items():
                whole, keep_all = torch.cat([x, between], 1), torch.cat([mask, always], 1)
                whole = layer[m](whole, whole, keep_all)  # type: ignore[index]
                rewritten[m] = (whole[:, : x.shape[1]], mask)
                copies.append(whole[:, x.shape[1] :])
            found = rewritten
            share = there / there.sum(1, keepdim=True).clamp_min(1)  # (B, M)
            mean = torch.einsum("bm,mbkd->bkd", share.to(between.dtype), torch.stack(copies))
            between = torch.where(there.any(1)[:, None, None], mean, between)
        mask = torch.cat([*(mask for _, mask in found.values()), always], dim=1)
        tokens = torch.cat([*(x for x, _ in found.values()), between], dim=1)
        return kept(tokens, mask), mask

    def token_modalities(self) -> list[str]:
        """Modality of each run of output tokens, except those of the bottleneck."""
        return list(self.widths)
