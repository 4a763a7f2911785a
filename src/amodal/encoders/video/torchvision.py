"""Video ResNets of torchvision, their last layer off."""

from __future__ import annotations

from typing import Any, Literal

import torchvision
from pydantic import Field
from torch import Tensor, nn

from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import LayerGroups, PoolingName
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.image.torchvision import load_weights, weights_of
from amodal.encoders.video.config import VideoConfig

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class TorchvisionVideoConfig(VideoConfig):
    """Video ResNet of torchvision, by name, and its weights."""

    kind: Literal["torchvision"] = "torchvision"
    name: Literal["r3d_18", "mc3_18", "r2plus1d_18"] = "r3d_18"  # of torchvision
    weights: str | None = "DEFAULT"  # a name of torchvision, a .safetensors file, or null: random
    frames: int = Field(16, ge=1, le=1024)
    size: int = Field(112, ge=16)  # pixels of the square that it sees

    @property
    def is_pretrained(self) -> bool:
        return self.weights is not None

    def build(self, pretrained: bool = True) -> TorchvisionVideoEncoder:
        """The encoder; `pretrained=False` leaves the weights random, without network or files.

        Raises:
            ValueError: the weights cannot be had; says how to give a local file.
        """
        return TorchvisionVideoEncoder(self, pretrained=pretrained)

    def frame_preprocessor(self) -> ImagePreprocessor:
        mean, std = KINETICS_MEAN, KINETICS_STD
        if self.weights is not None and not self.weights.endswith(".safetensors"):
            transforms = weights_of(self.name, self.weights).transforms()
            mean, std = tuple(transforms.mean), tuple(transforms.std)
        return ImagePreprocessor(self.size, mean, std)


class TorchvisionVideoEncoder(nn.Module):
    """The trunk of a video ResNet; tokens are its final grid, frame by frame and row by row.

    References:
        Tran et al. 2018, arXiv:1711.11248.

    Examples:
        >>> import torch
        >>> from amodal.encoders import TorchvisionVideoConfig
        >>> encoder = TorchvisionVideoConfig(weights=None, frames=8, size=32).build()
        >>> tokens, _ = encoder(torch.zeros(1, 8, 3, 32, 32))
        >>> tokens.shape, encoder.pooling
        (torch.Size([1, 4, 512]), 'mean')
    """

    pooling: PoolingName = "mean"

    def __init__(self, config: TorchvisionVideoConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.config = config
        model: Any = torchvision.models.get_model(config.name, weights=None)
        if pretrained and config.weights is not None:
            load_weights(model, config.name, config.weights)
        self.width = int(model.fc.in_features)
        self.stages = nn.ModuleList(
            [model.stem, model.layer1, model.layer2, model.layer3, model.layer4]
        )

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, T, 3, S, S) → tokens (B, N, D)."""
        x = pixel_values.transpose(1, 2)  # (B, 3, T, S, S)
        for stage in self.stages:
            if self.config.gradient_checkpointing and self.training:
                x = checkpointed(stage, x)
            else:
                x = stage(x)
        return x.flatten(2).transpose(1, 2), None

    def layer_groups(self) -> LayerGroups:
        """Stem, then the stages: what `freeze: n` counts."""
        return [[stage] for stage in self.stages]
