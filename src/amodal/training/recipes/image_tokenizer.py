"""The model part of a recipe: an image tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.losses.reconstruction import ReconstructionConfig
from amodal.models.image_tokenizer import TokenizerArchitecture
from amodal.training.recipes.checks import no_objective_of_another_kind, refuse_modality_dropout

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe


class ImageTokenizerRecipe(TokenizerArchitecture):
    """Images as tokens, and back."""

    kind: Literal["image_tokenizer"] = "image_tokenizer"
    type: ClassVar[str] = "image"

    @property
    def types(self) -> dict[str, str]:
        """Input -> modality type."""
        return {"image": "image"}

    @property
    def encoders(self) -> dict[str, ImageTokenizerRecipe]:
        """Input -> what says how large its values are."""
        return {"image": self}

    def preprocessor(self) -> ImagePreprocessor:
        half = (0.5, 0.5, 0.5)
        return ImagePreprocessor(self.size, half, half)

    @staticmethod
    def default_objectives() -> tuple[Any, ...]:
        return (ReconstructionConfig(),)

    def check(self, recipe: Recipe) -> None:
        """Check that the rest of the recipe fits this kind of model.

        Raises:
            ValueError: names the key.
        """
        no_objective_of_another_kind(recipe.objectives, ReconstructionConfig, alone=True)
        refuse_modality_dropout(recipe)
