"""A small residual network for images, fast on a CPU."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.image.preprocessing import ImagePreprocessor


class SmallCNNConfig(EncoderConfig):
    """Small residual image encoder, trained from scratch."""

    type: Literal["image"] = "image"
    kind: Literal["small_cnn"] = "small_cnn"
    size: int = Field(64, ge=8)  # side of the square input, in pixels
    widths: tuple[int, ...] = Field((32, 64, 128, 256), min_length=2)  # stem, then the stages
    blocks: int = Field(1, ge=1)  # residual blocks per stage
    min_grid_size: int = Field(8, ge=1)  # smallest side of the token grid
    # normalization layers; group does not depend on the batch
    norm: Literal["batch", "group"] = "batch"

    def build(self, pretrained: bool = True) -> SmallCNN:
        """The encoder with random weights; there are no pretrained ones."""
        return SmallCNN(self)

    def preprocessor(self) -> ImagePreprocessor:
        return ImagePreprocessor(self.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class SmallCNN(nn.Module):
    """Stem of stride 2, residual stages, and a learned position embedding per cell of the grid.

    With the positions an attention pooling can distinguish "left" from "right".

    References:
        He et al. 2015, arXiv:1512.03385 (residual blocks, fig. 5 left).

    Examples:
        >>> import torch
        >>> from amodal.encoders import SmallCNNConfig
        >>> encoder = SmallCNNConfig(size=32, widths=(8, 16, 32)).build()
        >>> tokens, keep = encoder(torch.randn(2, 3, 32, 32))
        >>> tokens.shape
        torch.Size([2, 64, 32])
    """

    pooling: PoolingName = "attention"

    def __init__(self, config: SmallCNNConfig) -> None:
        super().__init__()
        self.config = config
        stem, *stages = config.widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 5, stride=2, padding=2, bias=False), _norm(config, stem), nn.ReLU()
        )
        side = (config.size + 1) // 2
        width = stem
        self.stages = nn.ModuleList()
        for out in stages:
            stride = 2 if (side + 1) // 2 >= config.min_grid_size else 1
            side = (side + stride - 1) // stride
            blocks = [
                ResidualBlock(config, width if i == 0 else out, out, stride if i == 0 else 1)
                for i in range(config.blocks)
            ]
            self.stages.append(nn.Sequential(*blocks))
            width = out
        self.width = width
        self.position = nn.Parameter(torch.randn(side * side, width) * 0.02)
        # Channels last is the layout with the fastest kernels on CPU and GPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, 3, S, S) → tokens (B, N, D) of the grid, row by row."""
        x = self.stem(pixel_values.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            if self.config.gradient_checkpointing and self.training:
                x = checkpointed(stage, x)
            else:
                x = stage(x)
        return x.flatten(2).transpose(1, 2) + self.position, None

    def layer_groups(self) -> LayerGroups:
        """Stem, then the stages, as counted by `freeze: n`."""
        return [[self.stem], *[[stage] for stage in self.stages]]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, config: SmallCNNConfig, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = _norm(config, out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = _norm(config, out)
        # The shortcut of stride 2 reads every second pixel. A 1x1 convolution of stride 2 would
        # give the same numbers, but oneDNN writes past its buffer in the backward pass of one
        # with fewer than 16 channels (torch 2.15, channels last, a batch its threads do not
        # divide).
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), _norm(config, out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        strided = x[..., :: self.stride, :: self.stride]
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(strided))


def _norm(config: SmallCNNConfig, width: int) -> Any:
    if config.norm == "group":
        return nn.GroupNorm(min(8, width), width)
    return nn.BatchNorm2d(width)
