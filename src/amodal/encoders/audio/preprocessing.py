"""Log-mel features of waveforms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from amodal.encoders.audio.masked_norm import masked_moments

Normalization = Literal["clip", "band", "none"]

DYNAMIC_RANGE = 8.0  # decades of power below the loudest feature of a clip, as in Whisper
ROUND = 16  # frames; batches are padded to a multiple, as kernels are compiled per length
SILENCE = 1e-10  # power below which a clip counts as silent


class AudioPreprocessor:
    """Log-mel features of waveforms.

    The power spectrum of a Hann window at every hop is summed in triangular mel bands; its natural
    logarithm, at most `DYNAMIC_RANGE` decades below the loudest band of the clip, is normalised.
    Frame t is centred at sample t hop; samples outside the clip are 0, so that the features of a
    clip do not depend on the rest of the batch.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_mels: bands M.
        window_ms, hop_ms: in milliseconds.
        f_min, f_max: edges of the lowest and the highest band, in Hz; None: half the rate.
        max_seconds: longer clips are truncated.
        segment_seconds: longer files are embedded in parts of at most this length; None: whole.
        normalize: `clip` standardises all features of a clip, which removes its loudness;
            `band` standardises each band, which also removes the spectrum of microphone and
            room, and part of the signal in very short clips; `none` keeps the logarithm.

    References:
        Davis and Mermelstein 1980, IEEE Transactions ASSP 28(4) (mel bands).
        Radford et al. 2022, arXiv:2212.04356, section 2.2 (window, hop and dynamic range).

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import AudioPreprocessor
        >>> preprocessor = AudioPreprocessor(sample_rate=16000, n_mels=64)
        >>> inputs = preprocessor([np.zeros(16000, np.float32), np.zeros(8000, np.float32)])
        >>> inputs["features"].shape, inputs["keep"].sum(dim=1).tolist()
        (torch.Size([2, 112, 64]), [101, 51])
    """

    FILE = "audio_config.json"
    length_option, truncated_end = "max_seconds", "end"

    def __init__(
        self,
        sample_rate: int = 16000,
        *,
        n_mels: int = 64,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        f_min: float = 20.0,
        f_max: float | None = None,
        max_seconds: float = 30.0,
        segment_seconds: float | None = None,
        normalize: Normalization = "clip",
    ) -> None:
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.window_ms, self.hop_ms = window_ms, hop_ms
        self.f_min, self.f_max = f_min, f_max
        self.max_seconds, self.segment_seconds = max_seconds, segment_seconds
        self.normalize: Normalization = normalize
        self.window = max(1, round(sample_rate * window_ms / 1000))  # samples
        self.hop = max(1, round(sample_rate * hop_ms / 1000))  # samples
        self.size = 1 << (self.window - 1).bit_length()  # of the Fourier transform
        self.longest = max(1, round(max_seconds * sample_rate))  # samples
        # Periodic, so that frames of a steady tone have equal power.
        self._hann = torch.hann_window(self.window, periodic=True)
        bank = mel_filter_bank(
            num_frequency_bins=self.size // 2 + 1,
            num_mel_filters=n_mels,
            min_frequency=f_min,
            max_frequency=sample_rate / 2 if f_max is None else f_max,
            sampling_rate=sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self._bank = torch.from_numpy(np.asarray(bank, dtype=np.float32))  # (size / 2 + 1, M)

    def __call__(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        """(T,) float32 waveforms → `features` (B, T', M) float32, `keep` (B, T') bool."""
        truncated = [waveform[: self.longest] for waveform in waveforms]
        lengths = torch.tensor([1 + len(waveform) // self.hop for waveform in truncated])
        count = -(-int(lengths.max()) // ROUND) * ROUND if truncated else 1
        keep = torch.arange(count) < lengths[:, None] if truncated else torch.zeros(0, 1).bool()
        if not truncated:
            return {"features": torch.zeros(0, 1, self.n_mels), "keep": keep}
        # The half window on either side is silence; the rest of the padding is masked.
        padded = torch.zeros(len(truncated), (count - 1) * self.hop + self.size)
        for row, waveform in zip(padded, truncated, strict=True):
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
        """Number of waveforms longer than `max_seconds`."""
        return sum(len(waveform) > self.longest for waveform in waveforms)

    def save(self, folder: str | Path) -> None:
        """Write `audio_config.json`."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        bands = ("sample_rate", "n_mels", "window_ms", "hop_ms", "f_min", "f_max")
        names = (*bands, "max_seconds", "segment_seconds", "normalize")
        values = {name: getattr(self, name) for name in names}
        (path / self.FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> AudioPreprocessor:
        """Preprocessor from a folder written by `save`."""
        return cls(**json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8")))


def _log(mel: Tensor, keep: Tensor) -> Tensor:
    """Natural logarithm of (B, T', M) power, with the dynamic range of each clip limited."""
    loudest = mel.masked_fill(~keep.unsqueeze(-1), 0).amax(dim=(1, 2), keepdim=True)
    floor = loudest.clamp(min=SILENCE) * 10**-DYNAMIC_RANGE
    return torch.maximum(mel, floor).log()


def _normalized(x: Tensor, keep: Tensor, how: Normalization) -> Tensor:
    """(B, T', M) standardised over the frames that are kept."""
    if how == "none":
        return x
    axes = (1,) if how == "band" else (1, 2)
    mean, variance = masked_moments(x, keep.unsqueeze(-1), axes)
    # A hundredth of a neper of deviation is silence or a steady tone, not speech.
    return (x - mean) / (variance + 1e-4).sqrt()
