"""A small residual network for audio, on log-mel features with masked padding."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.encoders.audio.config import AudioConfig
from amodal.encoders.audio.masked_norm import MaskedBatchNorm, MaskedGroupNorm
from amodal.encoders.audio.preprocessing import AudioPreprocessor, Normalization
from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import LayerGroups, PoolingName


class SmallAudioCNNConfig(AudioConfig):
    """Small residual audio encoder on log-mel features, trained from scratch."""

    kind: Literal["small_audio_cnn"] = "small_audio_cnn"
    sample_rate: int = Field(16000, ge=1000)  # Hz; files of other rates are resampled
    n_mels: int = Field(64, ge=8)  # mel bands
    window_ms: float = Field(25.0, gt=0)  # length of a frame
    hop_ms: float = Field(10.0, gt=0)  # from one frame to the next
    f_min: float = Field(20.0, ge=0)  # Hz
    f_max: float | None = Field(None, gt=0)  # Hz; None: half the sample rate
    normalize: Normalization = "clip"  # of log-mel values: over the clip, for each band, or not
    widths: tuple[int, ...] = Field((32, 64, 128, 128), min_length=2)  # stem, then the stages
    width: int = Field(256, ge=1)  # of a token
    blocks: int = Field(1, ge=1)  # residual blocks per stage
    frames_per_token: int = Field(4, ge=1)  # frames per token, a power of 2
    # normalization layers; group does not depend on the batch
    norm: Literal["batch", "group"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)  # of whole channels, before the tokens are made

    @model_validator(mode="after")
    def _fits(self) -> SmallAudioCNNConfig:
        top = self.sample_rate / 2 if self.f_max is None else self.f_max
        if not self.f_min < top <= self.sample_rate / 2:
            raise ValueError(
                f"need f_min < f_max <= sample_rate / 2, got {self.f_min}, {top} and "
                f"{self.sample_rate / 2}"
            )
        halvings = len(self.widths)
        if (
            self.frames_per_token & (self.frames_per_token - 1)
            or self.frames_per_token > 2**halvings
        ):
            raise ValueError(
                f"frames_per_token: expected a power of 2 up to {2**halvings}, one halving per "
                f"width, got {self.frames_per_token}"
            )
        if self.n_mels % 2**halvings:
            raise ValueError(
                f"n_mels: every width halves them, so {2**halvings} must divide {self.n_mels}"
            )
        return self

    def build(self, pretrained: bool = True) -> SmallAudioCNN:
        """The encoder with random weights; there are no pretrained ones."""
        return SmallAudioCNN(self)

    def preprocessor(self) -> AudioPreprocessor:
        return AudioPreprocessor(
            self.sample_rate,
            n_mels=self.n_mels,
            window_ms=self.window_ms,
            hop_ms=self.hop_ms,
            f_min=self.f_min,
            f_max=self.f_max,
            max_seconds=self.max_seconds,
            segment_seconds=self.segment_seconds,
            normalize=self.normalize,
        )


class SmallAudioCNN(nn.Module):
    """Residual 2-D convolutions over time and mel; one token per `frames_per_token` frames.

    Masked frames are zero before every convolution, as is the region beyond the end of an unpadded
    clip, so that padding changes nothing. The mel axis, halved by the stem and by every stage, is
    folded into the channels at the end, and a linear layer projects them to tokens.

    References:
        He et al. 2015, arXiv:1512.03385 (residual blocks, fig. 5 left).

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import SmallAudioCNNConfig
        >>> config = SmallAudioCNNConfig(widths=(8, 16), width=32)
        >>> second = np.zeros(16000, np.float32)
        >>> inputs = config.preprocessor()([second, second[:8000]])
        >>> tokens, keep = config.build()(**inputs)
        >>> tokens.shape, keep.sum(dim=1).tolist()
        (torch.Size([2, 28, 32]), [26, 13])
    """

    pooling: PoolingName = "attention"

    def __init__(self, config: SmallAudioCNNConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        halvings = int(math.log2(config.frames_per_token))
        # Time is halved as early as possible, which halves the cost of the later layers.
        strides = [(2 if i < halvings else 1, 2) for i in range(len(config.widths))]
        stem, *stages = config.widths
        self.stem = nn.Conv2d(1, stem, 5, stride=strides[0], padding=2, bias=False)
        self.stem_stride = strides[0][0]
        self.stem_norm = _norm(config, stem)
        self.stages = nn.ModuleList()
        width = stem
        for out, stride in zip(stages, strides[1:], strict=True):
            blocks = [
                AudioBlock(config, width if i == 0 else out, out, stride if i == 0 else (1, 1))
                for i in range(config.blocks)
            ]
            self.stages.append(AudioStage(blocks))
            width = out
        self.dropout = nn.Dropout1d(config.dropout)
        self.fold = nn.Linear(width * (config.n_mels >> len(config.widths)), config.width)
        self.fold_norm = nn.LayerNorm(config.width)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T', M) log-mel and (B, T') bool → tokens (B, N, D) and (B, N) bool."""
        x = features.masked_fill(~keep.unsqueeze(-1), 0).unsqueeze(1)  # (B, 1, T', M)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        keep = keep[:, :: self.stem_stride]
        x = torch.relu(self.stem_norm(x, keep))
        for stage in self.stages:
            keep = keep[:, :: cast(int, stage.time_stride)]
            if self.config.gradient_checkpointing and self.training:
                x = checkpointed(stage, x, keep)
            else:
                x = stage(x, keep)
        folded = x.transpose(1, 2).flatten(2)  # (B, N, C M')
        dropped = self.dropout(folded.transpose(1, 2)).transpose(1, 2)
        tokens = F.gelu(self.fold_norm(self.fold(dropped)))
        return tokens.masked_fill(~keep.unsqueeze(-1), 0), keep

    def layer_groups(self) -> LayerGroups:
        """Stem, then the stages, the last with the projection, as counted by `freeze: n`."""
        *first, last = self.stages
        return [
            [self.stem, self.stem_norm],
            *[[stage] for stage in first],
            [last, self.fold, self.fold_norm],
        ]


class AudioStage(nn.Module):
    """Sequence of residual blocks."""

    def __init__(self, blocks: list[AudioBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.time_stride = blocks[0].stride[0]

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, T, M) and the (B, T') bool of the output → (B, C', T', M')."""
        for block in self.blocks:
            x = block(x, keep)
        return x


class AudioBlock(nn.Module):
    """Two 3x3 convolutions over (time, mel) with a shortcut."""

    def __init__(
        self, config: SmallAudioCNNConfig, width: int, out: int, stride: tuple[int, int]
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = _norm(config, out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = _norm(config, out)
        # Sliced, not strided: see `ResidualBlock` of the image encoder for the fault of oneDNN.
        self.stride = stride
        self.shortcut: nn.Conv2d | None = None
        if stride != (1, 1) or width != out:
            self.shortcut = nn.Conv2d(width, out, 1, bias=False)
            self.shortcut_norm = _norm(config, out)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, T, M) and the (B, T') bool of the output → (B, C', T', M')."""
        y = torch.relu(self.first_norm(self.first(x), keep))
        y = self.second_norm(self.second(y), keep)
        if self.shortcut is None:
            return torch.relu(y + x)
        strided = x[..., :: self.stride[0], :: self.stride[1]]
        return torch.relu(y + self.shortcut_norm(self.shortcut(strided), keep))


def _norm(config: SmallAudioCNNConfig, width: int) -> nn.Module:
    if config.norm == "group":
        return MaskedGroupNorm(min(8, width), width)
    return MaskedBatchNorm(width)
