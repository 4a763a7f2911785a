"""Loss of predictions: of the fused head, of the unimodal heads, and their balance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.losses.balance import BalanceConfig, GradientBlendingConfig, blending_weights
from amodal.losses.config import Config
from amodal.losses.prediction import has_target, prediction_loss
from amodal.models.fusion_model import Prediction
from amodal.models.target import TargetConfig

FUSED = "fused"


class PredictionConfig(Config):
    """Cross-entropy, binary cross-entropies or squared error of the prediction of a fusion model.

    The unimodal heads are always trained, to measure each input by itself; with `unimodal_weight` 0
    their gradient stops before the encoders.
    """

    kind: Literal["prediction"] = "prediction"
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # of the target, classification only
    unimodal_weight: float = Field(0.0, ge=0)  # weight of the unimodal losses beside the fused one
    balance: BalanceConfig | None = None  # of inputs that learn at different speed


class PredictionObjective(nn.Module):
    """Fused loss + `unimodal_weight` x mean of the unimodal losses.

    With gradient blending the losses are weighted by how little they overfit instead, all equally
    until that has been measured.

    Args:
        config: weights and smoothing.
        target: the predicted column.
        modalities: inputs with a unimodal head.
    """

    shares: Tensor
    before: Tensor

    def __init__(
        self, config: PredictionConfig, target: TargetConfig, modalities: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.config, self.target, self.modalities = config, target, modalities
        heads = len(modalities) + 1
        # Part of the checkpoint, so that a resumed run goes on with what it had measured.
        self.register_buffer("shares", torch.full((heads,), 1.0 / heads))
        self.register_buffer("before", torch.full((2, heads), float("nan")))

    @property
    def reaches_encoders(self) -> bool:
        """Whether the unimodal losses move the encoders."""
        return self.config.unimodal_weight > 0 or isinstance(
            self.config.balance, GradientBlendingConfig
        )

    def forward(
        self, prediction: Prediction, target: Tensor, shares: Mapping[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and the loss of every head by name.

        Args:
            prediction: of B items.
            target: as `TargetConfig.encode` gives it.
            shares: head -> factor on its loss, where the items are a part of a larger batch.
        """
        values = {FUSED: self.loss(prediction.logits, target)}
        for modality, logits in prediction.unimodal.items():
            present = prediction.present[modality]
            values[modality] = self.loss(logits[present], target[present])
        if shares is not None:
            values = {head: shares[head] * value for head, value in values.items()}
        if isinstance(self.config.balance, GradientBlendingConfig):
            return self._blended(values), values
        unimodal = [value for head, value in values.items() if head != FUSED]
        total = values[FUSED]
        if unimodal:
            # Behind detached features the heads are trained at full weight: nothing else moves.
            total = total + (self.config.unimodal_weight or 1.0) * torch.stack(unimodal).mean()
        return self.config.weight * total, values

    def rows(self, present: Mapping[str, Tensor], target: Tensor) -> dict[str, int]:
        """Head -> number of rows that its loss is the mean of.

        Args:
            present: input -> (B,) bool.
            target: of the B items.
        """
        known = has_target(target, self.target.task)
        alone = {m: int((known & present[m]).sum()) for m in self.modalities}
        return {FUSED: int(known.sum()), **alone}

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one head."""
        return prediction_loss(
            self.target.standardize(logits),
            self.target.standardize(target),
            self.target.task,
            label_smoothing=self.config.label_smoothing,
        )

    @property
    def heads(self) -> tuple[str, ...]:
        return (FUSED, *self.modalities)

    def blend(self, train: Mapping[str, float], validation: Mapping[str, float]) -> None:
        """Set the weights from what each head learned since the last call, and how it overfitted.

        Args:
            train: head -> loss on training items now.
            validation: head -> loss on held-out items now.
        """
        now = torch.tensor(
            [[losses[head] for head in self.heads] for losses in (train, validation)],
            device=self.before.device,
        )
        if not bool(self.before.isnan().any()):
            steps = torch.stack([self.before, now], dim=-1).tolist()  # [split][head][checkpoint]
            pairs = [{h: (x[0], x[1]) for h, x in zip(self.heads, s, strict=True)} for s in steps]
            shares = blending_weights(*pairs)
            self.shares.copy_(torch.tensor([shares[head] for head in self.heads]))
        self.before.copy_(now)

    def blending(self) -> dict[str, float]:
        """The weights of gradient blending by head."""
        return dict(zip(self.heads, self.shares.tolist(), strict=True))

    def _blended(self, values: Mapping[str, Tensor]) -> Tensor:
        weighted = [
            self.shares[i] * values[head] for i, head in enumerate(self.heads) if head in values
        ]
        # Shares sum to 1; times the number of heads, the learning rate keeps its meaning.
        return self.config.weight * len(self.shares) * torch.stack(weighted).sum()
