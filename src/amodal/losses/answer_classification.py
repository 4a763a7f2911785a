"""Answer classification loss: binary cross-entropy with soft targets from several annotators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def answer_classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over questions of the sum over answers of the binary cross-entropy.

    Args:
        logits: (Q, A) over the answer vocabulary.
        targets: (Q, A) in [0, 1], min(annotators with the answer / 3, 1). Questions whose targets
            are all 0, their answers being out of vocabulary, are left out.

    Returns:
        () in nats, float32 or wider; 0 with a gradient of 0 where no question is left.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> from amodal.losses import answer_classification_loss
        >>> targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> round(float(answer_classification_loss(torch.zeros(2, 2), targets)), 4)  # 2 log 2
        1.3863

    References:
        Teney et al. 2017, arXiv:1708.02711, eq. 5; Anderson et al. 2017, arXiv:1707.07998.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} differ")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    in_vocabulary = (targets > 0).any(1)
    if not bool(in_vocabulary.any()):
        return wide.sum() * 0.0
    losses = F.binary_cross_entropy_with_logits(
        wide[in_vocabulary], targets[in_vocabulary].to(wide.dtype), reduction="none"
    )
    return losses.sum(1).mean()
