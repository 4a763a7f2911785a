"""Every encoder that a recipe can name; a new one is one more entry here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from amodal.encoders.small_cnn import SmallCNNConfig
from amodal.encoders.small_transformer import SmallTransformerConfig
from amodal.encoders.torchvision_image import TorchvisionConfig

ImageEncoderConfig = Annotated[SmallCNNConfig | TorchvisionConfig, Field(discriminator="kind")]
TextEncoderConfig = SmallTransformerConfig
DualEncoderConfig = SmallCNNConfig
