"""The model part of a recipe: a joint embedding."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from amodal.alignment.normalization import Step
from amodal.data.record import StrictModel
from amodal.encoders.dual.base import DualEncoder
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.nt_xent import NTXentConfig
from amodal.modalities.specification import DualEncoderConfig, NamedEncoders
from amodal.projection import MLPConfig, ProjectionConfig
from amodal.training.objectives import compares_inputs
from amodal.training.recipes.checks import no_objective_of_another_kind, refuse_modality_dropout

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe


class JointEmbeddingRecipe(StrictModel):
    """Encoders with projections into one space, or a whole pretrained dual encoder.

    Args:
        encoders: input -> its encoder.
        dual_encoder: in the place of encoders.
        pairs: inputs that are trained on each other; `all`, or a list of pairs. Inputs
            that are never paired directly are aligned through a third one.
        projection: into the shared space.
        normalization: of the embeddings, fitted on the training rows at the end.
        init_from: a finished run with the same encoders, whose weights this one starts with.
    """

    kind: Literal["joint_embedding"] = "joint_embedding"
    encoders: NamedEncoders = Field(default_factory=dict)
    dual_encoder: DualEncoderConfig | None = None
    pairs: Literal["all"] | tuple[tuple[str, str], ...] = "all"
    projection: ProjectionConfig = Field(default_factory=MLPConfig)
    normalization: tuple[Step, ...] = ()
    init_from: str | None = None

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        if self.dual_encoder is not None:
            return {name: name for name in DualEncoder.modalities}
        return {name: config.type for name, config in self.encoders.items()}

    @property
    def trained_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of inputs that are trained on each other."""
        return tuple(combinations(self.types, 2)) if self.pairs == "all" else self.pairs

    @staticmethod
    def default_objectives() -> tuple[Any, ...]:
        return (InfoNCEConfig(),)

    def check(self, recipe: Recipe) -> None:
        """Check that the rest of the recipe fits this kind of model.

        Raises:
            ValueError: names the key.
        """
        no_objective_of_another_kind(recipe.objectives)
        refuse_modality_dropout(recipe)
        views = [
            o for o in recipe.objectives if isinstance(o, NTXentConfig) and o.mode == "intra_modal"
        ]
        if views and recipe.data.views_per_item < 2:
            raise ValueError(
                "nt_xent intra_modal compares views of one image: set data.views_per_item: 2"
            )
        if len(self.types) > 1:
            return
        (alone,) = self.types
        for objective in recipe.objectives:
            if compares_inputs(objective):
                raise ValueError(
                    f"the objective {objective.kind} compares two inputs and the model has "
                    f"{alone} alone, so it would learn nothing: add an encoder, or choose "
                    "{kind: nt_xent, mode: intra_modal}"
                )
        if recipe.data.has_validation:
            raise ValueError(
                f"validation measures retrieval between two inputs and the model has {alone} "
                "alone: set data.validation: null and data.holdout: 0"
            )

    @model_validator(mode="after")
    def _unit_rows(self) -> JointEmbeddingRecipe:
        if self.normalization and self.normalization[-1] != "l2":
            raise ValueError("normalization must end with l2: embeddings have unit length")
        return self

    @model_validator(mode="after")
    def _encoders_or_dual_encoder(self) -> JointEmbeddingRecipe:
        if self.dual_encoder is not None and self.encoders:
            raise ValueError("give either `encoders` or `dual_encoder`, not both")
        if self.dual_encoder is None and not self.encoders:
            raise ValueError("give `encoders: {image: …, text: …}` or `dual_encoder: …`")
        return self

    @model_validator(mode="after")
    def _pairs_name_inputs(self) -> JointEmbeddingRecipe:
        if self.pairs == "all":
            return self
        inputs = list(self.types)
        shown = f"the inputs are {', '.join(inputs)}"
        for a, b in self.pairs:
            if a not in inputs or b not in inputs or a == b:
                raise ValueError(f"pairs: [{a}, {b}] are not two inputs of the model; {shown}")
        if len({frozenset(pair) for pair in self.pairs}) < len(self.pairs):
            raise ValueError("pairs: a pair is named twice")
        alone = [name for name in inputs if not any(name in pair for pair in self.pairs)]
        if alone:
            raise ValueError(f"pairs: {', '.join(alone)} is in none, so it would not be trained")
        return self
