"""Videos: files, bytes or arrays of frames; clips with augmentation; strips of their frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from amodal.augment.config import VIDEO_STEPS
from amodal.augment.video import VideoAugmentation
from amodal.data.content import open_content
from amodal.data.decode_video import SUFFIXES, decode_video, file_of, video_segments
from amodal.data.inputs import BatchContext, Effects, InputRows
from amodal.data.near_duplicates import Fingerprint, content_fingerprint
from amodal.data.record import Record, media_of
from amodal.data.segment import Segment
from amodal.encoders.video.preprocessing import VideoPreprocessor
from amodal.modalities.image import FLIP
from amodal.modalities.modality import ColumnStyle, InputOptions, Preview, Records

REVERSAL = "time_reversal"  # effect that captions and other videos of the item follow
STRIP_FRAMES = 4  # of the image that shows a clip
HASHED_BYTES = 1 << 20  # at either end of a file, with its length: enough to tell files apart
CACHED_FRAMES = 2  # kept per frame of the encoder, so that a random start has some to choose from


class VideoModality:
    """Videos as clips of frames."""

    name: ClassVar[str] = "video"
    column_style: ClassVar[ColumnStyle] = "media"
    is_text: ClassVar[bool] = False
    augmentations: ClassVar[tuple[type, ...]] = VIDEO_STEPS
    file_suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def fit(self, config: Any, name: str, records: Records | None) -> VideoPreprocessor:
        found: VideoPreprocessor = config.preprocessor()
        return found

    def load(self, folder: Path) -> VideoPreprocessor:
        return VideoPreprocessor.load(folder)

    def input(self, name: str, prepare: VideoPreprocessor, options: InputOptions) -> VideoInput:
        augmentation = None
        if options.steps is not None:
            augmentation = VideoAugmentation(
                options.steps, prepare.frames, prepare.size, prepare.image.resize
            )
        return VideoInput(name, prepare, options.views, augmentation)

    def values(self, name: str, prepare: VideoPreprocessor, record: Record) -> list[Any]:
        return [
            part
            for video in media_of(record, name)
            for part in _parts(video, record["origin"], prepare.segment_seconds)
        ]

    def decode(self, value: Any, origin: str, prepare: VideoPreprocessor) -> np.ndarray:
        return decode_video(value, origin, prepare.frames, min_size=prepare.size)

    def content_key(self, value: Any) -> str:
        if isinstance(value, str | Path):
            return str(value)
        if isinstance(value, Segment):
            return f"{self.content_key(value.file)} {value.start:.3f} {value.end:.3f}"
        if isinstance(value, bytes):
            return _digest(value)
        if isinstance(value, np.ndarray):
            return f"{value.shape} {_digest(value.tobytes())}"
        return f"object {id(value)}"

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        # Equal files alone: decoding videos would take longer than training.
        files = [v for v in media_of(record, name) if not isinstance(v, np.ndarray)]
        return [content_fingerprint(_ends(file, record["origin"])) for file in files]

    def preview(self, value: Any, decoded: np.ndarray | None = None) -> Preview:
        span = None
        if isinstance(value, Segment):
            value, span = value.file, (value.start, value.end)
        path = str(value) if isinstance(value, str | Path) else None
        return Preview(
            path=path, image=frame_strip(decoded) if decoded is not None else None, span=span
        )

    def parse(self, text: str) -> str:
        return text

    def follows(self, value: Any, effects: Effects) -> bool:
        return bool(effects.get(FLIP) or effects.get(REVERSAL))

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Video encoders start as they were built."""

    def cache_decoder(self, config: Any) -> Callable[[Any, str], np.ndarray]:
        prepare = config.preprocessor()
        frames, size = prepare.frames * CACHED_FRAMES, prepare.size * 3 // 2

        def decode(value: Any, origin: str) -> np.ndarray:
            whole = isinstance(value, np.ndarray) and len(value) <= frames
            return decode_video(value, origin, len(value) if whole else frames, min_size=size)

        return decode


@dataclass(frozen=True)
class VideoInput:
    """An input that takes videos, each augmented as a whole."""

    name: str
    prepare: VideoPreprocessor
    views: int = 1
    augmentation: VideoAugmentation | None = None
    has_effects: ClassVar[bool] = True

    def read(self, record: Record) -> np.ndarray | None:
        found = media_of(record, self.name)
        if not found:
            return None
        frames = self.prepare.frames
        if self.augmentation is not None:
            frames = self.augmentation.decoded_frames
        first = _parts(found[0], record["origin"], self.prepare.segment_seconds)[0]
        clip = decode_video(first, record["origin"], frames, min_size=self.prepare.size)
        if self.augmentation is not None:
            return clip
        # Now and not with the batch, which would hold all of its frames at their full size.
        return self.prepare.resize([clip])[0].permute(0, 2, 3, 1).numpy()

    def batch(self, values: Sequence[np.ndarray | None], context: BatchContext) -> InputRows:
        """(B * V, T, 3, S, S) pixels; what augmentation changes is noted in the effects of an item.

        An item that another input has already flipped or reversed, or not, is treated alike here.
        """
        views, size, frames = self.views, self.prepare.size, self.prepare.frames
        pixels = torch.zeros(len(values) * views, frames, 3, size, size, dtype=torch.uint8)
        present = torch.zeros(len(values), views, dtype=torch.bool)
        for item, clip in enumerate(values):
            if clip is None:
                continue
            present[item] = True
            effects = context.effects[item]
            # A caption can follow only one of several views: the first.
            given = {"mirrored": effects.get(FLIP), "reversed": effects.get(REVERSAL)}
            for row in range(item * views, (item + 1) * views):
                if self.augmentation is None:
                    pixels[row] = self.prepare.resize([clip])[0]
                    continue
                found = self.augmentation(clip, context.rngs[item], **given)
                pixels[row] = found.pixels
                effects.setdefault(FLIP, found.mirrored)
                effects.setdefault(REVERSAL, found.reversed)
        return InputRows(self.prepare.normalize(pixels), present)


def frame_strip(clip: np.ndarray) -> np.ndarray:
    """Some frames of a clip (T, H, W, 3), from left to right, uint8 (H, n W, 3).

    Examples:
        >>> frame_strip(np.zeros((8, 20, 30, 3), np.uint8)).shape
        (20, 120, 3)
    """
    count = min(STRIP_FRAMES, len(clip))
    places = np.linspace(0, len(clip) - 1, count).round().astype(int)
    return np.concatenate(list(clip[places]), axis=1)


def _parts(value: Any, origin: str, seconds: float | None) -> list[Any]:
    """A video in the parts that are embedded on their own."""
    return [value] if seconds is None else video_segments(value, origin, seconds)


def _ends(file: Any, origin: str) -> bytes:
    """Length, beginning and end of a file, which differ where files do."""
    stream, _ = open_content(file_of(file), origin, "video")
    with stream:
        length = stream.seek(0, 2)
        stream.seek(0)
        start = stream.read(HASHED_BYTES)
        stream.seek(max(len(start), length - HASHED_BYTES))
        return b"%d " % length + start + stream.read()


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
