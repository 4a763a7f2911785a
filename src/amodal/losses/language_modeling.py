"""Language-modelling loss: cross-entropy of the target tokens."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from amodal.losses.config import Config


class LanguageModelingConfig(Config):
    """Cross-entropy of the target tokens, each given the tokens before it.

    Examples:
        >>> LanguageModelingConfig(average_over="conversation").label_smoothing
        0.0
    """

    kind: Literal["language_modeling"] = "language_modeling"
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # label smoothing
    average_over: Literal["token", "conversation"] = "token"  # unit of the average


def language_modeling_loss(
    logits: Tensor,
    labels: Tensor,
    conversation: Tensor,
    *,
    label_smoothing: float = 0.0,
    average_over: Literal["token", "conversation"] = "token",
) -> Tensor:
    """Mean of -log p(token) over tokens, or over conversations of the mean over their tokens.

    Args:
        logits: (T, V).
        labels: (T,) int64 target tokens.
        conversation: (T,) int64 key of the conversation of each token.
        label_smoothing: share of the target distribution that is uniform over the vocabulary.
        average_over: "conversation" gives a long caption the weight of a short answer.

    Returns:
        () in nats, float32 or wider; 0 with a gradient of 0 where there are no targets.

    Examples:
        >>> import torch
        >>> from amodal.losses import language_modeling_loss
        >>> logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 3])
        >>> loss = language_modeling_loss(logits, labels, torch.tensor([0, 0, 1]))
        >>> round(float(loss), 4)  # log 4
        1.3863

    References:
        Sutskever et al. 2014, arXiv:1409.3215, eq. 1; Szegedy et al. 2015, arXiv:1512.00567,
        section 7 (smoothing).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not len(labels):
        return wide.sum() * 0.0
    per_token = F.cross_entropy(wide, labels, label_smoothing=label_smoothing, reduction="none")
    if average_over == "token":
        return per_token.mean()
    _, index, count = conversation.unique(return_inverse=True, return_counts=True)
    return (per_token / count[index]).sum() / len(count)
