"""Every encoder that a recipe can name; a new one is one more entry here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from amodal.encoders.audio.small_cnn import SmallAudioCNNConfig
from amodal.encoders.dual.open_clip import OpenClipDualConfig
from amodal.encoders.dual.sentence_transformers import SentenceTransformersDualConfig
from amodal.encoders.dual.transformers import TransformersDualConfig
from amodal.encoders.huggingface import HuggingFaceImageConfig, HuggingFaceTextConfig
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.image.timm import TimmConfig
from amodal.encoders.image.torchvision import TorchvisionConfig
from amodal.encoders.text.small_transformer import SmallTransformerConfig

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
