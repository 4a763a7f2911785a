"""Options that all audio encoders share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from amodal.encoders.config import EncoderConfig


class AudioConfig(EncoderConfig):
    """Limits on what is read of a recording.

    Args:
        max_seconds: longer clips are truncated.
        segment_seconds: search embeds longer files in parts of at most this length, and training
            takes the first of them; None: a file is one clip.
    """

    type: Literal["audio"] = "audio"
    max_seconds: float = Field(30.0, gt=0)
    segment_seconds: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _segments_are_read_whole(self) -> AudioConfig:
        if self.segment_seconds is not None and self.segment_seconds > self.max_seconds:
            raise ValueError(
                f"segment_seconds: {self.segment_seconds:g} is longer than max_seconds: "
                f"{self.max_seconds:g}, so the end of every segment would be lost"
            )
        return self
