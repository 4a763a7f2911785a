"""Distillation: a small model learns from a larger one's embeddings of the same items."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.config import Config


def similarity_distillation(
    left: Tensor,
    right: Tensor,
    teacher_left: Tensor,
    teacher_right: Tensor,
    log_scale: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """Mean over rows of KL(teacher || student) between softmaxes over the other side's rows.

    With T = softmax(t_left . t_right / temperature) and S = softmax(exp(log_scale) l . r) along
    the rows, sum of T (log T - log S); then the same along the columns; then their mean. Widths
    of teacher and student may differ. It is 0 where both distributions are equal. Besides the
    pairs it teaches the similarity of every row to all others.

    Args:
        left: (N, E) unit-norm embeddings of the student.
        right: (M, E).
        teacher_left: (N, T) unit-norm embeddings of the teacher, without a gradient.
        teacher_right: (M, T).
        log_scale: () natural log of the student's inverse temperature.
        temperature: of the teacher.

    Returns:
        () loss in nats, float32 or wider; 0 without rows.

    Raises:
        ValueError: teacher and student have different numbers of rows.

    References:
        Hinton et al. 2015, arXiv:1503.02531, section 2.
        Yang et al. 2023, arXiv:2307.12732, section 3.3 (contrastive relations).

    Examples:
        >>> import torch
        >>> from amodal.losses import similarity_distillation
        >>> z, scale = torch.eye(4), torch.tensor(3.0)
        >>> teacher = (torch.eye(6)[:4], torch.eye(6)[:4])  # another width
        >>> loss = similarity_distillation(z, z, *teacher, scale, temperature=0.05)
        >>> round(loss.item(), 4)
        0.0
    """
    if len(left) != len(teacher_left) or len(right) != len(teacher_right):
        raise ValueError(
            f"the student has {len(left)} and {len(right)} rows, "
            f"the teacher {len(teacher_left)} and {len(teacher_right)}"
        )
    with torch.autocast(left.device.type, enabled=False):
        left, right = _wide(left), _wide(right)
        student = left @ right.T * log_scale.to(left.dtype).exp()  # (N, M)
        teacher = _wide(teacher_left).to(left) @ _wide(teacher_right).to(left).T / temperature
        if not student.numel():
            return (left.sum() + right.sum() + log_scale) * 0.0
        return (_divergence(student, teacher) + _divergence(student.T, teacher.T)) / 2


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of 1 - cos(student, teacher): the student learns the teacher's space.

    An index made with the teacher can then be searched with the student.

    Args:
        student: (N, E) unit-norm embeddings.
        teacher: (N, E), without a gradient.

    Returns:
        () loss from 0 to 2; 0 without rows.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> from amodal.losses import feature_distillation
        >>> student, teacher = torch.eye(3), torch.eye(3)[[0, 1, 0]]
        >>> round(feature_distillation(student, teacher).item(), 3)
        0.333
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}")
    student, teacher = _wide(student), _wide(teacher)
    if not len(student):
        return student.sum() * 0.0
    return (1 - (student * F.normalize(teacher, dim=1)).sum(1)).mean()


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


class DistillationConfig(Config):
    """A teacher's embeddings of the training rows, from `amodal embed`.

    `form`: "similarity" distils the similarities between the rows of two modalities, "feature" the
    embedding itself, for which the widths must be equal.
    """

    kind: Literal["distillation"] = "distillation"
    teacher: str  # folder that `amodal embed` has written
    # similarities of two inputs, or the embeddings themselves
    form: Literal["similarity", "feature"] = "similarity"
    temperature: float = Field(0.05, gt=0)  # of the teacher, and initial one of the student
    min_temperature: float = Field(0.01, gt=0)  # lower bound of the learned temperature

    def build(self, dim: int | None = None) -> Distillation:
        return Distillation(
            form=self.form, temperature=self.temperature, min_temperature=self.min_temperature
        )


class Distillation(nn.Module):
    """`similarity_distillation` with a learned, bounded temperature, or `feature_distillation`.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.losses import Distillation
        >>> loss = Distillation(form="similarity", temperature=0.05)
        >>> image, text = (normalize(torch.randn(8, 16), dim=1) for _ in range(2))
        >>> teacher_image, teacher_text = (normalize(torch.randn(8, 32), dim=1) for _ in range(2))
        >>> loss(image, text, teacher_image, teacher_text).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        form: Literal["similarity", "feature"],
        temperature: float,
        min_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        self.form = form
        self.temperature = temperature
        self.max_log_scale = -math.log(min(min_temperature, temperature))
        self.log_scale: nn.Parameter | None = None
        if form == "similarity":
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self, left: Tensor, right: Tensor, teacher_left: Tensor, teacher_right: Tensor
    ) -> Tensor:
        """Loss of (N, E) and (M, E) rows beside the teacher's of the same values."""
        if self.log_scale is None:
            terms = [
                feature_distillation(rows, teacher)
                for rows, teacher in ((left, teacher_left), (right, teacher_right))
            ]
            return torch.stack(terms).mean()
        return similarity_distillation(
            left,
            right,
            teacher_left,
            teacher_right,
            self.log_scale,
            temperature=self.temperature,
        )

    @torch.no_grad()
    def constrain_(self) -> None:
        """Put the temperature back above its floor; call after each optimizer step."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=self.max_log_scale)
