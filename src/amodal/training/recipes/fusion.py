"""The model part of a recipe: a fusion."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from amodal.data.record import StrictModel
from amodal.encoders.specification import (
    AudioEncoderConfig,
)
from amodal.encoders.tabular import ColumnsConfig
from amodal.encoders.vector import VectorConfig
from amodal.fusion.specification import FusionConfig
from amodal.models.fusion_model import HeadConfig
from amodal.models.target import TargetConfig
from amodal.training.recipes.joint_embedding import EncodersRecipe


class FusionEncodersRecipe(EncodersRecipe):
    """One encoder per modality; `vector` and `columns` read columns of the records."""

    audio: AudioEncoderConfig | None = None
    vector: VectorConfig | None = None
    columns: ColumnsConfig | None = None


class FusionRecipe(StrictModel):
    """Encoders, a fusion of what they say, and a head that predicts a column."""

    kind: Literal["fusion"] = "fusion"
    encoders: FusionEncodersRecipe
    fusion: FusionConfig
    head: HeadConfig = HeadConfig()
    target: TargetConfig = TargetConfig()

    @property
    def modalities(self) -> tuple[str, ...]:
        fields = type(self.encoders).model_fields
        return tuple(m for m in fields if getattr(self.encoders, m) is not None)

    @model_validator(mode="after")
    def _enough_to_fuse(self) -> FusionRecipe:
        if len(self.modalities) < 2:
            raise ValueError(
                f"a fusion needs two encoders or more, got {', '.join(self.modalities) or 'none'}"
            )
        return self
