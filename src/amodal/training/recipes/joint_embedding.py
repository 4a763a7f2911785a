"""The model part of a recipe: a joint embedding."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from amodal.alignment.normalization import Step
from amodal.data.record import StrictModel
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.nt_xent import NTXentConfig
from amodal.modalities.specification import DualEncoderConfig, NamedEncoders
from amodal.models.joint_embedding import Architecture, JointEmbeddingConfig, input_types
from amodal.models.run_location import found_folder, read_config
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
        base: run of a joint embedding whose inputs stay as they are, bit for bit, while the
            encoders, and their projections, are trained into its space.
        base_inputs: filled in from the base, as are its encoders.
        pairs: inputs that are trained on each other; `all`, or a list of pairs. Inputs
            that are never paired directly are aligned through a third one. Two inputs of the base
            are never trained on each other.
        projection: into the shared space.
        normalization: of the embeddings, fitted on the training rows at the end.
        init_from: a finished run with the same encoders, whose weights this one starts with.
    """

    kind: Literal["joint_embedding"] = "joint_embedding"
    encoders: NamedEncoders = Field(default_factory=dict)
    dual_encoder: DualEncoderConfig | None = None
    base: str | None = None
    base_inputs: tuple[str, ...] = ()
    pairs: Literal["all"] | tuple[tuple[str, str], ...] = "all"
    projection: ProjectionConfig = Field(default_factory=MLPConfig)
    normalization: tuple[Step, ...] = ()
    init_from: str | None = None

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        return input_types(self.encoders, self.dual_encoder)

    @property
    def trained_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of inputs that are trained on each other."""
        if self.pairs != "all":
            return self.pairs
        return tuple(p for p in combinations(self.types, 2) if not set(p) <= set(self.base_inputs))

    @property
    def new_encoders(self) -> dict[str, Any]:
        """The encoders that the base does not bring."""
        return {n: config for n, config in self.encoders.items() if n not in self.base_inputs}

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

    @model_validator(mode="before")
    @classmethod
    def _with_the_base(cls, values: Any) -> Any:
        """The encoders of the base, frozen, before those of the recipe.

        A recipe that a run keeps has them already, so that it can be read where the base is gone.
        """
        if not isinstance(values, dict) or values.get("base") is None or values.get("base_inputs"):
            return values
        base = _architecture_of(values["base"])
        frozen = {
            name: {**config.model_dump(mode="json"), "freeze": "all"}
            for name, config in base.encoders.items()
        }
        own = values.get("encoders") or {}
        again = sorted(set(base.types) & set(own))
        if again:
            raise ValueError(
                f"base: it brings {', '.join(again)}; give a new input another name in `encoders`"
            )
        found = {**values, "encoders": {**frozen, **own}, "base_inputs": tuple(base.types)}
        if base.dual_encoder is not None:
            dual = base.dual_encoder.model_dump(mode="json")
            found["dual_encoder"] = {**dual, "freeze": "all"}
        return found

    @model_validator(mode="after")
    def _unit_rows(self) -> JointEmbeddingRecipe:
        if self.normalization and self.normalization[-1] != "l2":
            raise ValueError("normalization must end with l2: embeddings have unit length")
        if self.normalization and self.base is not None:
            raise ValueError("normalization would change the embeddings of the base: leave it out")
        return self

    @model_validator(mode="after")
    def _encoders_or_dual_encoder(self) -> JointEmbeddingRecipe:
        if self.base is not None and self.init_from is not None:
            raise ValueError(
                "base and init_from are two ways to start from a run: give one of them"
            )
        if self.base is not None and not self.new_encoders:
            raise ValueError("base: give `encoders` with the inputs that are new")
        if self.dual_encoder is not None and self.encoders and self.base is None:
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
        frozen = [pair for pair in self.pairs if set(pair) <= set(self.base_inputs)]
        if frozen:
            raise ValueError(
                f"pairs: [{', '.join(frozen[0])}] are both of the base, which is not trained"
            )
        alone = [
            name
            for name in inputs
            if name not in self.base_inputs and not any(name in pair for pair in self.pairs)
        ]
        if alone:
            raise ValueError(f"pairs: {', '.join(alone)} is in none, so it would not be trained")
        return self


def _architecture_of(run: str) -> Architecture:
    """The architecture of the run of a joint embedding.

    Raises:
        ValueError: it is none.
    """
    folder = found_folder(run)
    config = read_config(folder)
    if config.get("model_type") != JointEmbeddingConfig.model_type:
        raise ValueError(f"base: {run} is not the run of a joint embedding")
    return Architecture.model_validate(config["architecture"])
