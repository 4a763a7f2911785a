"""Sampled frames to the normalised pixels that video encoders take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amodal.encoders.image.preprocessing import ImagePreprocessor


class VideoPreprocessor:
    """Frames of clips to normalised pixels.

    Args:
        image: resizes and normalises every frame.
        frames: T, the frames that are sampled of a clip at equal distances.
        segment_seconds: longer files are embedded in parts of at most this length, each with its
            own embedding; None: a file is one clip, however long.

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import ImagePreprocessor, VideoPreprocessor
        >>> prepare = VideoPreprocessor(ImagePreprocessor(32), frames=4)
        >>> prepare([np.zeros((4, 40, 60, 3), np.uint8)])["pixel_values"].shape
        torch.Size([1, 4, 3, 32, 32])
    """

    FILE = "video_config.json"

    def __init__(
        self, image: ImagePreprocessor, frames: int, segment_seconds: float | None = None
    ) -> None:
        self.image = image
        self.frames = frames
        self.segment_seconds = segment_seconds

    @property
    def size(self) -> int:
        """Side S of the square that the encoder sees, in pixels."""
        return self.image.size

    def resize(self, clips: list[np.ndarray]) -> Tensor:
        """Uint8 clips (T, H, W, 3) of any size to one uint8 tensor (B, T, 3, S, S)."""
        return torch.stack([self.image.resize(list(clip)) for clip in clips])

    def normalize(self, pixels: Tensor) -> dict[str, Tensor]:
        """Uint8 (B, T, 3, S, S) to float32 of mean 0 and standard deviation 1."""
        frames = self.image.normalize(pixels.flatten(0, 1))["pixel_values"]
        return {"pixel_values": frames.view(pixels.shape)}

    def __call__(self, clips: list[np.ndarray]) -> dict[str, Tensor]:
        return self.normalize(self.resize(clips))

    def save(self, folder: str | Path) -> None:
        """Write `video_config.json` beside the configuration of the frames."""
        self.image.save(folder)
        values = {"frames": self.frames, "segment_seconds": self.segment_seconds}
        (Path(folder) / self.FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> VideoPreprocessor:
        """Preprocessor from a folder written by `save`."""
        values = json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8"))
        return cls(ImagePreprocessor.load(folder), **values)
