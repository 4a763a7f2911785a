"""The model part of a recipe: a fusion model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from amodal.data.record import StrictModel
from amodal.fusion.specification import FusionConfig
from amodal.losses.balance import GradientBlendingConfig
from amodal.modalities.specification import NamedEncoders
from amodal.models.fusion_model import HeadConfig
from amodal.models.target import TargetConfig
from amodal.training.prediction_objective import PredictionConfig
from amodal.training.recipes.checks import no_objective_of_another_kind

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe


class FusionRecipe(StrictModel):
    """Encoders of named inputs, a fusion of their outputs, and a head that predicts a column.

    Args:
        init_from: a finished run with the same encoders, whose weights this one starts with.
    """

    kind: Literal["fusion"] = "fusion"
    encoders: NamedEncoders  # input -> its encoder
    fusion: FusionConfig  # of what the encoders give
    head: HeadConfig = HeadConfig()  # that predicts from the fused values
    target: TargetConfig = TargetConfig()  # the column that is predicted
    init_from: str | None = None

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        return {name: config.type for name, config in self.encoders.items()}

    @staticmethod
    def default_objectives() -> tuple[Any, ...]:
        return (PredictionConfig(),)

    def check(self, recipe: Recipe) -> None:
        """Check that the rest of the recipe fits this kind of model.

        Raises:
            ValueError: names the key.
        """
        no_objective_of_another_kind(recipe.objectives, PredictionConfig, alone=True)
        rates = recipe.augment.modality_dropout
        unknown = sorted(set(rates) - set(self.types)) if isinstance(rates, dict) else ()
        if unknown:
            raise ValueError(
                f"augment.modality_dropout names {', '.join(unknown)}; the model has encoders of "
                f"{', '.join(self.types)}"
            )
        if recipe.data.captions_per_item != 1 or recipe.data.views_per_item != 1:
            raise ValueError(
                "a fusion model takes one row per item: leave data.captions_per_item and "
                "data.views_per_item at 1"
            )
        (objective,) = recipe.objectives
        assert isinstance(objective, PredictionConfig)
        blends = isinstance(objective.balance, GradientBlendingConfig)
        if blends and not recipe.data.has_validation:
            raise ValueError("gradient_blending measures overfitting: give data.validation")
        if (objective.unimodal_weight or objective.balance) and not self.head.unimodal_heads:
            raise ValueError("unimodal losses and balance need model.head.unimodal_heads: true")

    @model_validator(mode="after")
    def _enough_to_fuse(self) -> FusionRecipe:
        if len(self.encoders) < 2:
            given = ", ".join(self.encoders) or "none"
            raise ValueError(f"a fusion model needs two encoders or more, got {given}")
        return self
