"""Scaled dot-product attention, in the number format in which it is fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention, softmax(Q K' / sqrt(D)) V.

    Args:
        query: (B, H, N, D).
        key, value: (B, H, K, D).
        mask: bool, broadcasts to (B, H, N, K), True where a query may attend; None: everywhere.
        dropout: of the weights.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.device.type != "cpu" or not half:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    # On a CPU the backward pass of torch 2.15 takes six times as long in bfloat16.
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=mask, dropout_p=dropout
        )
