"""Options that all video encoders share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amodal.encoders.config import EncoderConfig
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.video.preprocessing import VideoPreprocessor


class VideoConfig(EncoderConfig):
    """Sampling of frames.

    Args:
        frames: T, sampled of a clip at equal distances.
        segment_seconds: search embeds longer files in parts of at most this length, and training
            takes the first of them; None: a file is one clip.
    """

    type: Literal["video"] = "video"
    frames: int = Field(8, ge=1, le=1024)
    segment_seconds: float | None = Field(None, gt=0)

    def frame_count(self) -> int:
        """T, where the model itself may say it."""
        return self.frames

    def frame_preprocessor(self) -> ImagePreprocessor:
        """Resizing and normalisation of a frame."""
        raise NotImplementedError

    def preprocessor(self) -> VideoPreprocessor:
        image = self.frame_preprocessor()
        return VideoPreprocessor(image, self.frame_count(), self.segment_seconds)
