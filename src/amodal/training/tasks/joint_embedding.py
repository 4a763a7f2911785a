"""Runs of a joint embedding: objectives over the rows of a batch, recall on held-out items."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from amodal.alignment.normalization import Normalization
from amodal.data.atomic import staged_files
from amodal.data.batch import Batch
from amodal.data.record import DataError, Source, readable_records
from amodal.evaluators.embedding import embed_items
from amodal.evaluators.interpretation import START
from amodal.evaluators.loop import Autocast
from amodal.evaluators.result import EvaluationResult
from amodal.evaluators.retrieval import evaluate_retrieval, mean_recall
from amodal.modalities.registry import modality
from amodal.models.inputs import check_source, collator_of
from amodal.models.joint_embedding import (
    NORMALIZATION,
    Architecture,
    Embeddings,
    JointEmbedding,
    JointEmbeddingConfig,
    build_joint_embedding,
    concatenate,
    extended,
)
from amodal.models.run_folder import read_definition
from amodal.training.errors import TrainingError
from amodal.training.initial_run import InitialRun
from amodal.training.objectives import Objectives
from amodal.training.optim.grad_cache import backward_in_chunks
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.joint_embedding import JointEmbeddingRecipe
from amodal.training.tasks.protocol import ModelCard, Step
from amodal.training.trained import Trained

MomentumRows = dict[str, Embeddings] | None  # rows of the momentum encoder


class JointEmbeddingRun:
    """Model, batches and task of a joint embedding; see `protocol.Run`.

    Raises:
        DataError: the training source lacks an input of the model.
    """

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, saved: Path | None
    ) -> None:
        options = cast(JointEmbeddingRecipe, recipe.model)
        self.recipe, self.options, self.train, self.validation = recipe, options, train, validation
        # Of a base, an input that the source lacks is not trained and need not be there.
        frozen = options.base_inputs
        needed = {name: kind for name, kind in options.types.items() if name not in frozen}
        check_source(needed, options.encoders, train)
        records = partial(readable_records, train)
        self.architecture = Architecture(
            encoders=options.new_encoders,
            dual_encoder=options.dual_encoder if options.base is None else None,
            projection=options.projection,
        )
        initial = None
        if saved is not None:
            self.model = read_definition(JointEmbedding, saved)
            self.model.freeze_base()
        elif options.init_from is not None:
            initial = InitialRun.open(options.init_from, "joint_embedding")
            fitted = initial.preprocessors(options.types)
            self.model = build_joint_embedding(self.architecture, records, preprocessors=fitted)
        else:
            if options.base is None:
                self.model = build_joint_embedding(self.architecture, records)
            else:
                base = JointEmbedding.from_pretrained(options.base)
                self.model = extended(base, self.architecture, records)
            for name in options.new_encoders:
                encoder: Any = self.model.encoders[name]
                kind = modality(self.model.types[name])
                kind.initialise(encoder, self.model.preprocessors[name], name, records)
        self.collator = collator_of(
            self.model,
            captions=recipe.data.captions_per_item,
            views=recipe.data.views_per_item,
            steps=recipe.steps(),
        )
        dual = self.model.dual
        self.objectives = Objectives(
            recipe.objectives,
            dim=self.model.dim,
            pairs=options.trained_pairs,
            initial_log_scale=getattr(dual, "initial_log_scale", None) if dual else None,
        )
        self.notes: tuple[str, ...] = ()
        if initial is not None:
            learned = self.objectives.weights_by_name()
            self.notes = (initial.initialise(self.model, learned),)
        if any(self.objectives.by_label) and all(r.get("label") is None for r in records()):
            raise DataError(
                f"{train.name}: positives: label needs records with a label, and none has one"
            )
        self.task = JointEmbeddingTask(
            self.objectives,
            micro_batch_size=recipe.train.micro_batch_size,
            validation=validation,
            max_validation_items=recipe.data.max_validation_items,
        )

    def trained(self) -> Trained:
        ema = self.recipe.train.ema
        return Trained(self.model, self.objectives, ema, self.objectives.momentum)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Fit the recipe's normalization on the training rows and keep it with the run.

        Raises:
            TrainingError: no objective found anything to compare.
        """
        idle = self.objectives.idle()
        if idle and not self.objectives.compared:
            raise TrainingError(
                f"{', '.join(idle)} found nothing to compare in any batch, so nothing was learned; "
                "do items have values of two inputs?"
            )
        for name in idle:
            callbacks.warn(f"the objective {name} found nothing to compare in any batch")
        if not self.options.normalization:
            return
        callbacks.stage("normalization", len(self.train))
        shutil.rmtree(folder / NORMALIZATION, ignore_errors=True)  # of an attempt that was cut off
        model = JointEmbedding.from_pretrained(folder)
        model.to(self.model.device)  # type: ignore[arg-type]
        embedded = embed_items(model, self.train, tick=callbacks.advance, autocast=autocast)
        fitted = Normalization(self.options.normalization)
        fitted.fit(
            {name: rows.z for name, rows in embedded.rows.items()},
            {name: rows.item for name, rows in embedded.rows.items()},
        )
        with staged_files(folder) as staged:
            fitted.save(staged / NORMALIZATION)

    def evaluate(
        self, model: JointEmbedding, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], dict[str, EvaluationResult]]:
        """Retrieval on the validation source."""
        assert self.validation is not None
        result = evaluate_retrieval(
            model,
            self.validation,
            seed=self.recipe.train.seed,
            keyword_search=True,
            autocast=autocast,
            tick=callbacks.advance,
        )
        start = self._start_metrics(model, autocast, callbacks)
        return {**result.metrics, **start}, {"retrieval": result}

    def _start_metrics(
        self, model: JointEmbedding, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> dict[str, float]:
        """Retrieval by the pretrained weights of a dual encoder; others start at chance."""
        dual = self.architecture.dual_encoder
        if dual is None or dual.architecture is not None or self.validation is None:
            return {}
        callbacks.stage("zero-shot evaluation", len(self.validation))
        # The architecture of the recipe: that of the model says how to build it without weights.
        config = JointEmbeddingConfig(self.architecture.model_dump(mode="json"))
        start = JointEmbedding(config, model.preprocessors, pretrained=True)
        start.to(model.device)  # type: ignore[arg-type]
        found = evaluate_retrieval(
            start, self.validation, bootstrap=0, autocast=autocast, tick=callbacks.advance
        )
        return {f"{START}/{name}": value for name, value in found.metrics.items()}

    def card(self, metrics: dict[str, float]) -> ModelCard:
        return ModelCard(
            title="A joint embedding",
            usage='z = model.encode(text=["a caption"])',
            pipeline_tag="feature-extraction",
            metrics={n: v for n, v in metrics.items() if n.startswith("retrieval/") and "@" in n},
        )


class JointEmbeddingTask:
    """Weighted objectives, exact in micro-batches; the best weights have the highest recall.

    Args:
        objectives: over the embeddings of a batch.
        micro_batch_size: items encoded at once; None: the whole batch.
        validation: source on which recall is measured, or None.
        max_validation_items: so many of its first items; None: all.
    """

    score_name = "mean_recall"

    def __init__(
        self,
        objectives: Objectives,
        *,
        micro_batch_size: int | None = None,
        validation: Source | None = None,
        max_validation_items: int | None = None,
    ) -> None:
        self.objectives = objectives
        self.micro_batch_size = micro_batch_size
        self.validation = validation
        self.has_validation = validation is not None
        self.max_validation_items = max_validation_items
        self.logged: dict[str, list[Tensor]] = {}

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch, encoded in micro-batches where that is set."""
        momentum = self._momentum_rows(batch, step)
        loss_of = partial(self._loss_of, step=step, momentum=momentum)
        if self.micro_batch_size is not None and self.micro_batch_size < len(batch):
            return self._in_micro_batches(batch, step, loss_of, self.micro_batch_size)
        with step.autocast():
            loss = loss_of(step.trained(batch))
        step.backward(loss)
        step.average_gradients()
        return loss.detach()

    def after_step(self, trained: Trained) -> None:
        """Put learned temperatures back into their bounds."""
        self.objectives.constrain_()

    def log_metrics(self) -> dict[str, float]:
        """Means of the objectives since the last call, temperatures and their own metrics."""
        found = {name: float(torch.stack(v).mean()) for name, v in self.logged.items()}
        self.logged.clear()
        return {**found, **self.objectives.temperatures(), **self.objectives.metrics()}

    def evaluate(self, model: PreTrainedModel, autocast: Autocast) -> dict[str, float]:
        """Recall on the validation source, in every direction."""
        assert self.validation is not None
        size = len(self.validation)
        result = evaluate_retrieval(
            cast(JointEmbedding, model),
            self.validation,
            items=range(min(self.max_validation_items or size, size)),
            bootstrap=0,
            autocast=autocast,
        )
        return {**result.metrics, self.score_name: mean_recall(result.metrics)}

    @torch.no_grad()
    def _momentum_rows(self, batch: Batch, step: Step) -> MomentumRows:
        """The batch as the momentum encoder embeds it; None where no objective needs that."""
        encoder = step.trained.momentum
        if encoder is None:
            return None
        with step.autocast():
            parts = batch.split(self.micro_batch_size or len(batch))
            return concatenate([encoder.module(part) for part in parts])

    def _in_micro_batches(
        self,
        batch: Batch,
        step: Step,
        loss_of: Callable[[dict[str, Embeddings]], Tensor],
        size: int,
    ) -> Tensor:
        loss = backward_in_chunks(
            step.trained,
            cast(JointEmbedding, step.trained.network),
            loss_of,
            batch,
            chunk=size,
            backward=step.backward,
            autocast=step.autocast,
        )
        step.average_gradients()
        return loss

    def _loss_of(
        self, embedded: dict[str, Embeddings], *, step: Step, momentum: MomentumRows
    ) -> Tensor:
        device = next(iter(embedded.values())).z.device.type
        with torch.autocast(device, enabled=False):
            loss, values = self.objectives(embedded, momentum)
            for name, value in values.items():
                self.logged.setdefault(f"loss/{name}", []).append(value.detach())
            if len(values) > 1 and step.logged:
                for name, norm in self.objectives.gradient_norms(values).items():
                    self.logged[f"gradient_norm/{name}"] = [torch.tensor(norm)]
        return loss
