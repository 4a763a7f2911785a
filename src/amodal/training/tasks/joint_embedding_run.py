"""What a run that learns a joint embedding is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from amodal.alignment.normalization import Normalization
from amodal.data.record import Source, readable_records
from amodal.evaluators.retrieval import EmbeddedSource, embed_items, retrieval_metrics
from amodal.losses.language_modeling import LanguageModelingConfig
from amodal.losses.reconstruction import ReconstructionConfig
from amodal.modalities.registry import modality
from amodal.models.inputs import check_source, collator_of
from amodal.models.joint_embedding import (
    NORMALIZATION,
    Architecture,
    JointEmbedding,
    build_joint_embedding,
)
from amodal.training.objectives import ObjectiveConfig, Objectives
from amodal.training.prediction_objective import PredictionConfig
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.joint_embedding import JointEmbeddingRecipe
from amodal.training.tasks.joint_embedding_task import EmbeddingTask
from amodal.training.trainer import Trained

Autocast = Callable[[], AbstractContextManager[object]]


class EmbeddingRun:
    """Model, batches and task of a joint embedding, and what is left to do at the end.

    Args:
        recipe: with a model of kind joint_embedding.
        train: training source.
        validation: held-out source, or None.
        resume: weights will come from a checkpoint.

    Raises:
        DataError: the training source lacks a modality that the model wants.
    """

    title = "A joint embedding"

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, resume: bool
    ) -> None:
        assert isinstance(recipe.model, JointEmbeddingRecipe)
        self.recipe, self.options, self.train, self.validation = (
            recipe,
            recipe.model,
            train,
            validation,
        )
        check_source(self.options.types, train)
        architecture = Architecture(
            encoders=self.options.encoders,
            dual_encoder=self.options.dual_encoder,
            projection=self.options.projection,
        )
        records = partial(readable_records, train)
        self.model: JointEmbedding = build_joint_embedding(architecture, records)
        if not resume:
            for name, encoder in self.model.encoders.items():
                kind = modality(self.model.types[name])
                kind.initialise(encoder, self.model.preprocessors[name], name, records)
        self.collator = collator_of(
            self.model,
            captions=recipe.data.captions,
            views=recipe.data.views,
            steps=recipe.steps(),
        )
        dual = self.model.dual
        self.objectives = Objectives(
            _objectives(recipe),
            pairs=self.options.trained_pairs,
            dim=self.model.dim,
            initial_log_scale=getattr(dual, "initial_log_scale", None) if dual else None,
        )
        self.task = EmbeddingTask(
            self.objectives,
            chunk=recipe.train.micro_batch_size,
            validation=validation,
            validation_items=recipe.data.validation_items,
        )

    def trained(self) -> Trained:
        """What the optimizer sees."""
        ema = self.recipe.train.ema
        return Trained(self.model, self.objectives, ema, self.objectives.momentum)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Fit the recipe's normalization on the training rows and keep it with the run."""
        if not self.options.normalization:
            return
        callbacks.stage("normalization", len(self.train))
        model = JointEmbedding.from_pretrained(folder)
        model.to(self.model.device)  # type: ignore[arg-type]
        embedded = embed_items(model, self.train, tick=callbacks.advance, autocast=autocast)
        fitted = Normalization(self.options.normalization)
        fitted.fit(
            {modality: rows.z for modality, rows in embedded.rows.items()},
            {modality: rows.item for modality, rows in embedded.rows.items()},
        )
        fitted.save(folder / NORMALIZATION)

    def reopened(self, folder: Path) -> JointEmbedding:
        """The model that the folder now holds."""
        return JointEmbedding.from_pretrained(folder)

    def measured(
        self, kept: JointEmbedding, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], EmbeddedSource]:
        """Retrieval on the validation source, with intervals."""
        assert self.validation is not None
        embedded = embed_items(kept, self.validation, tick=callbacks.advance, autocast=autocast)
        return retrieval_metrics(
            embedded.rows, bootstrap=1000, seed=self.recipe.train.seed
        ), embedded

    def shown(self, metrics: dict[str, float]) -> dict[str, float]:
        """The figures that a model card shows."""
        return {n: v for n, v in metrics.items() if n.startswith("retrieval/") and "@" in n}

    usage = 'z = model.encode(text=["a caption"])'
    pipeline = "feature-extraction"


def _objectives(recipe: Recipe) -> list[ObjectiveConfig]:
    others = PredictionConfig | LanguageModelingConfig | ReconstructionConfig
    return [o for o in recipe.objectives if not isinstance(o, others)]
