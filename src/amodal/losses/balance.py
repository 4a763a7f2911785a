"""Balanced multimodal training: gradient modulation, and blending of the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class GradientModulationConfig(BaseModel):
    """On-the-fly gradient modulation: the dominant modality's encoder takes smaller steps.

    The factor is on the step that the optimizer makes. For plain gradient descent that is the
    published factor on the gradient; Adam would undo a factor on the gradient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gradient_modulation"] = "gradient_modulation"
    alpha: float = Field(0.5, gt=0)  # strength of the modulation
    noise: bool = True  # add noise as large as the gradients, for generalization
    end_fraction: float = Field(1.0, gt=0, le=1)  # share of all steps during which it acts


class GradientBlendingConfig(BaseModel):
    """Gradient blending: the losses of heads are weighted by how little they overfit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gradient_blending"] = "gradient_blending"
    num_train_items: int = Field(2000, ge=2)  # training items on which overfitting is measured


BalanceConfig = Annotated[
    GradientModulationConfig | GradientBlendingConfig, Field(discriminator="kind")
]


def gradient_modulation_factors(confidence: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Factors on the optimizer steps of each modality's encoder.

    With s_m the probability that modality m alone gives to the target and rho_m = s_m / mean of the
    others' s, the factor is 1 - tanh(alpha rho_m) where rho_m > 1, else 1.

    Args:
        confidence: modality -> s_m >= 0, of two modalities or more.
        alpha: > 0.

    Returns:
        modality -> factor in (0, 1]; 1 for a single modality, and where all confidences are 0.

    References:
        Peng et al. 2022, arXiv:2203.15332, eqs. 9 and 10, here for any number of modalities.

    Examples:
        >>> from amodal.losses import gradient_modulation_factors
        >>> factors = gradient_modulation_factors({"image": 0.8, "audio": 0.4}, alpha=0.5)
        >>> {modality: round(factor, 3) for modality, factor in factors.items()}
        {'image': 0.238, 'audio': 1.0}
    """
    factors = {}
    for modality, own in confidence.items():
        others = [s for m, s in confidence.items() if m != modality]
        rest = sum(others) / len(others) if others else 0.0
        ratio = own / rest if rest > 0 else (float("inf") if own > 0 and others else 0.0)
        held = float(torch.tensor(alpha * ratio).tanh()) if ratio > 1 else 0.0
        # Never quite 0, so that no encoder stops learning.
        factors[modality] = max(1.0 - held, 1e-3)
    return factors


def truth_confidence(logits: Tensor, target: Tensor, task: str) -> float:
    """Confidence of predictions in the target, summed over the rows with a target.

    Classification: the probability of the true class. Multi-label: the mean over classes of the
    probability of the true value. Regression: exp(-squared error / 2), in standard deviations of
    the target.

    Args:
        logits: (B, C) scores, or (B, 1) numbers.
        target: as `prediction_loss` takes it.
    """
    wide = logits.detach().float()
    if task == "classification":
        known = target >= 0
        chosen = wide[known].softmax(1).gather(1, target[known][:, None])
        return float(chosen.sum())
    if task == "multi_label":
        known = ~target.isnan().any(1)
        p = wide[known].sigmoid()
        return float(torch.where(target[known] > 0.5, p, 1 - p).mean(1).sum())
    known = ~target.isnan()
    return float((-(wide[known][:, 0] - target[known]).square() / 2).exp().sum())


def blending_weights(
    train: Mapping[str, tuple[float, float]], validation: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Weights of the losses of the heads, from generalization and overfitting of each.

    Between two checkpoints the validation loss of head k fell by G_k, and its distance from the
    training loss grew by O_k; w_k is proportional to max(G_k, 0) / O_k².

    Args:
        train: head -> training loss at the earlier and at the later checkpoint.
        validation: the same on held-out items.

    Returns:
        head -> weight; they sum to 1, and are equal where no head improved.

    References:
        Wang et al. 2020, arXiv:1905.12681, eq. 4.

    Examples:
        >>> from amodal.losses import blending_weights
        >>> weights = blending_weights(
        ...     train={"image": (1.0, 0.2), "audio": (1.0, 0.7)},
        ...     validation={"image": (1.0, 0.9), "audio": (1.0, 0.8)},
        ... )
        >>> {head: round(weight, 3) for head, weight in weights.items()}
        {'image': 0.01, 'audio': 0.99}
    """
    raw = {}
    for head, (before, after) in validation.items():
        gain = before - after
        overfit = (after - train[head][1]) - (before - train[head][0])
        # A head without overfitting would get all the weight, so overfitting counts as at least a
        # hundredth of the gain.
        least = max(0.01 * abs(gain), 1e-6)
        raw[head] = max(gain, 0.0) / max(abs(overfit), least) ** 2
    total = sum(raw.values())
    if total <= 0:
        return {head: 1.0 / len(raw) for head in raw}
    return {head: value / total for head, value in raw.items()}
