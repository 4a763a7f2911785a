"""Audio: files or waveforms; log-mel features with augmentation; images of their waveform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from amodal.augment.audio import AudioAugmentation
from amodal.augment.config import AUDIO_STEPS
from amodal.data.content import content_of
from amodal.data.decode_audio import SUFFIXES, audio_segments, decode_audio
from amodal.data.inputs import BatchContext, Effects, InputRows, spread
from amodal.data.near_duplicates import Fingerprint, content_fingerprint
from amodal.data.record import DataError, Record
from amodal.data.segment import Segment
from amodal.encoders.audio.feature_extraction import FeatureExtraction
from amodal.encoders.audio.preprocessing import AudioPreprocessor
from amodal.modalities.modality import ColumnStyle, InputOptions, Preview, Records

WIDTH, HEIGHT = 256, 64  # pixels of the image of a waveform
AnyPreprocessor = AudioPreprocessor | FeatureExtraction


class AudioModality:
    """Waveforms as log-mel features."""

    name: ClassVar[str] = "audio"
    column_style: ClassVar[ColumnStyle] = "media"
    is_text: ClassVar[bool] = False
    augmentations: ClassVar[tuple[type, ...]] = AUDIO_STEPS
    file_suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def fit(self, config: Any, name: str, records: Records | None) -> AnyPreprocessor:
        found: AnyPreprocessor = config.preprocessor()
        return found

    def load(self, folder: Path) -> AnyPreprocessor:
        if (folder / FeatureExtraction.FILE).is_file():
            return FeatureExtraction.load(folder)
        return AudioPreprocessor.load(folder)

    def input(self, name: str, prepare: AnyPreprocessor, options: InputOptions) -> AudioInput:
        augmentation = AudioAugmentation(options.steps) if options.steps is not None else None
        if augmentation is not None and isinstance(prepare, FeatureExtraction):
            masks = [step.kind for step in augmentation.on_features]
            if masks:
                raise DataError(
                    f"augment.{name}: {', '.join(masks)} mask log-mel features, and the encoder of "
                    f"{name} has a feature extractor of its own; use steps on waveforms, or "
                    "kind: small_audio_cnn"
                )
        return AudioInput(name, prepare, augmentation)

    def values(self, name: str, prepare: AnyPreprocessor, record: Record) -> list[Any]:
        return [
            part
            for value in _values(record.get(name))
            for part in _parts(value, record["origin"], prepare.segment_seconds)
        ]

    def decode(self, value: Any, origin: str, prepare: AnyPreprocessor) -> np.ndarray:
        return _waveform(value, origin, prepare.sample_rate)

    def content_key(self, value: Any) -> str:
        if isinstance(value, str | Path):
            return str(value)
        if isinstance(value, Segment):
            return f"{self.content_key(value.file)} {value.start:.3f} {value.end:.3f}"
        if isinstance(value, bytes):
            return blake2b(value, digest_size=16).hexdigest()
        if isinstance(value, tuple):
            samples = np.ascontiguousarray(value[0])
            return f"{value[1]} {samples.shape} {_digest(samples)}"
        if isinstance(value, np.ndarray):
            return f"{value.shape} {_digest(np.ascontiguousarray(value))}"
        return f"object {id(value)}"

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        # Equal files alone: a recording is long, and decoding it would take longer than training.
        files = (v for v in _values(record.get(name)) if isinstance(v, str | Path | bytes))
        contents = (content_of(file, record["origin"], self.name)[0] for file in files)
        return [content_fingerprint(content) for content in contents]

    def preview(self, value: Any, decoded: np.ndarray | None = None) -> Preview:
        span = None
        if isinstance(value, Segment):
            value, span = value.file, (value.start, value.end)
        path = str(value) if isinstance(value, str | Path) else None
        image = waveform_image(decoded) if decoded is not None else None
        return Preview(path=path, image=image, span=span)

    def parse(self, text: str) -> str:
        return text

    def follows(self, value: Any, effects: Effects) -> bool:
        return False

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Audio encoders start as they were built."""

    def cache_decoder(self, config: Any) -> Callable[[Any, str], np.ndarray]:
        rate = config.preprocessor().sample_rate
        return lambda value, origin: decode_audio(value, origin, rate)


@dataclass(frozen=True)
class AudioInput:
    """An input that takes audio."""

    name: str
    prepare: AnyPreprocessor
    augmentation: AudioAugmentation | None = None
    has_effects: ClassVar[bool] = False

    def read(self, record: Record) -> np.ndarray | None:
        found = _values(record.get(self.name))
        if not found:
            return None
        origin, prepare = record["origin"], self.prepare
        first = _parts(found[0], origin, prepare.segment_seconds)[0]
        return _waveform(first, origin, prepare.sample_rate)

    def batch(self, values: Sequence[np.ndarray | None], context: BatchContext) -> InputRows:
        """Log-mel features of one waveform per item."""
        there = torch.tensor([value is not None for value in values], dtype=torch.bool)
        waveforms = [value for value in values if value is not None]
        truncated = self.prepare.count_truncated(waveforms)
        if self.augmentation is None:
            features = self.prepare(waveforms)
        else:
            rngs = [
                rng for rng, value in zip(context.rngs, values, strict=True) if value is not None
            ]
            features = self.prepare(self.augmentation.waveforms(waveforms, rngs))
            features = self.augmentation.features(features, rngs)
        return InputRows(spread(features, there), there[:, None], truncated=truncated)


def waveform_image(waveform: np.ndarray) -> np.ndarray:
    """The envelope of a waveform (T,) over time, uint8 (64, 256, 3)."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    if not len(waveform):
        return image
    edges = np.linspace(0, len(waveform), WIDTH + 1).astype(int)
    loudest = np.abs(waveform).max() or 1.0
    for x, (start, stop) in enumerate(pairwise(edges.tolist())):
        part = waveform[start : max(stop, start + 1)] / loudest
        top = round((1 - float(part.max())) / 2 * (HEIGHT - 1))
        bottom = round((1 - float(part.min())) / 2 * (HEIGHT - 1))
        image[top : bottom + 1, x] = (40, 90, 160)
    return image


def _waveform(value: Any, origin: str, sample_rate: int) -> np.ndarray:
    """(T,) float32 samples of a value; what is decoded already is returned as it is."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == np.float32:
        return value
    return decode_audio(value, origin, sample_rate)


def _values(value: Any) -> list[Any]:
    """The recordings of a record: several ones stand in a list; a tuple is a waveform."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _parts(value: Any, origin: str, seconds: float | None) -> list[Any]:
    """A recording in the parts that are embedded on their own."""
    if seconds is None or isinstance(value, np.ndarray):
        return [value]
    return audio_segments(value, origin, seconds)


def _digest(samples: np.ndarray) -> str:
    return blake2b(samples.tobytes(), digest_size=16).hexdigest()
