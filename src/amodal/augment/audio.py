"""Sounds: changed as waveforms, then hidden in part as features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from amodal.augment.config import (
    AdditiveNoise,
    FrequencyMask,
    RandomGain,
    SpeedChange,
    TimeMask,
    TimeShift,
)
from amodal.data.decode_audio import resample

Rngs = Sequence[np.random.Generator]
SPEED_STEPS = 100  # speeds are whole hundredths, so that few resampling filters are needed


class AudioAugmentation:
    """The `augment.audio` part of a recipe.

    Steps come in the order of the recipe; those on waveforms before those on features, wherever
    they stand. Each sample draws from its own generator and from nothing else, and how much it
    draws depends on the steps and on its own length only.

    Args:
        steps: of the recipe.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        masks = (TimeMask, FrequencyMask)
        self.on_waveforms = [step for step in steps if not isinstance(step, masks)]
        self.on_features = [step for step in steps if isinstance(step, masks)]

    def waveforms(self, waveforms: Sequence[np.ndarray], rngs: Rngs) -> list[np.ndarray]:
        """Change B waveforms (T,) float32 in [-1, 1]; a change of speed changes T."""
        found = []
        for waveform, rng in zip(waveforms, rngs, strict=True):
            for step in self.on_waveforms:
                waveform = _changed(step, waveform, rng)
            found.append(waveform)
        return found

    def features(self, features: dict[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        """Hide frames and bands of `features` (B, T', M), of which `keep` (B, T') bool count."""
        if not self.on_features:
            return features
        x, keep = features["features"].clone(), features["keep"]
        for row, kept, rng in zip(x, keep.sum(dim=1).tolist(), rngs, strict=True):
            sound = row[:kept]
            # What is hidden becomes the mean of the sound, which says nothing.
            fill = float(sound.mean()) if kept else 0.0
            for step in self.on_features:
                axis = 0 if isinstance(step, TimeMask) else 1
                for start, stop in mask_spans(step, sound.shape[axis], rng):
                    sound.narrow(axis, start, stop - start).fill_(fill)
        return {**features, "features": x}


def _changed(step: Any, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if isinstance(step, SpeedChange):
        return change_speed(waveform, step.low, step.high, rng)
    if isinstance(step, RandomGain):
        return change_gain(waveform, step.low_db, step.high_db, rng)
    if isinstance(step, TimeShift):
        return shift(waveform, step.fraction, rng)
    if isinstance(step, AdditiveNoise):
        return add_noise(waveform, step, rng)
    raise TypeError(f"{type(step).__name__} is no step for waveforms")


def change_speed(
    waveform: np.ndarray, low: float, high: float, rng: np.random.Generator
) -> np.ndarray:
    """Play faster or slower by a factor in low … high: pitch and formants move with it.

    References:
        Ko et al. 2015, Audio Augmentation for Speech Recognition, Interspeech, section 2.
    """
    played = max(1, round(rng.uniform(low, high) * SPEED_STEPS))
    found = resample(waveform, played, SPEED_STEPS)
    return found.clip(-1, 1).astype(np.float32, copy=False)


def change_gain(
    waveform: np.ndarray, low_db: float, high_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Louder or quieter by low_db … high_db, but never so loud that it would clip."""
    factor = 10 ** (rng.uniform(low_db, high_db) / 20)
    peak = float(np.abs(waveform).max(initial=0.0))
    factor = min(factor, max(1.0, 1 / peak)) if peak > 0 else factor
    return (waveform * factor).clip(-1, 1).astype(np.float32, copy=False)


def shift(waveform: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Moved by up to a fraction of its length, either way; silence comes in, the end falls out."""
    by = round(rng.uniform(-fraction, fraction) * len(waveform))
    found = np.zeros_like(waveform)
    if by >= 0:
        found[by:] = waveform[: len(waveform) - by]
    else:
        found[:by] = waveform[-by:]
    return found


def add_noise(waveform: np.ndarray, step: AdditiveNoise, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power lies a drawn number of dB below that of the sound.

    Its spectrum falls with frequency f as f^-colour: 0 is white, 1 pink, 2 brown.
    """
    chosen = rng.random() < step.probability
    ratio_db = rng.uniform(step.low_snr_db, step.high_snr_db)
    colour = rng.uniform(0, step.colour)
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
    """`step.count` spans of random width and place in 0 … length, each as (start, stop).

    The width is uniform in 0 … the smaller of `step.width` and `step.share` of the length.

    References:
        Park et al. 2019, arXiv:1904.08779, section 2 (and its upper bound p on time masks).
    """
    widest = min(step.width, int(step.share * length))
    spans = []
    for width, place in rng.random((step.count, 2)):
        size = int(width * (widest + 1))
        start = int(place * (length - size + 1))
        spans.append((start, start + size))
    return spans
