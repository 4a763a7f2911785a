"""Video augmentation: one change of the images for all frames of a clip, and of their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amodal.augment.config import RandomStart, TimeReversal
from amodal.augment.image import ImageAugmentation, last_step


class AugmentedClip(NamedTuple):
    """One augmented clip.

    Args:
        pixels: (T, 3, S, S) uint8.
        mirrored: whether it was flipped horizontally.
        reversed: whether its frames are in reverse order.
    """

    pixels: Tensor
    mirrored: bool
    reversed: bool


class VideoAugmentation:
    """Augmentation of clips: crop, flip and colours are drawn once and applied to every frame.

    Args:
        steps: the steps of a video input in a recipe.
        frames: T, of the resulting clip.
        size: side S of the resulting square, in pixels.
        resize: resizes whole images to (n, 3, S, S) where there is no crop.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import TimeReversal, VideoAugmentation
        >>> augmentation = VideoAugmentation([TimeReversal(probability=1)], frames=2, size=8)
        >>> clip = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)])
        >>> augmented = augmentation(clip, np.random.default_rng(0))
        >>> augmented.pixels[:, 0, 0, 0].tolist(), augmented.reversed
        ([9, 0], True)
    """

    def __init__(
        self,
        steps: Sequence[Any],
        frames: int,
        size: int,
        resize: Callable[[list[np.ndarray]], Tensor] | None = None,
    ) -> None:
        self.images = ImageAugmentation(steps, size, resize)
        self.start = last_step(steps, RandomStart)
        self.reversal = last_step(steps, TimeReversal)
        self.frames = frames

    @property
    def decoded_frames(self) -> int:
        """Frames of a clip that are decoded, of which every n-th is taken."""
        return self.frames * (1 if self.start is None else self.start.choices)

    def __call__(
        self,
        clip: np.ndarray,
        rng: np.random.Generator,
        *,
        mirrored: bool | None = None,
        reversed: bool | None = None,
    ) -> AugmentedClip:
        """Augment one clip, (n T, H, W, 3) uint8.

        Args:
            clip: its frames.
            rng: of the clip; the number of draws depends on the steps alone.
            mirrored, reversed: whether it is, whatever is drawn; None: as drawn.
        """
        stride = max(1, len(clip) // self.frames)
        first = int(rng.integers(1 << 30)) % stride if self.start is not None else stride // 2
        backwards = self.reversal is not None and bool(rng.random() < self.reversal.probability)
        change = self.images.draw(clip.shape[1], clip.shape[2], rng)
        if mirrored is not None:
            change = replace(change, mirrored=mirrored)
        if reversed is not None:
            backwards = reversed
        chosen = clip[first::stride][: self.frames]
        pixels = self.images.apply(list(chosen), [change] * len(chosen))
        if backwards:
            pixels = torch.flip(pixels, (0,))
        return AugmentedClip(pixels, change.mirrored, backwards)
