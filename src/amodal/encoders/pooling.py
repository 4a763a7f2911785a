"""Pooling of tokens (B, N, D) to one vector (B, D)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.encoders.config import PoolingName


def build_pooling(name: PoolingName, width: int) -> nn.Module:
    """Pooling of that name for tokens of width D.

    Examples:
        >>> import torch
        >>> from amodal.encoders import build_pooling
        >>> build_pooling("attention", width=64)(torch.randn(2, 5, 64)).shape
        torch.Size([2, 64])
    """
    if name == "attention":
        return AttentionPooling(width)
    return {"mean": MeanPooling, "max": MaxPooling, "cls": FirstPooling, "last": LastPooling}[
        name
    ]()


class MeanPooling(nn.Module):
    """Mean of the tokens that are kept; zeros where none is.

    Examples:
        >>> import torch
        >>> from amodal.encoders import MeanPooling
        >>> tokens = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
        >>> keep = torch.tensor([[True, True, False]])  # the last token is padding
        >>> MeanPooling()(tokens, keep)
        tensor([[2., 3.]])
    """

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, D)."""
        if keep is None:
            return tokens.mean(dim=1)
        # Filled, not multiplied: padding may contain infinity or NaN.
        kept = tokens.masked_fill(~keep.unsqueeze(-1), 0)
        return kept.sum(dim=1) / keep.sum(dim=1, keepdim=True).clamp(min=1).to(tokens.dtype)


class MaxPooling(nn.Module):
    """Largest value per channel over the tokens that are kept; zeros where none is.

    Examples:
        >>> import torch
        >>> from amodal.encoders import MaxPooling
        >>> tokens = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
        >>> keep = torch.tensor([[True, True, False]])  # the last token is padding
        >>> MaxPooling()(tokens, keep)
        tensor([[3., 5.]])
    """

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, D)."""
        if keep is None:
            return tokens.amax(dim=1)
        lowest = torch.finfo(tokens.dtype).min
        largest = tokens.masked_fill(~keep.unsqueeze(-1), lowest).amax(dim=1)
        return largest.masked_fill(~keep.any(dim=1, keepdim=True), 0)


class FirstPooling(nn.Module):
    """The first token, as in BERT's [CLS]; zeros where it is not kept.

    Examples:
        >>> import torch
        >>> from amodal.encoders import FirstPooling
        >>> tokens = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
        >>> keep = torch.tensor([[True, True, False]])  # the last token is padding
        >>> FirstPooling()(tokens, keep)
        tensor([[1., 5.]])
    """

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, D)."""
        first = tokens[:, 0]
        return first if keep is None else first.masked_fill(~keep[:, :1], 0)


class LastPooling(nn.Module):
    """The last token that is kept, as for causal language models; zeros where none is.

    Examples:
        >>> import torch
        >>> from amodal.encoders import LastPooling
        >>> tokens = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
        >>> keep = torch.tensor([[True, True, False]])  # the last token is padding
        >>> LastPooling()(tokens, keep)
        tensor([[3., 1.]])
    """

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, D)."""
        if keep is None:
            return tokens[:, -1]
        place = torch.arange(keep.shape[1], device=keep.device)
        last = torch.where(keep, place, -1).amax(dim=1)  # (B,)
        chosen = tokens[torch.arange(len(tokens), device=tokens.device), last.clamp(min=0)]
        return chosen.masked_fill((last < 0).unsqueeze(-1), 0)


class AttentionPooling(nn.Module):
    """Multihead attention pooling: learned queries attend to the tokens.

    Args:
        width: D of the tokens; must divide by the head width of 32, else one head is used.
        queries: number of learned queries.

    References:
        Lee et al. 2019, arXiv:1810.00825, eq. 11 (pooling by multihead attention), without its
        feed-forward layers.

    Examples:
        >>> import torch
        >>> from amodal.encoders import AttentionPooling
        >>> pooling, tokens = AttentionPooling(width=8), torch.randn(2, 5, 8)
        >>> pooling(tokens).shape, pooling.weights(tokens).shape
        (torch.Size([2, 8]), torch.Size([2, 5]))
    """

    def __init__(self, width: int, queries: int = 1) -> None:
        super().__init__()
        self.heads = width // 32 if width % 32 == 0 else 1
        self.query = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(queries * width, width)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, D); zeros where no token is kept."""
        if keep is not None:  # a weight of zero times NaN in the padding would be NaN
            tokens = tokens.masked_fill(~keep.unsqueeze(-1), 0)
        batch, count, width = tokens.shape
        key, value = (
            self.key_value(tokens)
            .view(batch, count, 2, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )  # (B, H, N, D / H) each
        query = self.query.view(1, -1, self.heads, width // self.heads).transpose(1, 2)
        query = query.to(key.dtype).expand(batch, -1, -1, -1)
        mask = None if keep is None else _some_kept(keep)[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        pooled = self.out(attended.transpose(1, 2).flatten(1))
        return pooled if keep is None else pooled.masked_fill(~keep.any(dim=1, keepdim=True), 0)

    def weights(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, N) share of attention of each token, mean over heads.

        A row sums to 1, or to 0 where no token is kept.
        """
        if keep is not None:
            tokens = tokens.masked_fill(~keep.unsqueeze(-1), 0)
        batch, count, width = tokens.shape
        key = self.key_value(tokens)[..., :width].view(batch, count, self.heads, -1)
        query = self.query.view(-1, self.heads, width // self.heads).to(key.dtype)
        scores = torch.einsum("qhd,bnhd->bqhn", query, key) * (width // self.heads) ** -0.5
        if keep is not None:
            scores = scores.masked_fill(~_some_kept(keep)[:, None, None, :], -torch.inf)
        shares = scores.softmax(-1).mean((1, 2))
        return shares if keep is None else shares * keep.any(dim=1, keepdim=True)


def _some_kept(keep: Tensor) -> Tensor:
    """`keep`, with empty rows unmasked, as a softmax over nothing would be NaN."""
    return keep | ~keep.any(dim=1, keepdim=True)
