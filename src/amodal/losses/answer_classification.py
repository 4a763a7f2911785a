"""The loss of choosing the right answers from a closed list, people agreeing or not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def answer_classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over questions of the sum over answers of the binary cross-entropy.

    Args:
        logits: (Q, A) a score per question and answer.
        targets: (Q, A) in [0, 1], min(people who gave the answer / 3, 1). A question of which
            every target is 0 gives no loss: its answers are outside the list.

    Returns:
        () in float32 or wider; 0 with a gradient of 0 where no question has an answer.

    References:
        Teney et al. 2017, arXiv:1708.02711, eq. 5; Anderson et al. 2017, arXiv:1707.07998.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"scores {tuple(logits.shape)} and targets {tuple(targets.shape)} differ")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    inside = (targets > 0).any(1)
    if not bool(inside.any()):
        return wide.sum() * 0.0
    each = F.binary_cross_entropy_with_logits(
        wide[inside], targets[inside].to(wide.dtype), reduction="none"
    )
    return each.sum(1).mean()
