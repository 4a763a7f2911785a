"""Audio augmentation: of waveforms, and SpecAugment masks of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from amodal.augment.config import (
    AdditiveNoise,
    FrequencyMask,
    RandomGain,
    SpeedPerturbation,
    TimeMask,
    TimeShift,
)
from amodal.data.decode_audio import resample

Rngs = Sequence[np.random.Generator]
SPEED_STEPS = 100  # speeds are multiples of 1/100, so that few resampling filters are needed


class AudioAugmentation:
    """Augmentation of waveforms and of their features.

    Steps are applied in the order of the recipe, those on waveforms before those on features. Each
    clip draws from its own generator alone, and the number of draws depends only on the steps and
    on its length.

    Args:
        steps: the `augment.audio` part of a recipe.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import AudioAugmentation, RandomGain, TimeShift
        >>> augmentation = AudioAugmentation([RandomGain(), TimeShift()])
        >>> waveforms = [np.ones(8, np.float32) / 4, np.ones(6, np.float32) / 4]
        >>> rngs = [np.random.default_rng(i) for i in range(2)]
        >>> augmented = augmentation.waveforms(waveforms, rngs)
        >>> [waveform.shape for waveform in augmented]
        [(8,), (6,)]
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        masks = (TimeMask, FrequencyMask)
        self.on_waveforms = [step for step in steps if not isinstance(step, masks)]
        self.on_features = [step for step in steps if isinstance(step, masks)]

    def waveforms(self, waveforms: Sequence[np.ndarray], rngs: Rngs) -> list[np.ndarray]:
        """Augment B waveforms (T,) float32 in [-1, 1]; a change of speed changes T."""
        found = []
        for waveform, rng in zip(waveforms, rngs, strict=True):
            for step in self.on_waveforms:
                waveform = _changed(step, waveform, rng)
            found.append(waveform)
        return found

    def features(self, features: dict[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        """Mask frames and bands of `features` (B, T', M), as far as `keep` (B, T') is True."""
        if not self.on_features:
            return features
        x, keep = features["features"].clone(), features["keep"]
        for row, kept, rng in zip(x, keep.sum(dim=1).tolist(), rngs, strict=True):
            clip = row[:kept]
            # Masked values become the mean of the clip, which has no information.
            fill = float(clip.mean()) if kept else 0.0
            for step in self.on_features:
                axis = 0 if isinstance(step, TimeMask) else 1
                for start, stop in mask_spans(step, clip.shape[axis], rng):
                    clip.narrow(axis, start, stop - start).fill_(fill)
        return {**features, "features": x}


def _changed(step: Any, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if isinstance(step, SpeedPerturbation):
        return change_speed(waveform, step.low, step.high, rng)
    if isinstance(step, RandomGain):
        return change_gain(waveform, step.low_db, step.high_db, rng)
    if isinstance(step, TimeShift):
        return time_shift(waveform, step.fraction, rng)
    if isinstance(step, AdditiveNoise):
        return add_noise(waveform, step, rng)
    raise TypeError(f"{type(step).__name__} is not an augmentation of waveforms")


def change_speed(
    waveform: np.ndarray, low: float, high: float, rng: np.random.Generator
) -> np.ndarray:
    """Speed perturbation by a factor in low … high, which also changes the pitch.

    References:
        Ko et al. 2015, Audio Augmentation for Speech Recognition, Interspeech, section 2.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import change_speed
        >>> waveform = np.sin(np.arange(1600) / 10).astype(np.float32)
        >>> change_speed(waveform, 2.0, 2.0, np.random.default_rng(0)).shape
        (800,)
    """
    played = max(1, round(rng.uniform(low, high) * SPEED_STEPS))
    found = resample(waveform, played, SPEED_STEPS)
    return found.clip(-1, 1).astype(np.float32, copy=False)


def change_gain(
    waveform: np.ndarray, low_db: float, high_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Random gain of low_db … high_db, limited so that the waveform does not clip.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import change_gain
        >>> waveform = np.array([0.1, -0.1], np.float32)
        >>> change_gain(waveform, 20.0, 20.0, np.random.default_rng(0)).tolist()  # 20 dB louder
        [1.0, -1.0]
    """
    factor = 10 ** (rng.uniform(low_db, high_db) / 20)
    peak = float(np.abs(waveform).max(initial=0.0))
    factor = min(factor, max(1.0, 1 / peak)) if peak > 0 else factor
    return (waveform * factor).clip(-1, 1).astype(np.float32, copy=False)


def time_shift(waveform: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Random shift by up to a fraction of the length, either way, filled with silence.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import time_shift
        >>> time_shift(np.arange(1, 6, dtype=np.float32), 0.5, np.random.default_rng(0)).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    by = round(rng.uniform(-fraction, fraction) * len(waveform))
    found = np.zeros_like(waveform)
    if by >= 0:
        found[by:] = waveform[: len(waveform) - by]
    else:
        found[:by] = waveform[-by:]
    return found


def add_noise(waveform: np.ndarray, step: AdditiveNoise, rng: np.random.Generator) -> np.ndarray:
    """Additive Gaussian noise at a random signal-to-noise ratio.

    Its power spectrum is f^-colour: 0 is white, 1 pink, 2 brown noise.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import AdditiveNoise, add_noise
        >>> step = AdditiveNoise(probability=1.0, low_snr_db=20.0, high_snr_db=20.0)
        >>> waveform = np.sin(np.arange(1600) / 10).astype(np.float32) / 2
        >>> noise = add_noise(waveform, step, np.random.default_rng(0)) - waveform
        >>> float(round(10 * np.log10(np.mean(waveform**2) / np.mean(noise**2)), 1))
        20.0
    """
    chosen = rng.random() < step.probability
    ratio_db = rng.uniform(step.low_snr_db, step.high_snr_db)
    colour = rng.uniform(0, step.max_exponent)
    noise = rng.standard_normal(len(waveform))
    power = float(np.square(waveform, dtype=np.float64).mean())
    if not chosen or power == 0:
        return waveform
    if colour > 0:
        spectrum = np.fft.rfft(noise)
        frequency = np.arange(len(spectrum), dtype=np.float64).clip(min=1)
        noise = np.fft.irfft(spectrum * frequency ** (-colour / 2), len(waveform))
    scale = (power / 10 ** (ratio_db / 10) / max(float(np.square(noise).mean()), 1e-30)) ** 0.5
    found: np.ndarray = (waveform + scale * noise).clip(-1, 1).astype(np.float32)
    return found


def mask_spans(
    step: TimeMask | FrequencyMask, length: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """SpecAugment masks: `step.num_masks` spans (start, stop) of random width and position.

    The width is uniform in 0 … the smaller of `step.max_width` and `step.max_fraction` of the
    length.

    References:
        Park et al. 2019, arXiv:1904.08779, section 2 (and its upper bound p on time masks).
    """
    widest = min(step.max_width, int(step.max_fraction * length))
    spans = []
    for width, place in rng.random((step.num_masks, 2)):
        size = int(width * (widest + 1))
        start = int(place * (length - size + 1))
        spans.append((start, start + size))
    return spans
