"""Image encoders that a recipe can name, alone or for the frames of a video encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from amodal.encoders.config import EncoderConfig
from amodal.encoders.huggingface import HuggingFaceImageConfig
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.image.timm import TimmConfig
from amodal.encoders.image.torchvision import TorchvisionConfig
from amodal.encoders.packaged import PackagedImageConfig

# A new image encoder of this package is one more entry here.
IMAGE_ENCODERS: tuple[type[EncoderConfig], ...] = (
    TorchvisionConfig,
    TimmConfig,
    HuggingFaceImageConfig,
    PackagedImageConfig,
    SmallCNNConfig,
)
if TYPE_CHECKING:  # the union is made at run time
    ImageEncoderConfig = Any
else:
    ImageEncoderConfig = Annotated[Union[IMAGE_ENCODERS], Field(discriminator="kind")]  # noqa: UP007
