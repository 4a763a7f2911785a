"""The model part of a recipe: an image tokenizer."""

from __future__ import annotations

from typing import Literal

from amodal.models.image_tokenizer import TokenizerArchitecture


class ImageTokenizerRecipe(TokenizerArchitecture):
    """Images as tokens, and back."""

    kind: Literal["image_tokenizer"] = "image_tokenizer"
