"""Every encoder that a recipe can name; a new one is one more entry here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from amodal.encoders.audio import SmallAudioCNNConfig
from amodal.encoders.dual import SentenceTransformersDualConfig, TransformersDualConfig
from amodal.encoders.huggingface import HuggingFaceImageConfig, HuggingFaceTextConfig
from amodal.encoders.open_clip_dual import OpenClipDualConfig
from amodal.encoders.small_cnn import SmallCNNConfig
from amodal.encoders.small_transformer import SmallTransformerConfig
from amodal.encoders.timm_image import TimmConfig
from amodal.encoders.torchvision_image import TorchvisionConfig

ImageEncoderConfig = Annotated[
    TorchvisionConfig | TimmConfig | HuggingFaceImageConfig | SmallCNNConfig,
    Field(discriminator="kind"),
]
TextEncoderConfig = Annotated[
    HuggingFaceTextConfig | SmallTransformerConfig, Field(discriminator="kind")
]
AudioEncoderConfig = SmallAudioCNNConfig  # a discriminated union once there are two
DualEncoderConfig = Annotated[
    TransformersDualConfig | OpenClipDualConfig | SentenceTransformersDualConfig,
    Field(discriminator="kind"),
]
