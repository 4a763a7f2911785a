"""Waveforms to the inputs of a Hugging Face audio model, by the model's own feature extractor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import (
    ASTFeatureExtractor,
    ClapFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

Extractor = Any  # of transformers: waveforms in, a mapping of tensors out
SHORTEST = 0.025  # seconds; shorter clips end in silence, as convolutions need so much for a token


class FeatureExtraction:
    """The inputs of a Hugging Face audio model.

    Every row is independent of the rest of the batch: the extractor pads or truncates spectrograms
    to a fixed length, and waveforms come with a mask.

    Args:
        extractor: of the model.
        max_seconds: longer clips are truncated; never more than the model reads.
        segment_seconds: longer files are embedded in parts of at most this length; None: whole.

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import FeatureExtraction
        >>> from transformers import Wav2Vec2FeatureExtractor
        >>> prepare = FeatureExtraction(Wav2Vec2FeatureExtractor(), max_seconds=1.0)
        >>> tensors = prepare([np.ones(12000, np.float32), np.ones(20000, np.float32)])
        >>> tensors["input_values"].shape, tensors["attention_mask"].sum(dim=1).tolist()
        (torch.Size([2, 16000]), [12000, 16000])
    """

    FILE = "clip_length.json"
    length_option, truncated_end = "max_seconds", "end"

    def __init__(
        self, extractor: Extractor, max_seconds: float, segment_seconds: float | None = None
    ) -> None:
        self.extractor = extractor
        self.sample_rate = int(extractor.sampling_rate)
        self.max_seconds, self.segment_seconds = max_seconds, segment_seconds
        limit = getattr(extractor, "nb_max_samples", None)  # of a model with inputs of one length
        longest = max(1, round(max_seconds * self.sample_rate))
        self.longest = longest if limit is None else min(longest, int(limit))  # samples

    def __call__(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        """(T,) float32 waveforms → the tensors of the model, `attention_mask` where it has one."""
        # Truncated here, as some extractors take a random part of a longer clip.
        shortest = min(self.longest, round(SHORTEST * self.sample_rate))
        clips = [
            np.pad(waveform[: self.longest], (0, max(0, shortest - len(waveform))))
            for waveform in waveforms
        ]
        found = self.extractor(
            # An extractor cannot make a batch of nothing.
            clips or [np.zeros(self.longest, np.float32)],
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            **_options(self.extractor),
        )
        return {name: torch.as_tensor(rows)[: len(clips)] for name, rows in found.items()}

    def count_truncated(self, waveforms: list[np.ndarray]) -> int:
        """Number of waveforms longer than `max_seconds`."""
        return sum(len(waveform) > self.longest for waveform in waveforms)

    def save(self, folder: str | Path) -> None:
        """Write the configuration of the extractor, and `clip_length.json`."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.extractor.save_pretrained(path)
        values = {name: getattr(self, name) for name in ("max_seconds", "segment_seconds")}
        (path / self.FILE).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> FeatureExtraction:
        """Feature extraction from a folder written by `save`."""
        path = Path(folder)
        values = json.loads((path / cls.FILE).read_text(encoding="utf-8"))
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        return cls(extractor, **values)


def _options(extractor: Extractor) -> dict[str, Any]:
    """Waveforms are padded to the longest one with a mask; spectrograms have a fixed length."""
    if isinstance(extractor, Wav2Vec2FeatureExtractor):
        return {"padding": True, "return_attention_mask": True}
    if isinstance(extractor, WhisperFeatureExtractor):
        return {"return_attention_mask": True}
    return {}


def default_extractor(config: Any) -> Extractor:
    """The feature extractor of a model with random weights, by its configuration.

    Raises:
        ValueError: it is not an audio model that is known.
    """
    make = EXTRACTORS.get(config.model_type)
    if make is None:
        raise ValueError(
            f"{config.model_type}: not an audio encoder that is known; expected one of "
            f"{', '.join(EXTRACTORS)}"
        )
    return make(config)


def _of_ast(config: Any) -> Extractor:
    return ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)


def _of_whisper(config: Any) -> Extractor:
    # Two frames of 10 ms make one position.
    return WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // 50
    )


def _of_clap(config: Any) -> Extractor:
    audio = config.audio_config
    # The spectrogram is folded into a square of that side; a frame takes 10 ms.
    frames = audio.spec_size * (audio.spec_size // audio.num_mel_bins)
    return ClapFeatureExtractor(
        feature_size=audio.num_mel_bins,
        max_length_s=max(1, frames // 100),
        truncation="fusion" if audio.enable_fusion else "rand_trunc",
    )


def _of_waveforms(config: Any) -> Extractor:
    return Wav2Vec2FeatureExtractor()


EXTRACTORS: dict[str, Callable[[Any], Extractor]] = {
    "audio-spectrogram-transformer": _of_ast,
    "clap": _of_clap,
    "whisper": _of_whisper,
    **dict.fromkeys(("data2vec-audio", "hubert", "wav2vec2", "wavlm"), _of_waveforms),
}
