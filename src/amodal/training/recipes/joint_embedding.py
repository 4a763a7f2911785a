"""The model part of a recipe: a joint embedding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from amodal.alignment.normalization import Step
from amodal.data.record import StrictModel
from amodal.encoders.specification import (
    DualEncoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
)
from amodal.projection import MLPConfig, ProjectionConfig


class EncodersRecipe(StrictModel):
    """One encoder per modality."""

    image: ImageEncoderConfig | None = None
    text: TextEncoderConfig | None = None


class JointEmbeddingRecipe(StrictModel):
    """Encoders with projections into one space, or a whole pretrained dual encoder."""

    kind: Literal["joint_embedding"] = "joint_embedding"
    encoders: EncodersRecipe = EncodersRecipe()
    dual_encoder: DualEncoderConfig | None = None
    projection: ProjectionConfig = Field(default_factory=MLPConfig)
    normalization: tuple[
        Step, ...
    ] = ()  # of the embeddings, fitted on the training rows at the end

    @model_validator(mode="after")
    def _unit_rows(self) -> JointEmbeddingRecipe:
        if self.normalization and self.normalization[-1] != "l2":
            raise ValueError("normalization must end with l2: embeddings have unit length")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> JointEmbeddingRecipe:
        named = [m for m in EncodersRecipe.model_fields if getattr(self.encoders, m) is not None]
        if self.dual_encoder is not None and named:
            raise ValueError("give either `encoders` or `dual_encoder`, not both")
        if self.dual_encoder is None and not named:
            raise ValueError("give `encoders: {image: …, text: …}` or `dual_encoder: …`")
        return self
