"""Pictures: drawn per sample, applied to the whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from amodal.augment.config import (
    ColorJitter,
    Grayscale,
    HorizontalFlip,
    RandomErasing,
    RandomResizedCrop,
    Rotate,
)

LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
Step = TypeVar("Step")


class ImageAugmentation:
    """Crops, mirrors, turns, recolours and covers a batch of pictures.

    Whatever the order of the steps in the recipe, geometry comes first, then colour, then
    covering. Each sample draws from its own generator and from nothing else, so that a result
    depends neither on the other pictures of the batch nor on the process that made it.

    Args:
        steps: the `augment.image` part of a recipe; of several steps of a kind the last counts.
        size: side S of the resulting square, in pixels.
    """

    def __init__(self, steps: Sequence[Any], size: int) -> None:
        self.size = size
        self.crop = _last(steps, RandomResizedCrop)
        self.flip = _last(steps, HorizontalFlip)
        self.rotate = _last(steps, Rotate)
        self.jitter = _last(steps, ColorJitter)
        self.gray = _last(steps, Grayscale)
        self.erase = _last(steps, RandomErasing)

    def __call__(
        self, images: Sequence[np.ndarray], rngs: Sequence[np.random.Generator]
    ) -> tuple[Tensor, np.ndarray]:
        """Augment B uint8 arrays (H, W, 3), each of its own size.

        Returns:
            pixels: (B, 3, S, S) uint8.
            mirrored: (B,) bool, True where left and right were exchanged.
        """
        pixels = torch.stack([self._cut(i, r) for i, r in zip(images, rngs, strict=True)])
        mirrored = np.zeros(len(images), dtype=bool)
        if self.flip is not None:
            mirrored = np.array([r.random() < self.flip.probability for r in rngs], dtype=bool)
            rows = torch.from_numpy(mirrored)
            pixels[rows] = pixels[rows].flip(-1)
        if self.rotate is not None:
            limit = math.radians(self.rotate.degrees)
            pixels = turn(pixels, torch.tensor([r.uniform(-limit, limit) for r in rngs]))
        if self.jitter is not None or self.gray is not None:
            pixels = recolour(pixels, *self._colours(pixels, rngs))
        if self.erase is not None:
            for row, rng in enumerate(rngs):
                self._cover(pixels[row], rng)
        return pixels, mirrored

    def _cut(self, image: np.ndarray, rng: np.random.Generator) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.crop is not None:
            top, left, height, width = crop_box(image.shape[0], image.shape[1], self.crop, rng)
            pixels = pixels[:, top : top + height, left : left + width]
        if pixels.shape[1:] == (self.size, self.size):
            return pixels
        return vision.resize(pixels, [self.size, self.size], antialias=True)

    def _colours(
        self, pixels: Tensor, rngs: Sequence[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, 3) and (B, 3, 1): every colour change of a picture as one affine map."""
        batch = len(pixels)
        matrix = torch.eye(3).repeat(batch, 1, 1)
        offset = torch.zeros(batch, 3, 1)
        if self.jitter is not None:
            spread = (self.jitter.brightness, self.jitter.contrast, self.jitter.saturation)
            drawn = torch.tensor(
                np.array([[r.uniform(1 - x, 1 + x) for x in spread] for r in rngs]),
                dtype=torch.float32,
            )
            turns = [r.uniform(-self.jitter.hue, self.jitter.hue) for r in rngs]
            brightness, contrast, saturation = drawn[:, :, None, None].unbind(1)  # (B, 1, 1)
            mean = pixels.float().mean(dim=(2, 3))  # (B, 3)
            gray_mean = (mean @ LUMA)[:, None, None] * brightness  # (B, 1, 1)
            offset = offset + gray_mean * (1 - contrast)
            matrix = matrix * brightness * contrast
            saturate = saturation * torch.eye(3) + (1 - saturation) * LUMA.expand(3, 3)
            change = hue_turns(torch.tensor(turns, dtype=torch.float32)) @ saturate
            matrix, offset = change @ matrix, change @ offset
        if self.gray is not None:
            gray = torch.tensor([r.random() < self.gray.probability for r in rngs])
            luma = LUMA.expand(3, 3)
            matrix = torch.where(gray[:, None, None], luma @ matrix, matrix)
            offset = torch.where(gray[:, None, None], luma @ offset, offset)
        return matrix, offset

    def _cover(self, picture: Tensor, rng: np.random.Generator) -> None:
        assert self.erase is not None
        chosen, area, ratio = rng.random(), rng.uniform(*self.erase.scale), rng.uniform(-1, 1)
        across, down = rng.random(), rng.random()
        if chosen >= self.erase.probability:
            return
        height = min(self.size, max(1, round(self.size * math.sqrt(area * 3**ratio))))
        width = min(self.size, max(1, round(self.size * math.sqrt(area / 3**ratio))))
        top, left = int(down * (self.size - height + 1)), int(across * (self.size - width + 1))
        mean = picture.float().mean(dim=(1, 2)).round().to(torch.uint8)
        picture[:, top : top + height, left : left + width] = mean[:, None, None]


def crop_box(
    height: int, width: int, crop: RandomResizedCrop, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels of a crop of random area, shape and place.

    References:
        Szegedy et al. 2014, arXiv:1409.4842, section 6.
    """
    area = height * width * rng.uniform(*crop.scale)
    ratio = math.exp(rng.uniform(math.log(crop.ratio[0]), math.log(crop.ratio[1])))
    # A box that would stick out is cut to the picture: no second draw, so that the number of
    # draws per sample is fixed.
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w


def turn(pixels: Tensor, angle: Tensor) -> Tensor:
    """Rotate uint8 (B, 3, S, S) by (B,) radians, counter-clockwise; corners repeat the border."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta.float(), list(pixels.shape), align_corners=False)
    turned = F.grid_sample(
        pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return turned.round_().clamp_(0, 255).to(torch.uint8)


def recolour(pixels: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Map each colour c of picture b to matrix[b] @ c + offset[b], kept within 0…255."""
    batch, _, height, width = pixels.shape
    flat = pixels.float().view(batch, 3, -1)
    mapped = torch.baddbmm(offset, matrix, flat)
    return mapped.round_().clamp_(0, 255).to(torch.uint8).view(batch, 3, height, width)


def hue_turns(turns: Tensor) -> Tensor:
    """(B, 3, 3) rotations of RGB about the grey axis, `turns` in full turns.

    The hue of HSV is not linear in RGB; this rotation keeps greys as they are and agrees with it
    at thirds of a turn.
    """
    angle = turns * 2 * math.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    axis = 1 / math.sqrt(3)
    cross = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return cos * torch.eye(3) + sin * cross + (1 - cos) * torch.full((3, 3), 1 / 3)


def _last(steps: Sequence[Any], kind: type[Step]) -> Step | None:
    found = [step for step in steps if isinstance(step, kind)]
    return found[-1] if found else None
