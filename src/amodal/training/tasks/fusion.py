"""Runs of a fusion model: losses of the fused and unimodal heads, scores on held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from amodal.augment.modality import drop_modalities
from amodal.data.batch import Batch
from amodal.data.record import Source, readable_records
from amodal.distributed import gather_integers, world_size
from amodal.evaluators.loop import Autocast
from amodal.evaluators.prediction import (
    PredictionResult,
    evaluate_prediction,
    predict_items,
    prediction_metrics,
    score_name,
)
from amodal.evaluators.result import EvaluationResult
from amodal.losses.balance import (
    GradientBlendingConfig,
    GradientModulationConfig,
    gradient_modulation_factors,
    truth_confidence,
)
from amodal.models.fusion_model import (
    FusionArchitecture,
    FusionModel,
    Prediction,
    build_fusion_model,
)
from amodal.models.inputs import check_source, collator_of
from amodal.models.run_folder import read_definition
from amodal.training.initial_run import InitialRun
from amodal.training.prediction_objective import FUSED, PredictionConfig, PredictionObjective
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.fusion import FusionRecipe
from amodal.training.tasks.protocol import ModelCard, Step
from amodal.training.trained import Trained


class FusionRun:
    """Model, batches and task of a fusion model; see `protocol.Run`.

    Raises:
        DataError: the training source lacks an input, a column or the target.
    """

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, saved: Path | None
    ) -> None:
        options = cast(FusionRecipe, recipe.model)
        self.recipe, self.train, self.validation = recipe, train, validation
        check_source(options.types, options.encoders, train)
        self.notes: tuple[str, ...] = ()
        if saved is not None:
            self.model = read_definition(FusionModel, saved)
        else:
            self._build(options, train)
        config = cast(PredictionConfig, recipe.objectives[0])
        heads = tuple(self.model.unimodal)
        self.objective = PredictionObjective(config, self.model.target, heads)
        self.model.unimodal_reaches_encoders = self.objective.reaches_encoders
        rates = recipe.augment.modality_dropout
        self.collator = collator_of(
            self.model,
            steps=recipe.steps(),
            target=self.model.target,
            drop=partial(drop_modalities, rates=rates) if rates else None,
        )
        self.task = FusionTask(
            self.objective,
            train,
            micro_batch_size=recipe.train.micro_batch_size,
            validation=validation,
            max_validation_items=recipe.data.max_validation_items,
        )

    def _build(self, options: FusionRecipe, train: Source) -> None:
        """A new model, or one with the weights of another run."""
        initial = None
        if options.init_from is not None:
            initial = InitialRun.open(options.init_from, "fusion")
        architecture = FusionArchitecture(
            encoders=options.encoders,
            fusion=options.fusion,
            head=options.head,
            target=options.target if initial is None else initial.target(options.target),
        )
        self.model = build_fusion_model(
            architecture,
            partial(readable_records, train),
            preprocessors=initial.preprocessors(options.types) if initial is not None else None,
        )
        if initial is not None:
            self.notes = (initial.initialise(self.model, {}),)

    def trained(self) -> Trained:
        return Trained(self.model, self.objective, self.recipe.train.ema)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Nothing is fitted after the weights."""

    def evaluate(
        self, model: FusionModel, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], dict[str, EvaluationResult]]:
        """Predictions of the validation source."""
        assert self.validation is not None
        result = evaluate_prediction(
            model,
            self.validation,
            seed=self.recipe.train.seed,
            autocast=autocast,
            tick=callbacks.advance,
        )
        return dict(result.metrics), {"prediction": result}

    def card(self, metrics: dict[str, float]) -> ModelCard:
        score = score_name(self.model.target)
        shown = {n: v for n, v in metrics.items() if n.count("/") == 1 or n.endswith(f"/{score}")}
        return ModelCard(
            title="A fusion model",
            usage='predicted = model.predict([{"image": "a.jpg", "text": ["a caption"]}])',
            pipeline_tag="other",
            metrics=shown,
        )


