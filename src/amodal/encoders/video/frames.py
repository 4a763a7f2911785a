"""An image encoder for every frame, and a Transformer or nothing over time."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import LayerGroups, PoolingName
from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.image.specification import ImageEncoderConfig
from amodal.encoders.pooling import build_pooling
from amodal.encoders.text.small_transformer import TransformerLayer
from amodal.encoders.video.config import VideoConfig


class FrameEncoderConfig(VideoConfig):
    """An image encoder per frame, then a temporal Transformer.

    Args:
        frame: any image encoder, with its own fine-tuning: `freeze: all` trains what follows it.
        width: D, to which the tokens of a frame are projected; None: the image encoder's own.
        frame_pooling: of the tokens of a frame; None: the image encoder's own choice.
        layers: of the temporal Transformer; 0: the frames are pooled as they are, in no order.
        heads: of its attention.
        dropout: of its layers.
    """

    kind: Literal["frames"] = "frames"
    frame: ImageEncoderConfig
    width: int | None = Field(None, ge=1)
    frame_pooling: PoolingName | None = None
    layers: int = Field(2, ge=0)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_rate(self) -> FrameEncoderConfig:
        if self.frame.learning_rate_scale != 1:
            raise ValueError(
                "frame.learning_rate_scale: give `learning_rate_scale` beside `frame`; one scale "
                "counts for the whole encoder"
            )
        return self

    @property
    def is_pretrained(self) -> bool:
        return bool(self.frame.is_pretrained)

    def build(self, pretrained: bool = True) -> FrameEncoder:
        """The encoder; `pretrained=False` leaves the image encoder's weights random.

        Raises:
            ValueError: the image encoder cannot be built, or its width does not divide by `heads`.
        """
        return FrameEncoder(self, pretrained=pretrained)

    def frame_preprocessor(self) -> ImagePreprocessor:
        found: ImagePreprocessor = self.frame.preprocessor()
        return found


class FrameEncoder(nn.Module):
    """Tokens of an image encoder, pooled per frame, and a Transformer with positions over time.

    With layers, the tokens depend on the order of the frames; without, their pooling does not.

    References:
        Arnab et al. 2021, arXiv:2103.15691, model 2 (factorised encoder).

    Examples:
        >>> import torch
        >>> from amodal.encoders import FrameEncoderConfig, SmallCNNConfig
        >>> config = FrameEncoderConfig(frame=SmallCNNConfig(size=32, widths=(8, 16)), frames=4)
        >>> tokens, _ = config.build()(torch.zeros(2, 4, 3, 32, 32))
        >>> tokens.shape
        torch.Size([2, 4, 16])
    """

    pooling: PoolingName = "mean"

    def __init__(self, config: FrameEncoderConfig, *, pretrained: bool) -> None:
        super().__init__()
        frame: Any = config.frame.build(pretrained=pretrained)
        self.config = config.model_copy(update={"frame": frame.config})
        self.frame = apply_fine_tuning(frame)
        self.width = config.width or int(frame.width)
        if config.layers and self.width % config.heads:
            raise ValueError(f"heads: {config.heads} does not divide the width {self.width}")
        self.project: nn.Module = nn.Identity()
        if config.width is not None:
            self.project = nn.Linear(int(frame.width), config.width)
        self.frame_pooling = build_pooling(config.frame_pooling or frame.pooling, self.width)
        self.layers = nn.ModuleList(
            TransformerLayer(self.width, config.heads, config.dropout) for _ in range(config.layers)
        )
        if config.layers:
            self.position = nn.Parameter(torch.randn(config.frames, self.width) * 0.02)
            self.norm = nn.LayerNorm(self.width)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, T, 3, S, S) → tokens (B, T, D), one per frame."""
        tokens, keep = self.frame(pixel_values=pixel_values.flatten(0, 1))
        pooled = self.frame_pooling(self.project(tokens), keep)  # (B T, D)
        x = pooled.unflatten(0, pixel_values.shape[:2])
        if not self.layers:
            return x, None
        x = x + self.position
        mask = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool, device=x.device)
        for layer in self.layers:
            if self.config.gradient_checkpointing and self.training:
                x = checkpointed(layer, x, mask)
            else:
                x = layer(x, mask)
        return self.norm(x), None

    def layer_groups(self) -> LayerGroups:
        """The groups of the image encoder, then the temporal layers: what `freeze: n` counts."""
        groups = list(self.frame.layer_groups())
        over_time: list[list[nn.Module | nn.Parameter]] = [[layer] for layer in self.layers]
        if over_time:
            over_time[0] += [self.position]
        return [*groups, *over_time]
