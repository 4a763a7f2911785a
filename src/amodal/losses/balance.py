"""Keeping modalities in balance while they are learned together: gradients or losses reweighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class GradientModulationConfig(BaseModel):
    """On-the-fly gradient modulation: the encoder that is ahead takes smaller steps.

    The factor is on the step that the optimizer makes. For plain gradient descent that is the
    published factor on the gradient; Adam would undo a factor on the gradient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gradient_modulation"] = "gradient_modulation"
    alpha: float = Field(0.5, gt=0)  # how hard the leader is held back
    noise: bool = True  # add noise as large as the gradients, for generalization
    until: float = Field(1.0, gt=0, le=1)  # share of all steps during which it acts


class GradientBlendingConfig(BaseModel):
    """Gradient blending: the losses of heads are weighted by how little they overfit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gradient_blending"] = "gradient_blending"
    items: int = Field(2000, ge=2)  # training items on which overfitting is measured


BalanceConfig = Annotated[
    GradientModulationConfig | GradientBlendingConfig, Field(discriminator="kind")
]


def modulation(confidence: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Factors on the steps of each modality's encoder.

    With s_m how much probability modality m alone gives to the truth and rho_m = s_m / mean of the
    others' s, the factor is 1 - tanh(alpha rho_m) where rho_m > 1, else 1.

    Args:
        confidence: modality -> s_m >= 0, of two modalities or more.
        alpha: > 0.

    Returns:
        modality -> factor in (0, 1]; 1 for a single modality, and where nobody is confident.

    References:
        Peng et al. 2022, arXiv:2203.15332, eqs. 9 and 10, here for any number of modalities.
    """
    factors = {}
    for modality, own in confidence.items():
        others = [s for m, s in confidence.items() if m != modality]
        rest = sum(others) / len(others) if others else 0.0
        ratio = own / rest if rest > 0 else (float("inf") if own > 0 and others else 0.0)
        held = float(torch.tensor(alpha * ratio).tanh()) if ratio > 1 else 0.0
        # Never quite 0: an encoder that stands still cannot be caught up with.
        factors[modality] = max(1.0 - held, 1e-3)
    return factors


def truth_confidence(logits: Tensor, target: Tensor, task: str) -> float:
    """How sure predictions are of the truth, summed over the rows whose truth is known.

    Probability of the true class; for several classes the mean probability of what is true of each;
    for numbers exp(-squared error / 2), with both in deviations of the target.

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
    """Weights of the losses of heads, from what each learned and how much of it was overfitting.

    Between two checkpoints the validation loss of head k fell by G_k, and its distance from the
    training loss grew by O_k; w_k is proportional to max(G_k, 0) / O_k².

    Args:
        train: head -> training loss at the earlier and at the later checkpoint.
        validation: the same on held-out items.

    Returns:
        head -> weight; they sum to 1, and are equal where no head got better.

    References:
        Wang et al. 2020, arXiv:1905.12681, eq. 4.
    """
    raw = {}
    for head, (before, after) in validation.items():
        gained = before - after
        overfit = (after - train[head][1]) - (before - train[head][0])
        # One that did not overfit at all would get all the weight; a hundredth of what it gained
        # is the least that counts.
        least = max(0.01 * abs(gained), 1e-6)
        raw[head] = max(gained, 0.0) / max(abs(overfit), least) ** 2
    total = sum(raw.values())
    if total <= 0:
        return {head: 1.0 / len(raw) for head in raw}
    return {head: value / total for head, value in raw.items()}
