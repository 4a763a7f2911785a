"""What a run that learns to predict from several modalities is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from amodal.augment.modality import drop_modalities
from amodal.data.record import Source, readable_records
from amodal.evaluators.prediction import (
    PredictionResult,
    predict_items,
    prediction_metrics,
    score_name,
)
from amodal.models.fusion_model import FusionArchitecture, FusionModel, build_fusion_model
from amodal.models.inputs import check_source, collator_of
from amodal.training.prediction_objective import PredictionConfig, PredictionObjective
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.fusion import FusionRecipe
from amodal.training.tasks.fusion_task import FusionTask
from amodal.training.trainer import Trained

Autocast = Callable[[], AbstractContextManager[object]]


class FusionRun:
    """Model, batches and task of a fusion, and what is left to do at the end.

    Args:
        recipe: with a model of kind fusion.
        train: training source.
        validation: held-out source, or None.
        resume: weights will come from a checkpoint.

    Raises:
        DataError: the training source lacks a modality, a column or the target.
    """

    title = "A fusion"
    usage = 'said = model.predict([{"image": "a.jpg", "text": ["a caption"]}])'
    pipeline = "other"

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, resume: bool
    ) -> None:
        options = recipe.model
        assert isinstance(options, FusionRecipe)
        self.recipe, self.train, self.validation = recipe, train, validation
        check_source(options.types, train)
        architecture = FusionArchitecture(
            encoders=options.encoders,
            fusion=options.fusion,
            head=options.head,
            target=options.target,
        )
        records = partial(readable_records, train)
        self.model: FusionModel = build_fusion_model(architecture, records)
        (config,) = (o for o in recipe.objectives if isinstance(o, PredictionConfig))
        heads = tuple(self.model.unimodal)
        self.objective = PredictionObjective(config, self.model.target, heads)
        self.model.unimodal_reaches_encoders = self.objective.reaches_encoders
        rates = recipe.augment.modality_dropout
        self.collator = collator_of(
            self.model,
            captions=recipe.data.captions,
            steps=recipe.steps(),
            target=self.model.target,
            drop=partial(drop_modalities, rates=rates) if rates else None,
        )
        self.task = FusionTask(
            self.objective,
            train,
            chunk=recipe.train.micro_batch_size,
            validation=validation,
            validation_items=recipe.data.validation_items,
        )

    def trained(self) -> Trained:
        """What the optimizer sees."""
        return Trained(self.model, self.objective, self.recipe.train.ema)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Nothing is fitted after the weights."""

    def reopened(self, folder: Path) -> FusionModel:
        """The model that the folder now holds."""
        return FusionModel.from_pretrained(folder)

    def measured(
        self, kept: FusionModel, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], PredictionResult]:
        """How right the predictions of the validation source are, with intervals."""
        assert self.validation is not None
        predicted = predict_items(kept, self.validation, tick=callbacks.advance, autocast=autocast)
        return prediction_metrics(
            predicted, kept.target, bootstrap=1000, seed=self.recipe.train.seed
        ), predicted

    def shown(self, metrics: dict[str, float]) -> dict[str, float]:
        """The figures that a model card shows."""
        score = score_name(self.model.target)
        return {n: v for n, v in metrics.items() if n.count("/") == 1 or n.endswith(f"/{score}")}
