"""Cross-modal attention: the tokens of each modality attend to those of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.fusion.attention import AttentionLayer, CrossAttention
from amodal.fusion.config import FusionBase, Widths, check_widths, cleared, kept


class CrossAttentionConfig(FusionBase):
    """Cross-attention layers, for every ordered pair of modalities or jointly."""

    kind: Literal["cross_attention"] = "cross_attention"
    # directional: one stack of layers for every ordered pair of modalities, which attends to the
    # input tokens of the other. together: in each layer every modality attends to all others,
    # then to itself.
    attention: Literal["directional", "co_attention"] = "co_attention"
    layers: int = Field(2, ge=1)  # of cross-attention
    heads: int = Field(4, ge=1)  # of attention; they divide dim
    dropout: float = Field(0.0, ge=0, lt=1)  # of the layers

    @model_validator(mode="after")
    def _heads_fit(self) -> CrossAttentionConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide by {self.heads} heads")
        return self

    def build(self, widths: Widths) -> nn.Module:
        return (DirectionalCrossAttention if self.attention == "directional" else CoAttention)(
            self, widths
        )


class _Projected(nn.Module):
    """Tokens of every modality projected to one width, plus a learned modality embedding."""

    def __init__(self, dim: int, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths = dict(widths)
        self.project = nn.ModuleDict({m: nn.Linear(d, dim) for m, d in widths.items()})
        self.modality = nn.ParameterDict({m: 0.02 * torch.randn(dim) for m in widths})

    def forward(
        self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            m: (self.project[m](x) + self.modality[m], mask)
            for m, (x, mask) in cleared(values, keep, self.widths, ndim=3).items()
        }


class DirectionalCrossAttention(nn.Module):
    """Directional cross-modal attention: one stack of layers per ordered pair of modalities.

    The output concatenates M (M - 1) sequences, the tokens of every modality after attending to
    each of the others; where the other modality is absent, tokens pass unchanged.

    References:
        Tsai et al. 2019, arXiv:1906.00295, section 3.1.

    Examples:
        >>> import torch
        >>> from amodal.fusion import CrossAttentionConfig
        >>> config = CrossAttentionConfig(dim=8, heads=2, layers=1, attention="directional")
        >>> fusion = config.build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 9, 6), "audio": torch.randn(2, 5, 4)}
        >>> keep = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in values.items()}
        >>> tokens, mask = fusion(values, keep)
        >>> tokens.shape, fusion.token_modalities()
        (torch.Size([2, 14, 8]), ['image', 'audio'])
    """

    level = "tokens"

    def __init__(self, config: CrossAttentionConfig, widths: Widths) -> None:
        super().__init__()
        self.dim = config.dim
        self.inputs = _Projected(config.dim, widths)
        self.stacks = nn.ModuleDict(
            {
                f"{target}_from_{source}": nn.ModuleList(
                    AttentionLayer(config.dim, config.heads, config.dropout)
                    for _ in range(config.layers)
                )
                for target in widths
                for source in widths
                if source != target
            }
        )

    def forward(
        self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, N_m, D_m) and (B, N_m) bool of every modality → (B, N, dim) and (B, N)."""
        found = self.inputs(values, keep)
        tokens, masks = [], []
        for target, (x, own) in found.items():
            for source, (context, mask) in found.items():
                if source == target:
                    continue
                rewritten = x
                for layer in self.stacks[f"{target}_from_{source}"]:  # type: ignore[attr-defined]
                    rewritten = layer(rewritten, context, mask)
                tokens.append(rewritten)
                masks.append(own)
        mask = torch.cat(masks, dim=1)
        return kept(torch.cat(tokens, dim=1), mask), mask

    def token_modalities(self) -> list[str]:
        """Modality of each run of output tokens."""
        widths = self.inputs.widths
        return [target for target in widths for source in widths if source != target]


class CoAttention(nn.Module):
    """Co-attention: in each layer cross-attention to all other modalities, then self-attention.

    Within a layer all modalities attend to the outputs of the previous one, so the order of the
    modalities does not matter.

    References:
        Lu et al. 2019, arXiv:1908.02265, fig. 2b (co-attention of two).
        Tan & Bansal 2019, arXiv:1908.07490, section 3.2 (cross, then self-attention).

    Examples:
        >>> import torch
        >>> from amodal.fusion import CrossAttentionConfig
        >>> fusion = CrossAttentionConfig(dim=8, heads=2, layers=1).build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 9, 6), "audio": torch.randn(2, 5, 4)}
        >>> keep = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in values.items()}
        >>> tokens, mask = fusion(values, keep)
        >>> tokens.shape
        torch.Size([2, 14, 8])
        >>> fusion.weights(values, keep, target="audio")["image"].shape
        torch.Size([2, 5, 9])
    """

    level = "tokens"

    def __init__(self, config: CrossAttentionConfig, widths: Widths) -> None:
        super().__init__()
        self.dim = config.dim
        self.inputs = _Projected(config.dim, widths)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    m: nn.ModuleList(
                        [
                            CrossAttention(config.dim, config.heads, config.dropout),
                            AttentionLayer(config.dim, config.heads, config.dropout),
                        ]
                    )
                    for m in widths
                }
            )
            for _ in range(config.layers)
        )

    def forward(
        self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, N_m, D_m) and (B, N_m) bool of every modality → (B, N, dim) and (B, N)."""
        found = self.inputs(values, keep)
        for layer in self.layers:
            found = {
                m: (self._rewritten(layer[m], m, found), mask)  # type: ignore[index]
                for m, (_, mask) in found.items()
            }
        mask = torch.cat([mask for _, mask in found.values()], dim=1)
        return kept(torch.cat([x for x, _ in found.values()], dim=1), mask), mask

    def token_modalities(self) -> list[str]:
        """Modality of each run of output tokens."""
        return list(self.inputs.widths)

    def weights(
        self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor], target: str
    ) -> dict[str, Tensor]:
        """Attention weights of the tokens of `target` in the first layer.

        Returns:
            source -> (B, N_target, N_source) mean over heads; over all sources a row sums to 1, or
            to 0 where all of them are absent.
        """
        found = self.inputs(values, keep)
        others = {m: rows for m, rows in found.items() if m != target}
        context = torch.cat([x for x, _ in others.values()], dim=1)
        mask = torch.cat([mask for _, mask in others.values()], dim=1)
        attend = self.layers[0][target][0]  # type: ignore[index]
        weights = attend.weights(found[target][0], context, mask).mean(1)
        parts = weights.split([x.shape[1] for x, _ in others.values()], dim=2)
        return dict(zip(others, parts, strict=True))

    @staticmethod
    def _rewritten(steps: Any, target: str, found: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        across, inside = steps
        x, own = found[target]
        context = torch.cat([rows for m, (rows, _) in found.items() if m != target], dim=1)
        mask = torch.cat([keep for m, (_, keep) in found.items() if m != target], dim=1)
        x = across(x, context, mask)
        rewritten: Tensor = inside(x, x, own)
        return rewritten
