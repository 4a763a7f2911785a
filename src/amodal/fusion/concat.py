"""Concatenation: of pooled vectors (late fusion) or of tokens (early fusion)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.fusion.config import FusionBase, Widths, all_kept, check_widths, cleared, kept


class ConcatConfig(FusionBase):
    """Concatenated vectors, then one linear layer or an MLP."""

    kind: Literal["concat"] = "concat"
    hidden: int | None = Field(None, ge=1)  # None: one linear layer
    dropout: float = Field(0.0, ge=0, lt=1)  # between the layers

    def build(self, widths: Widths) -> Concat:
        return Concat(self, widths)


class Concat(nn.Module):
    """W [x_1; ...; x_M], or W' gelu(W [x_1; ...; x_M]); an absent x_m is a learned vector.

    Args:
        config: sizes and options.
        widths: modality -> D.

    Examples:
        >>> import torch
        >>> from amodal.fusion import ConcatConfig
        >>> fusion = ConcatConfig(dim=8).build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 6), "audio": torch.randn(2, 4)}
        >>> present = {"image": torch.tensor([True, True]), "audio": torch.tensor([True, False])}
        >>> fusion(values, present).shape
        torch.Size([2, 8])
    """

    level = "vectors"

    def __init__(self, config: ConcatConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        self.absent = nn.ParameterDict({m: torch.zeros(d) for m, d in widths.items()})
        total = sum(widths.values())
        if config.hidden is None:
            self.layers: nn.Module = nn.Linear(total, config.dim)
        else:
            self.layers = nn.Sequential(
                nn.Linear(total, config.hidden),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.dim),
            )

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(B, D_m) and (B,) bool of every modality → (B, dim)."""
        found = cleared(values, present, self.widths, ndim=2)
        rows = [
            x if all_kept(there) else torch.where(there[:, None], x, self.absent[m].to(x.dtype))
            for m, (x, there) in found.items()
        ]
        fused: Tensor = self.layers(torch.cat(rows, dim=1))
        # Unused ones get a gradient of 0 instead of None, which data-parallel training waits for.
        unused = [self.absent[m] for m, (_, there) in found.items() if all_kept(there)]
        return fused + 0 * torch.cat(unused).sum().to(fused.dtype) if unused else fused


class ConcatTokensConfig(FusionBase):
    """Concatenated tokens in one sequence."""

    kind: Literal["concat_tokens"] = "concat_tokens"

    def build(self, widths: Widths) -> ConcatTokens:
        return ConcatTokens(self, widths)


class ConcatTokens(nn.Module):
    """Tokens projected to one width, plus a learned modality embedding, concatenated.

    They are mixed later, by a Transformer or by the pooling of the model.

    Args:
        config: sizes and options.
        widths: modality -> D.

    Examples:
        >>> import torch
        >>> from amodal.fusion import ConcatTokensConfig
        >>> fusion = ConcatTokensConfig(dim=8).build({"image": 6, "audio": 4})
        >>> values = {"image": torch.randn(2, 9, 6), "audio": torch.randn(2, 5, 4)}
        >>> keep = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in values.items()}
        >>> tokens, mask = fusion(values, keep)
        >>> tokens.shape, mask.shape
        (torch.Size([2, 14, 8]), torch.Size([2, 14]))
    """

    level = "tokens"

    def __init__(self, config: ConcatTokensConfig, widths: Widths) -> None:
        super().__init__()
        check_widths(widths)
        self.widths, self.dim = dict(widths), config.dim
        self.project = nn.ModuleDict({m: nn.Linear(d, config.dim) for m, d in widths.items()})
        self.modality = nn.ParameterDict({m: 0.02 * torch.randn(config.dim) for m in widths})

    def forward(
        self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, N_m, D_m) and (B, N_m) bool of every modality → (B, N, dim) and (B, N)."""
        found = cleared(values, keep, self.widths, ndim=3)
        tokens = [self.project[m](x) + self.modality[m] for m, (x, _) in found.items()]
        mask = torch.cat([mask for _, mask in found.values()], dim=1)
        return kept(torch.cat(tokens, dim=1), mask), mask

    def token_modalities(self) -> list[str]:
        """Modality of each run of output tokens."""
        return list(self.widths)
