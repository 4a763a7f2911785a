"""Losses of classification, multi-label classification and regression with missing targets."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Task = Literal["classification", "multi_label", "regression"]


def prediction_loss(
    logits: Tensor, target: Tensor, task: Task, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean loss over the rows with a target; rows without one are ignored.

    - "classification": cross-entropy, with `label_smoothing` of the target spread over all classes.
    - "multi_label": mean over classes of the binary cross-entropies.
    - "regression": squared error.

    Args:
        logits: (B, C) scores, or (B, 1) numbers.
        target: (B,) int64, -100 where unknown; (B, C) of 0 and 1, NaN where unknown; or (B,)
            numbers, NaN where unknown.
        task: see above.
        label_smoothing: share of the target, classification alone.

    Returns:
        () in float32 or wider; 0 with a gradient of 0 where no target is known.

    Raises:
        ValueError: the shapes do not fit together.

    Examples:
        >>> import torch
        >>> from amodal.losses import prediction_loss
        >>> logits = torch.zeros(3, 2)
        >>> target = torch.tensor([0, 1, -100])  # the last target is unknown
        >>> round(prediction_loss(logits, target, "classification").item(), 4)
        0.6931
        >>> target = torch.tensor([2.0, float("nan")])
        >>> prediction_loss(torch.zeros(2, 1), target, "regression").item()
        4.0
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if task == "classification":
        fits, known = target.shape == wide.shape[:1], target >= 0
    elif task == "multi_label":
        fits, known = target.shape == wide.shape, ~target.isnan().reshape(len(target), -1).any(1)
    else:
        fits, known = target.shape == wide.shape[:1] and wide.shape[1] == 1, ~target.isnan()
    if not fits:
        raise ValueError(
            f"{task}: logits {tuple(logits.shape)} and targets {tuple(target.shape)} do not fit"
        )
    wide, target = wide[known], target[known]
    if not len(wide):
        return wide.sum() * 0.0
    if task == "classification":
        return F.cross_entropy(wide, target, label_smoothing=label_smoothing)
    if task == "multi_label":
        return F.binary_cross_entropy_with_logits(wide, target.to(wide))
    return F.mse_loss(wide[:, 0], target.to(wide))
