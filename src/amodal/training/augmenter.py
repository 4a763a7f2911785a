"""The augmentation that a recipe asks for, as the collator calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from amodal.augment.audio import AudioAugmentation
from amodal.augment.config import AugmentConfig, TokenDropout, TokenMask
from amodal.augment.image import ImageAugmentation
from amodal.augment.modality import drop_modalities
from amodal.augment.text import swap_left_right, token_dropout, token_mask

Rngs = Sequence[np.random.Generator]


class RecipeAugment:
    """`augment` of a recipe, applied to images, captions, tokens and sounds.

    Args:
        config: the steps.
        inputs: modality -> preprocessor, for the size of images and the special tokens.
    """

    def __init__(self, config: AugmentConfig, inputs: Mapping[str, Any]) -> None:
        self.config = config
        self.text = inputs.get("text")
        image = inputs.get("image")
        # Where no step crops, the preprocessor's own resizing is used, so that training sees the
        # same part of an image as evaluation does.
        self.image = (
            ImageAugmentation(config.image, image.size, image.resize) if image is not None else None
        )

        self.sounds = AudioAugmentation(config.audio)

    def presence(self, present: Mapping[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        if not self.config.modality_dropout:
            return dict(present)
        return drop_modalities(present, self.config.modality_dropout, rngs)

    def images(self, images: list[np.ndarray], rngs: Rngs) -> tuple[Tensor, np.ndarray]:
        assert self.image is not None
        return self.image(images, rngs)

    def audio(self, waveforms: list[np.ndarray], rngs: Rngs) -> list[np.ndarray]:
        return self.sounds.waveforms(waveforms, rngs)

    def audio_features(self, features: dict[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        return self.sounds.features(features, rngs)

    def caption(self, text: str, mirrored: bool) -> str:
        return swap_left_right(text) if mirrored else text

    def tokens(self, tokens: dict[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        assert self.text is not None
        special = self.text.special_ids
        for step in self.config.text:
            if isinstance(step, TokenMask):
                ids = token_mask(
                    tokens["input_ids"],
                    tokens["attention_mask"],
                    special_ids=special,
                    mask_id=self.text.mask_id,
                    rate=step.rate,
                    rngs=rngs,
                )
                tokens = {**tokens, "input_ids": ids}
            elif isinstance(step, TokenDropout):
                tokens = token_dropout(tokens, special_ids=special, rate=step.rate, rngs=rngs)
        return tokens
