"""Learning to predict from several modalities: losses of the heads, figures on held-out items."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.data.batch import Batch
from amodal.data.record import Source
from amodal.distributed import world_size
from amodal.evaluators.prediction import (
    PredictionResult,
    predict_items,
    prediction_metrics,
    score_name,
)
from amodal.losses.balance import (
    GradientBlendingConfig,
    GradientModulationConfig,
    modulation,
    truth_confidence,
)
from amodal.models.fusion_model import FusionModel, Prediction
from amodal.models.opening import RunModel
from amodal.training.prediction_objective import FUSED, PredictionObjective
from amodal.training.trainer import Step, Trained


class FusionTask:
    """The prediction objective in micro-batches; the best weights predict best.

    Args:
        objective: the losses and their balance.
        train: source on whose first items overfitting is measured, for gradient blending.
        chunk: items encoded at once; None: the whole batch.
        validation: source to measure on, or None.
        validation_items: so many of its first items; None: all.
    """

    def __init__(
        self,
        objective: PredictionObjective,
        train: Source,
        *,
        chunk: int | None = None,
        validation: Source | None = None,
        validation_items: int | None = None,
    ) -> None:
        self.objective = objective
        self.train = train
        self.chunk = chunk
        self.validation = validation
        self.measures = validation is not None
        self.validation_items = validation_items
        self.score_name = f"prediction/{score_name(objective.target)}"
        self.told: dict[str, list[Tensor]] = {}
        # parameter, its value before the step, factor on the step
        self.held: list[tuple[nn.Parameter, Tensor, float]] = []

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; the loss is a mean, so parts of the batch add up exactly.

        Batch normalization sees the parts, not the whole.
        """
        parts = batch.split(self.chunk or len(batch))
        total = torch.zeros((), device=batch.item.device)
        confidence: dict[str, Tensor] = {}
        balance = self.objective.config.balance
        modulates = isinstance(balance, GradientModulationConfig) and (
            step.number < balance.until * step.steps
        )
        for i, part in enumerate(parts):
            share = len(part) / len(batch)
            with step.autocast():
                said = step.model(part)
            loss, values = self._loss(said, part, step)
            for head, value in values.items():
                self.told.setdefault(f"loss/{head}", []).append(value.detach())
            for modality in said.unimodal if modulates else ():
                sure = self._confidence(said, part, modality)
                confidence[modality] = confidence.get(modality, torch.zeros_like(sure)) + sure
            total = total + share * loss.detach()
            if i < len(parts) - 1:
                with step.no_sync():
                    step.backward(share * loss)
            else:
                step.backward(share * loss)
        if modulates:
            assert isinstance(balance, GradientModulationConfig)
            self._modulate(balance, confidence, step)
        return total

    def _loss(self, said: Prediction, part: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        assert part.target is not None
        with torch.autocast(part.item.device.type, enabled=False):
            found: tuple[Tensor, dict[str, Tensor]] = self.objective(said, part.target)
        return found

    def _confidence(self, said: Prediction, part: Batch, modality: str) -> Tensor:
        assert part.target is not None
        there = said.present[modality]
        target = self.objective.target
        sure = truth_confidence(
            target.standard(said.unimodal[modality][there].detach()),
            target.standard(part.target[there]),
            target.task,
        )
        # Per item that is there: a modality that is often missing is not thereby behind.
        return torch.tensor([sure, float(there.sum())], device=part.item.device)

    def _modulate(
        self, balance: GradientModulationConfig, confidence: dict[str, Tensor], step: Step
    ) -> None:
        if world_size() > 1:
            for sums in confidence.values():
                torch.distributed.all_reduce(sums)
        means = {m: float(s[0] / s[1].clamp(min=1)) for m, s in confidence.items()}
        factors = modulation(means, balance.alpha)
        generator = torch.Generator(device=self.objective.shares.device)
        generator.manual_seed(step.number)  # the same on every process
        network = cast(FusionModel, step.trained.network)
        for modality, factor in factors.items():
            self.told.setdefault(f"modulation/{modality}", []).append(torch.tensor(factor))
            for part in (network.encoders[modality], network.poolings[modality]):
                if balance.noise:
                    _add_noise(part, generator)
                if factor < 1:
                    self.held += [
                        (p, p.detach().clone(), factor)
                        for p in part.parameters()
                        if p.grad is not None
                    ]

    @torch.no_grad()
    def after_step(self, trained: Trained) -> None:
        """What was held back goes only part of the way that the optimizer went.

        A factor on the gradient would do nothing: Adam divides by the gradient's own size.
        """
        for parameter, before, factor in self.held:
            parameter.copy_(torch.lerp(before, parameter, factor))
        self.held.clear()

    def figures(self) -> dict[str, float]:
        """Means since the last call: losses of the heads, factors of modulation, blending."""
        found = {name: float(torch.stack(v).mean()) for name, v in self.told.items()}
        self.told.clear()
        if isinstance(self.objective.config.balance, GradientBlendingConfig):
            found |= {f"blending/{h}": share for h, share in self.objective.blending().items()}
        return found

    def measure(
        self, model: RunModel, autocast: Callable[[], AbstractContextManager[object]]
    ) -> dict[str, float]:
        """Figures on the validation source; gradient blending is set anew."""
        assert self.validation is not None
        assert isinstance(model, FusionModel)
        held_out = self._predicted(model, self.validation, self.validation_items, autocast)
        balance = self.objective.config.balance
        if isinstance(balance, GradientBlendingConfig):
            seen = self._predicted(model, self.train, balance.items, autocast)
            self.objective.blend(self._losses(seen), self._losses(held_out))
        return prediction_metrics(held_out, model.target)

    def _predicted(
        self,
        model: FusionModel,
        source: Source,
        items: int | None,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> PredictionResult:
        rows = range(min(items or len(source), len(source)))
        return predict_items(model, source, items=rows, autocast=autocast)

    def _losses(self, predicted: PredictionResult) -> dict[str, float]:
        found = {FUSED: float(self.objective.loss(predicted.logits, predicted.target))}
        for modality, logits in predicted.unimodal.items():
            there = predicted.present[modality]
            found[modality] = float(self.objective.loss(logits[there], predicted.target[there]))
        return found


@torch.no_grad()
def _add_noise(module: nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters():
        gradient: Any = parameter.grad
        if gradient is not None and gradient.numel() > 1:
            drawn = torch.randn(gradient.shape, generator=generator, device=gradient.device)
            gradient.add_(drawn.to(gradient.dtype) * gradient.std())
