"""Transformer layers with key-value caches, and position ids and masks of packed sequences."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from amodal.encoders.attention import attend


class LayerSizes(Protocol):
    """Sizes shared by all layers: width D, number of heads, dropout rate."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def dropout(self) -> float: ...


class Memory(NamedTuple):
    """Encoder output that the decoder attends to.

    Args:
        tokens: (B, N, D).
        keep: (B, N) bool, False at padding and absent images.
    """

    tokens: Tensor
    keep: Tensor

    def select(self, rows: Tensor | slice) -> Memory:
        """The memory of these rows, in this order; a row may occur several times."""
        return Memory(self.tokens[rows], self.keep[rows])


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention with a residual connection and a key-value cache.

    References:
        Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (pre-norm).
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.heads = sizes.heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        """(B, L, D), (B, 1, L, S) bool → (B, L, D)."""
        batch, count, width = x.shape
        query, key, value = (
            self.query_key_value(self.norm(x))
            .view(batch, count, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        if cache is not None:
            own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            key, value = own.update(key, value, layer)
        attended = attend(query, key, value, mask)
        attended = attended.transpose(1, 2).reshape(batch, count, width)
        return x + cast(Tensor, self.dropout(self.out(attended)))


class CrossAttention(nn.Module):
    """Pre-norm multi-head cross-attention over encoder tokens with a residual connection.

    The keys and values of the memory are cached. Rows with an empty memory pass unchanged.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.heads = sizes.heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self, x: Tensor, memory: Memory, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        """(B, L, D) and the memory of B items → (B, L, D)."""
        batch, length, width = x.shape
        key, value = self._keys(memory, cache, layer)
        query = self.query(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        nonempty = memory.keep.any(1)
        mask = (memory.keep | ~nonempty[:, None])[:, None, None, :]
        attended = attend(query, key, value, mask).transpose(1, 2).reshape(batch, length, width)
        return x + cast(Tensor, self.dropout(self.out(attended))) * nonempty[:, None, None]

    def weights(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, H, L, N) attention weights of each position over the memory."""
        width = x.shape[2]
        key, _ = self._keys(memory, None, 0)
        query = self.query(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        mask = (memory.keep | ~memory.keep.any(1, keepdim=True))[:, None, None, :]
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)

    def _keys(self, memory: Memory, cache: Cache | None, layer: int) -> tuple[Tensor, Tensor]:
        if isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(layer):
            cached: Any = cache.cross_attention_cache.layers[layer]
            return cached.keys, cached.values
        batch, count, width = memory.tokens.shape
        key, value = (
            self.key_value(memory.tokens)
            .view(batch, count, 2, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        if isinstance(cache, EncoderDecoderCache):
            key, value = cache.cross_attention_cache.update(key, value, layer)
            cache.is_updated[layer] = True
        return key, value


class FeedForward(nn.Module):
    """x + W' gelu(W LN(x)) with a hidden width of 4 D."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm = nn.LayerNorm(width)
        self.inside = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        return x + cast(Tensor, self.dropout(self.out(F.gelu(self.inside(self.norm(x))))))


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.attention, self.feed = SelfAttention(sizes), FeedForward(sizes)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D), bool (B, 1, 1, N) → (B, N, D)."""
        return cast(Tensor, self.feed(self.attention(x, mask)))


class DecoderLayer(nn.Module):
    """Causal self-attention, optional cross-attention over the memory, a feed-forward network."""

    def __init__(self, sizes: LayerSizes, *, cross_attends: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(sizes)
        self.cross_attention = CrossAttention(sizes) if cross_attends else None
        self.feed = FeedForward(sizes)

    def forward(
        self, x: Tensor, mask: Tensor, memory: Memory | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """(B, L, D), bool (B, 1, L, S) → (B, L, D)."""
        x = self.attention(x, mask, cache, layer)
        if self.cross_attention is not None and memory is not None:
            x = self.cross_attention(x, memory, cache, layer)
        return cast(Tensor, self.feed(x))


def segment_positions(segment: Tensor) -> Tensor:
    """Position ids that start at 0 in every packed segment.

    Args:
        segment: (B, L) number of the segment of each token, 0 at padding.

    Returns:
        (B, L) int64, 0 at padding.

    Examples:
        >>> import torch
        >>> segment_positions(torch.tensor([[1, 1, 1, 2, 2, 0]])).tolist()
        [[0, 1, 2, 0, 1, 0]]
    """
    position = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    starts = torch.ones_like(segment, dtype=torch.bool)
    starts[:, 1:] = segment[:, 1:] != segment[:, :-1]
    start = torch.where(starts, position, 0).cummax(1).values
    return torch.where(segment > 0, position - start, 0)


def segment_mask(segment: Tensor, length: int) -> Tensor:
    """Causal attention mask within packed segments.

    Args:
        segment: (B, S) number of the segment of each token, 0 at padding.
        length: L, number of query positions at the end.

    Returns:
        (B, 1, L, S) bool, True where a query may attend.

    Examples:
        >>> import torch
        >>> segment_mask(torch.tensor([[1, 1, 2]]), 2)[0, 0].int().tolist()
        [[1, 1, 0], [0, 0, 1]]
    """
    size = segment.shape[1]
    causal = torch.ones(length, size, dtype=torch.bool, device=segment.device).tril(size - length)
    same = segment[:, -length:, None] == segment[:, None, :]
    # Padding attends to padding: a softmax over nothing is NaN.
    return (same & causal)[:, None]
