"""Hugging Face video models as encoders: VideoMAE, TimeSformer, ViViT."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoVideoProcessor, PretrainedConfig

from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.fine_tuning import freeze_unused
from amodal.encoders.hub import load_pretrained
from amodal.encoders.huggingface import (
    HALF,
    HuggingFaceConfig,
    build_model,
    enable_checkpointing,
    hidden_width,
    layer_groups,
)
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.video.config import VideoConfig


class HuggingFaceVideoConfig(HuggingFaceConfig, VideoConfig):
    """A video model: VideoMAE, TimeSformer, ViViT.

    Args:
        frames: T; None: what the model was made for.
    """

    frames: int | None = Field(None, ge=1, le=1024)  # type: ignore[assignment]

    def build(self, pretrained: bool = True) -> HuggingFaceVideoEncoder:
        """The encoder; `pretrained=False` needs `architecture` and no network.

        Raises:
            ValueError: it cannot be loaded, or takes another number of frames.
        """
        return HuggingFaceVideoEncoder(self, self.model_config_of(), pretrained=pretrained)

    def frame_count(self) -> int:
        return self.frames or int(self.model_config_of().num_frames)

    def frame_preprocessor(self) -> ImagePreprocessor:
        side = int(self.model_config_of().image_size)
        if self.architecture is not None or self.name is None:
            return ImagePreprocessor(side, HALF, HALF)
        found: Any = load_pretrained(AutoVideoProcessor, self.name)
        return ImagePreprocessor(side, tuple(found.image_mean), tuple(found.image_std))


class HuggingFaceVideoEncoder(nn.Module):
    """The last hidden state of a video model, as tokens.

    Args:
        config: of this encoder.
        model_config: of the model.
        pretrained: False refuses to load weights.

    Examples:
        >>> import torch
        >>> from amodal.encoders import HuggingFaceVideoConfig
        >>> layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> size = {"image_size": 32, "patch_size": 16, "num_frames": 4}
        >>> videomae = {"model_type": "videomae", "tubelet_size": 2, **size, **layers}
        >>> encoder = HuggingFaceVideoConfig(architecture=videomae).build()  # random weights
        >>> tokens, _ = encoder(torch.zeros(1, 4, 3, 32, 32))
        >>> tokens.shape  # 2 tubes of 2 frames, 4 patches each
        torch.Size([1, 8, 16])
    """

    def __init__(
        self, config: HuggingFaceVideoConfig, model_config: PretrainedConfig, *, pretrained: bool
    ) -> None:
        super().__init__()
        frames = getattr(model_config, "num_frames", None)
        if frames is None:
            raise ValueError(f"{model_config.model_type}: no video model, it has no `num_frames`")
        if config.frame_count() != frames:
            raise ValueError(
                f"frames: {config.frames}; {model_config.model_type} was made for {frames}"
            )
        model = build_model(config.name, config.architecture is not None, model_config, pretrained)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # it would never get a gradient
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        self.model = model
        self.config: EncoderConfig = config.model_copy(
            update={"architecture": model.config.to_dict(), "frames": frames}
        )
        self.width = hidden_width(model.config)
        has_class = hasattr(model.embeddings, "cls_token")
        self.pooling: PoolingName = "cls" if has_class else "mean"
        side = int(model_config.image_size)
        freeze_unused(self, lambda: self(torch.zeros(1, frames, 3, side, side))[0])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, None]:
        """(B, T, 3, S, S) → tokens (B, N, D)."""
        return self.model(pixel_values=pixel_values).last_hidden_state, None

    def layer_groups(self) -> LayerGroups:
        """Embeddings, then the layers: what `freeze: n` counts."""
        return layer_groups(self.model)
