"""The loss of saying the right tokens."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from amodal.losses.config import Config


class LanguageModelingConfig(Config):
    """Cross-entropy of the tokens that are to be said, each given all before it."""

    kind: Literal["language_modeling"] = "language_modeling"
    smoothing: float = Field(0.0, ge=0, lt=1)  # share of the target spread over the vocabulary
    per: Literal["token", "exchange"] = "token"  # what counts the same: tokens, or whole exchanges


def language_modeling_loss(
    logits: Tensor,
    labels: Tensor,
    conversation: Tensor,
    *,
    smoothing: float = 0.0,
    per: Literal["token", "exchange"] = "token",
) -> Tensor:
    """Mean over tokens, or over exchanges of the mean over their tokens, of -log p(token).

    Args:
        logits: (T, V).
        labels: (T,) int64.
        exchange: (T,) int64 key of the exchange that each token belongs to.
        smoothing: share of the target that is spread over the vocabulary.
        per: see above.

    Returns:
        () in float32 or wider; 0 with a gradient of 0 where nothing is to be said.

    References:
        Sutskever et al. 2014, arXiv:1409.3215, eq. 1; Szegedy et al. 2015, arXiv:1512.00567,
        section 7 (smoothing).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not len(labels):
        return wide.sum() * 0.0
    each = F.cross_entropy(wide, labels, label_smoothing=smoothing, reduction="none")
    if per == "token":
        return each.mean()
    _, place, count = conversation.unique(return_inverse=True, return_counts=True)
    return (each / count[place]).sum() / len(count)
