"""Cross-attention between token sequences, either of which may be empty."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Pre-norm cross-attention with a residual: x + Attention(LN(x), LN(context)).

    A row with an empty context is returned unchanged.

    Args:
        dim: D of both.
        heads: D must divide by it.
        dropout: of the attention weights.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, eq. 1.

    Examples:
        >>> import torch
        >>> from amodal.fusion import CrossAttention
        >>> attention = CrossAttention(dim=8, heads=2)
        >>> x, context = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
        >>> keep = torch.tensor([[True, True, True, False, False]])
        >>> attention(x, context, keep).shape, attention.weights(x, context, keep).shape
        (torch.Size([1, 3, 8]), torch.Size([1, 2, 3, 5]))
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """(B, N, D), (B, K, D) and (B, K) bool → (B, N, D)."""
        query, key, value, mask = self._projected(x, context, keep)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        attended = self.out(attended.transpose(1, 2).flatten(2))
        return x + attended * keep.any(1)[:, None, None]

    def weights(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """(B, H, N, K) attention weights over the context; 0 where it is empty."""
        query, key, _, mask = self._projected(x, context, keep)
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        found: Tensor = scores.masked_fill(~mask, -float("inf")).softmax(-1)
        return found * keep.any(1)[:, None, None, None]

    def _projected(
        self, x: Tensor, context: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        key, value = self.key_value(self.context_norm(context)).chunk(2, dim=-1)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.query(self.norm(x)), key, value)
        )
        # An empty context is unmasked, as a softmax over nothing is NaN; its output is dropped.
        mask = keep | ~keep.any(1, keepdim=True)
        return query, key, value, mask[:, None, None, :]


class FeedForward(nn.Module):
    """Pre-norm feed-forward layer with a residual: x + W' gelu(W LN(x))."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        found: Tensor = x + self.layers(x)
        return found


class AttentionLayer(nn.Module):
    """`CrossAttention`, then `FeedForward` of four times the width."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attend = CrossAttention(dim, heads, dropout)
        self.feed = FeedForward(dim, 4 * dim, dropout)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
        """(B, N, D), (B, K, D) and (B, K) bool → (B, N, D)."""
        found: Tensor = self.feed(self.attend(x, context, keep))
        return found
