"""Sounds: log-mel features, and a small convolutional network that never sees its padding."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from amodal.encoders.checkpointing import checkpointed
from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName

Normalization = Literal["utterance", "channel", "none"]
DYNAMIC_RANGE = 8.0  # decades of power below the loudest feature of a sound, as in Whisper
ROUND = 16  # frames; batches of few different lengths, since kernels are made for each
SILENCE = 1e-10  # power below which a sound has no features


class SmallAudioCNNConfig(EncoderConfig):
    """What `SmallAudioCNN` hears, and its sizes."""

    kind: Literal["small_audio_cnn"] = "small_audio_cnn"
    sample_rate: int = Field(16000, ge=1000)  # Hz; files of other rates are resampled
    mels: int = Field(64, ge=8)
    window_ms: float = Field(25.0, gt=0)
    hop_ms: float = Field(10.0, gt=0)
    f_min: float = Field(20.0, ge=0)  # Hz
    f_max: float | None = Field(None, gt=0)  # Hz; None: half the sample rate
    max_seconds: float = Field(30.0, gt=0)  # longer sounds are cut
    normalize: Normalization = "utterance"
    widths: tuple[int, ...] = Field((32, 64, 128, 128), min_length=2)  # stem, then the stages
    width: int = Field(256, ge=1)  # of a token
    blocks: int = Field(1, ge=1)  # residual blocks per stage
    token_frames: int = Field(4, ge=1)  # frames per token, a power of 2
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
        if self.token_frames & (self.token_frames - 1) or self.token_frames > 2**halvings:
            raise ValueError(
                f"token_frames: expected a power of 2 up to {2**halvings}, one halving per width, "
                f"got {self.token_frames}"
            )
        if self.mels % 2**halvings:
            raise ValueError(
                f"mels: every width halves them, so {2**halvings} must divide them, got {self.mels}"
            )
        return self

    def build(self, pretrained: bool = True) -> SmallAudioCNN:
        """The encoder with random weights; there are no pretrained ones."""
        return SmallAudioCNN(self)

    def preprocessor(self) -> AudioPreprocessor:
        return AudioPreprocessor(
            self.sample_rate,
            mels=self.mels,
            window_ms=self.window_ms,
            hop_ms=self.hop_ms,
            f_min=self.f_min,
            f_max=self.f_max,
            max_seconds=self.max_seconds,
            normalize=self.normalize,
        )


class AudioPreprocessor:
    """Waveforms to log-mel features.

    The power of a Hann window around every hop is summed in triangular bands that are equally wide
    in mel; its natural logarithm, at most `DYNAMIC_RANGE` decades below the loudest band of the
    sound, is normalised. Frame t is centred at sample t hop; what lies outside the sound is 0, so
    that the features of a sound do not depend on what it is batched with.

    Args:
        sample_rate: of the waveforms, in Hz.
        mels: bands M.
        window_ms, hop_ms: in milliseconds.
        f_min, f_max: edges of the lowest and the highest band, in Hz; None: half the rate.
        max_seconds: longer sounds are cut.
        normalize: `utterance` takes the mean and divides by the deviation of all the features of
            a sound, which removes how loud it is; `channel` does so band by band, which also
            removes the spectrum of microphone and room, and of a short word some of its own;
            `none` leaves the logarithm.

    References:
        Davis and Mermelstein 1980, IEEE Transactions ASSP 28(4) (mel bands).
        Radford et al. 2022, arXiv:2212.04356, section 2.2 (window, hop and dynamic range).
    """

    FILE = "audio_config.json"

    def __init__(
        self,
        sample_rate: int = 16000,
        *,
        mels: int = 64,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        f_min: float = 20.0,
        f_max: float | None = None,
        max_seconds: float = 30.0,
        normalize: Normalization = "utterance",
    ) -> None:
        self.sample_rate = sample_rate
        self.mels = mels
        self.window_ms, self.hop_ms = window_ms, hop_ms
        self.f_min, self.f_max = f_min, f_max
        self.max_seconds = max_seconds
        self.normalize: Normalization = normalize
        self.window = max(1, round(sample_rate * window_ms / 1000))  # samples
        self.hop = max(1, round(sample_rate * hop_ms / 1000))  # samples
        self.size = 1 << (self.window - 1).bit_length()  # of the Fourier transform
        self.longest = max(1, round(max_seconds * sample_rate))  # samples
        # Periodic, so that frames of a steady tone have equal power.
        self._hann = torch.hann_window(self.window, periodic=True)
        bank = mel_filter_bank(
            num_frequency_bins=self.size // 2 + 1,
            num_mel_filters=mels,
            min_frequency=f_min,
            max_frequency=sample_rate / 2 if f_max is None else f_max,
            sampling_rate=sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self._bank = torch.from_numpy(np.asarray(bank, dtype=np.float32))  # (size / 2 + 1, M)

    def __call__(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        """(T,) float32 waveforms → `features` (B, T', M) float32, `keep` (B, T') bool."""
        cut = [waveform[: self.longest] for waveform in waveforms]
        lengths = torch.tensor([1 + len(waveform) // self.hop for waveform in cut])
        count = -(-int(lengths.max()) // ROUND) * ROUND if cut else 1
        keep = torch.arange(count) < lengths[:, None] if cut else torch.zeros(0, 1).bool()
        if not cut:
            return {"features": torch.zeros(0, 1, self.mels), "keep": keep}
        # The half window on either side is silence; the rest of the padding is never kept.
        padded = torch.zeros(len(cut), (count - 1) * self.hop + self.size)
        for row, waveform in zip(padded, cut, strict=True):
            row[self.size // 2 : self.size // 2 + len(waveform)] = torch.from_numpy(
                np.ascontiguousarray(waveform, dtype=np.float32)
            )
        spectrum = torch.stft(
            padded,
            self.size,
            hop_length=self.hop,
            win_length=self.window,
            window=self._hann,
            center=False,
            return_complex=True,
        )  # (B, size / 2 + 1, T')
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self._bank  # (B, T', M)
        features = _normalized(_log(mel, keep), keep, self.normalize)
        return {"features": features.masked_fill(~keep.unsqueeze(-1), 0), "keep": keep}

    def count_truncated(self, waveforms: list[np.ndarray]) -> int:
        """How many of the waveforms are longer than `max_seconds`."""
        return sum(len(waveform) > self.longest for waveform in waveforms)

    def save(self, folder: str | Path) -> None:
        """Write `audio_config.json`."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        names = ("mels", "window_ms", "hop_ms", "f_min", "f_max", "max_seconds", "normalize")
        values = {name: getattr(self, name) for name in ("sample_rate", *names)}
        (path / self.FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> AudioPreprocessor:
        """Read what `save` has written."""
        return cls(**json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8")))


def _log(mel: Tensor, keep: Tensor) -> Tensor:
    """Natural logarithm of (B, T', M) power, with the dynamic range of each sound limited."""
    loudest = mel.masked_fill(~keep.unsqueeze(-1), 0).amax(dim=(1, 2), keepdim=True)
    floor = loudest.clamp(min=SILENCE) * 10**-DYNAMIC_RANGE
    return torch.maximum(mel, floor).log()


def _normalized(x: Tensor, keep: Tensor, how: Normalization) -> Tensor:
    """(B, T', M) less its mean and over its deviation, of the frames that are kept."""
    if how == "none":
        return x
    axes = (1,) if how == "channel" else (1, 2)
    mean, variance = masked_moments(x, keep.unsqueeze(-1), axes)
    # A hundredth of a neper of deviation is silence or a steady tone, not speech.
    return (x - mean) / (variance + 1e-4).sqrt()


def masked_moments(x: Tensor, keep: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of what is kept, over `axes`.

    Args:
        x: any shape.
        keep: bool, broadcasts to x.
        axes: they stay, with length 1.

    Returns:
        Mean and variance; zeros where nothing is kept.
    """
    keep = keep.expand_as(x)
    over = keep.sum(dim=axes, keepdim=True).clamp(min=1).to(x.dtype)
    mean = x.masked_fill(~keep, 0).sum(dim=axes, keepdim=True) / over
    centred = (x - mean).masked_fill(~keep, 0)
    return mean, centred.square().sum(dim=axes, keepdim=True) / over


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch normalization of (B, C, T, M) whose statistics leave out frames that are not kept.

    On the kept frames it equals `BatchNorm2d`. What comes out where nothing is kept is 0. A batch
    without two values per channel has no variance: it is normalised as in evaluation mode.

    References:
        Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, T, M) and (B, T) bool → (B, C, T, M)."""
        frames = x.permute(0, 2, 3, 1)  # (B, T, M, C), contiguous where channels come last
        place = keep.flatten().nonzero()[:, 0]  # (K,)
        kept = frames.flatten(0, 1)[place]  # (K, M, C)
        training = self.training and kept.shape[0] * kept.shape[1] > 1
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        # As rows (K M, C): several times as quick on a CPU as (B, C, T, M) with channels last.
        normed = F.batch_norm(
            kept.flatten(0, 1),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum if self.momentum is not None else 0.1,
            self.eps,
        ).view_as(kept)
        spread = normed.new_zeros(frames.flatten(0, 1).shape).index_copy(0, place, normed)
        return spread.view(frames.shape).permute(0, 3, 1, 2)


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalization of (B, C, T, M) whose statistics leave out frames that are not kept.

    References:
        Wu and He 2018, arXiv:1803.08494, eq. 7.
    """

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, T, M) and (B, T) bool → (B, C, T, M), 0 where nothing is kept."""
        there = keep[:, None, :, None]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        groups = wide.unflatten(1, (self.num_groups, -1))  # (B, G, C / G, T, M)
        mean, variance = masked_moments(groups, there.unsqueeze(1), (2, 3, 4))
        y = ((groups - mean) * (variance + self.eps).rsqrt()).flatten(1, 2).to(x.dtype)
        y = y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return y.masked_fill(~there, 0)


class SmallAudioCNN(nn.Module):
    """Residual 2-D convolutions over time and mel; one token per `token_frames` frames.

    Frames that are not kept are zero before every convolution, which is what lies beyond the end
    of an unpadded sound too, so that padding changes nothing. The mel axis, halved by the stem and
    by every stage, is folded into the channels at the end, and a layer makes tokens of that.

    References:
        He et al. 2015, arXiv:1512.03385 (residual blocks, fig. 5 left).
    """

    pooling: PoolingName = "attention"

    def __init__(self, config: SmallAudioCNNConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        halvings = int(math.log2(config.token_frames))
        # Time is halved as early as it goes: what follows costs half as much.
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
        self.fold = nn.Linear(width * (config.mels >> len(config.widths)), config.width)
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
        """Stem, then the stages, the last with what makes tokens: what `freeze: n` counts."""
        *first, last = self.stages
        return [
            [self.stem, self.stem_norm],
            *[[stage] for stage in first],
            [last, self.fold, self.fold_norm],
        ]


class AudioStage(nn.Module):
    """Residual blocks, one after another."""

    def __init__(self, blocks: list[AudioBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.time_stride = blocks[0].stride[0]

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, T, M) and the (B, T') bool of what comes out → (B, C', T', M')."""
        for block in self.blocks:
            x = block(x, keep)
        return x


class AudioBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, over (time, mel)."""

    def __init__(
        self, config: SmallAudioCNNConfig, width: int, out: int, stride: tuple[int, int]
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.first_norm = _norm(config, out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = _norm(config, out)
        # Sliced, not strided: see `small_cnn.ResidualBlock` for what oneDNN does otherwise.
        self.stride = stride
        self.shortcut: nn.Conv2d | None = None
        if stride != (1, 1) or width != out:
            self.shortcut = nn.Conv2d(width, out, 1, bias=False)
            self.shortcut_norm = _norm(config, out)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """(B, C, T, M) and the (B, T') bool of what comes out → (B, C', T', M')."""
        y = torch.relu(self.first_norm(self.first(x), keep))
        y = self.second_norm(self.second(y), keep)
        if self.shortcut is None:
            return torch.relu(y + x)
        seen = x[..., :: self.stride[0], :: self.stride[1]]
        return torch.relu(y + self.shortcut_norm(self.shortcut(seen), keep))


def _norm(config: SmallAudioCNNConfig, width: int) -> nn.Module:
    if config.norm == "group":
        return MaskedGroupNorm(min(8, width), width)
    return MaskedBatchNorm(width)