class FusionTask:
    """The prediction objective in micro-batches; the best weights predict best.

    Args:
        objective: the losses and their balance.
        train: source on whose first items overfitting is measured, for gradient blending.
        micro_batch_size: items encoded at once; None: the whole batch.
        validation: source to measure on, or None.
        max_validation_items: so many of its first items; None: all.
    """

    def __init__(
        self,
        objective: PredictionObjective,
        train: Source,
        *,
        micro_batch_size: int | None = None,
        validation: Source | None = None,
        max_validation_items: int | None = None,
    ) -> None:
        self.objective = objective
        self.train = train
        self.micro_batch_size = micro_batch_size
        self.validation = validation
        self.has_validation = validation is not None
        self.max_validation_items = max_validation_items
        self.score_name = f"prediction/{score_name(objective.target)}"
        self.logged: dict[str, list[Tensor]] = {}
        # parameter, its value before the step, factor on the step
        self.held_back: list[tuple[nn.Parameter, Tensor, float]] = []

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; the losses are means over rows, so parts add up exactly.

        Batch normalization sees the parts, not the whole.
        """
        parts = batch.split(self.micro_batch_size or len(batch))
        shares = self._shares(parts)
        total = torch.zeros((), device=batch.item.device)
        confidence: dict[str, Tensor] = {}
        balance = self.objective.config.balance
        modulates = isinstance(balance, GradientModulationConfig) and (
            step.number < balance.end_fraction * step.steps
        )
        of_heads: dict[str, Tensor] = {}
        for part, share in zip(parts, shares, strict=True):
            with step.autocast():
                predicted = step.trained(part)
            loss, values = self._loss(predicted, part, share)
            for head, value in values.items():
                of_heads[head] = of_heads.get(head, torch.zeros_like(total)) + value.detach()
            for modality in predicted.unimodal if modulates else ():
                sums = self._confidence(predicted, part, modality)
                confidence[modality] = confidence.get(modality, torch.zeros_like(sums)) + sums
            total = total + loss.detach()
            step.backward(loss)
        step.average_gradients()
        for head, value in of_heads.items():
            self.logged.setdefault(f"loss/{head}", []).append(value)
        if modulates:
            assert isinstance(balance, GradientModulationConfig)
            self._modulate(balance, confidence, step)
        return total

    def _shares(self, parts: Sequence[Batch]) -> list[dict[str, float]]:
        """The factor on the loss of each head in each part of the batch.

        The loss of a head is a mean over rows of all parts and processes. The gradient is averaged
        over processes, so what each of them contributes counts as often as there are processes.
        """
        rows = []
        for part in parts:
            assert part.target is not None
            present = {m: mask[:, 0] for m, mask in part.present.items()}
            rows.append(self.objective.rows(present, part.target))
        own = [sum(part[head] for part in rows) for head in self.objective.heads]
        whole = [sum(column) for column in zip(*gather_integers(own), strict=True)]
        factor = {
            head: world_size() / max(count, 1)
            for head, count in zip(self.objective.heads, whole, strict=True)
        }
        if len(rows) == world_size() == 1:
            return [dict.fromkeys(rows[0], 1.0)]  # without rounding
        return [{head: count * factor[head] for head, count in part.items()} for part in rows]

    def _loss(
        self, predicted: Prediction, part: Batch, shares: dict[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert part.target is not None
        with torch.autocast(part.item.device.type, enabled=False):
            found: tuple[Tensor, dict[str, Tensor]] = self.objective(predicted, part.target, shares)
        return found

    def _confidence(self, predicted: Prediction, part: Batch, modality: str) -> Tensor:
        assert part.target is not None
        present = predicted.present[modality]
        target = self.objective.target
        confidence = truth_confidence(
            target.standardize(predicted.unimodal[modality][present].detach()),
            target.standardize(part.target[present]),
            target.task,
        )
        # Per present item: a modality that is often missing is not thereby behind.
        return torch.tensor([confidence, float(present.sum())], device=part.item.device)

    def _modulate(
        self, balance: GradientModulationConfig, confidence: dict[str, Tensor], step: Step
    ) -> None:
        if world_size() > 1:
            for sums in confidence.values():
                torch.distributed.all_reduce(sums)
        means = {m: float(s[0] / s[1].clamp(min=1)) for m, s in confidence.items()}
        factors = gradient_modulation_factors(means, balance.alpha)
        generator = torch.Generator(device=self.objective.shares.device)
        generator.manual_seed(step.number)  # the same on every process
        network = cast(FusionModel, step.trained.network)
        for modality, factor in factors.items():
            noted = torch.tensor(factor, device=generator.device)
            self.logged.setdefault(f"gradient_modulation/{modality}", []).append(noted)
            for part in (network.encoders[modality], network.poolings[modality]):
                if balance.noise:
                    _add_noise(part, generator)
                if factor < 1:
                    self.held_back += [
                        (p, p.detach().clone(), factor)
                        for p in part.parameters()
                        if p.grad is not None
                    ]

    @torch.no_grad()
    def after_step(self, trained: Trained) -> None:
        """Move what was held back only part of the way that the optimizer went.

        A factor on the gradient would do nothing: Adam divides by the gradient's own size.
        """
        for parameter, before, factor in self.held_back:
            parameter.copy_(torch.lerp(before, parameter, factor))
        self.held_back.clear()

    def log_metrics(self) -> dict[str, float]:
        """Means since the last call: losses of the heads, factors of modulation, blending."""
        found = {name: float(torch.stack(v).mean()) for name, v in self.logged.items()}
        self.logged.clear()
        if isinstance(self.objective.config.balance, GradientBlendingConfig):
            found |= {
                f"blending_weight/{h}": share for h, share in self.objective.blending().items()
            }
        return found

    def evaluate(self, model: PreTrainedModel, autocast: Autocast) -> dict[str, float]:
        """Scores on the validation source; the weights of gradient blending are set anew."""
        assert self.validation is not None
        fusion = cast(FusionModel, model)
        held_out = self._predicted(fusion, self.validation, self.max_validation_items, autocast)
        balance = self.objective.config.balance
        if isinstance(balance, GradientBlendingConfig):
            trained_on = self._predicted(fusion, self.train, balance.num_train_items, autocast)
            self.objective.blend(self._losses(trained_on), self._losses(held_out))
        return prediction_metrics(held_out, fusion.target)

    def _predicted(
        self,
        model: FusionModel,
        source: Source,
        items: int | None,
        autocast: Autocast,
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
