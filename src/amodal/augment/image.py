"""Image augmentation: parameters drawn per image, applied to a batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

CHUNK = 16  # images transformed at once: their floats fit the cache of a core
LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
Step = TypeVar("Step")


Box = tuple[int, int, int, int]  # top, left, height, width, in pixels


@dataclass(frozen=True)
class ImageChange:
    """Parameters of the augmentation of one image."""

    crop: Box | None = None
    mirrored: bool = False
    angle: float = 0.0  # radians, counter-clockwise
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # full turns
    gray: bool = False
    cover: Box | None = None


class ImageAugmentation:
    """Random crop, flip, rotation, colour jitter and erasing of a batch of images.

    Whatever the order of the steps in the recipe, geometry comes first, then colour, then
    erasing, and colours are clamped to 0…255 once, at the end. Each image draws from its own
    generator alone, so that the result does not depend on the other images of the batch or on the
    process.

    Args:
        steps: the `augment.image` part of a recipe; of several steps of one kind the last is used.
        size: side S of the resulting square, in pixels.
        resize: resizes whole images to (n, 3, S, S) where there is no crop; by default without
            keeping the aspect ratio.

    Examples:
        >>> import numpy as np
        >>> from amodal.augment import HorizontalFlip, ImageAugmentation, RandomResizedCrop
        >>> augmentation = ImageAugmentation([RandomResizedCrop(), HorizontalFlip()], size=32)
        >>> images = [np.zeros((40, 60, 3), np.uint8), np.zeros((50, 50, 3), np.uint8)]
        >>> pixels, mirrored = augmentation(images, [np.random.default_rng(i) for i in range(2)])
        >>> pixels.shape, mirrored.shape
        (torch.Size([2, 3, 32, 32]), (2,))
    """

    def __init__(
        self,
        steps: Sequence[Any],
        size: int,
        resize: Callable[[list[np.ndarray]], Tensor] | None = None,
    ) -> None:
        self.size = size
        self.resize = resize
        self.crop = last_step(steps, RandomResizedCrop)
        self.flip = last_step(steps, HorizontalFlip)
        self.rotate = last_step(steps, Rotate)
        self.jitter = last_step(steps, ColorJitter)
        self.gray = last_step(steps, Grayscale)
        self.erase = last_step(steps, RandomErasing)

    def __call__(
        self,
        images: Sequence[np.ndarray],
        rngs: Sequence[np.random.Generator],
        mirrored: Sequence[bool | None] | None = None,
    ) -> tuple[Tensor, np.ndarray]:
        """Augment B uint8 arrays (H, W, 3), each of its own size.

        Args:
            images: B arrays.
            rngs: B generators.
            mirrored: of each image, whether it is mirrored whatever is drawn; None: as drawn.

        Returns:
            pixels: (B, 3, S, S) uint8.
            mirrored: (B,) bool, True where the image was flipped horizontally.
        """
        if len(images) != len(rngs):
            raise ValueError(f"{len(images)} images, but {len(rngs)} generators")
        # All of an image before the next one: several views of a record share its generator.
        changes = [
            self.draw(image.shape[0], image.shape[1], rng)
            for image, rng in zip(images, rngs, strict=True)
        ]
        if mirrored is not None:
            changes = [
                change if given is None else replace(change, mirrored=given)
                for change, given in zip(changes, mirrored, strict=True)
            ]
        pixels = torch.empty(len(images), 3, self.size, self.size, dtype=torch.uint8)
        for start in range(0, len(images), CHUNK):
            rows = slice(start, start + CHUNK)
            pixels[rows] = self.apply(images[rows], changes[rows])
        return pixels, np.array([c.mirrored for c in changes], dtype=bool)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> ImageChange:
        """Parameters of one image of this size; the number of draws depends on the steps only."""
        drawn: dict[str, Any] = {}
        if self.crop is not None:
            drawn["crop"] = crop_box(height, width, self.crop, rng)
        if self.flip is not None:
            drawn["mirrored"] = bool(rng.random() < self.flip.probability)
        if self.rotate is not None:
            limit = math.radians(self.rotate.degrees)
            drawn["angle"] = rng.uniform(-limit, limit)
        if self.jitter is not None:
            for name in ("brightness", "contrast", "saturation"):
                spread = getattr(self.jitter, name)
                drawn[name] = rng.uniform(1 - spread, 1 + spread)
            drawn["hue"] = rng.uniform(-self.jitter.hue, self.jitter.hue)
        if self.gray is not None:
            drawn["gray"] = bool(rng.random() < self.gray.probability)
        if self.erase is not None:
            drawn["cover"] = cover_box(self.size, self.erase, rng)
        return ImageChange(**drawn)

    def apply(self, images: Sequence[np.ndarray], changes: Sequence[ImageChange]) -> Tensor:
        """(B, 3, S, S) uint8: B arrays (H, W, 3), each changed by its own parameters."""
        crops = [self._crop(i, c.crop) for i, c in zip(images, changes, strict=True)]
        pixels = torch.stack(
            [crop.flip(-1) if c.mirrored else crop for crop, c in zip(crops, changes, strict=True)]
        )
        has_colour = self.jitter is not None or self.gray is not None
        if self.rotate is not None or has_colour:
            values = pixels.float()
            if self.rotate is not None:
                values = rotate(values, torch.tensor([c.angle for c in changes]))
            if has_colour:
                values = transform_colours(values, *colour_maps(values, changes))
            pixels = values.round_().clamp_(0, 255).to(torch.uint8)
        for image, change in zip(pixels, changes, strict=True):
            if change.cover is not None:
                top, left, height, width = change.cover
                mean = image.float().mean(dim=(1, 2)).round().to(torch.uint8)
                image[:, top : top + height, left : left + width] = mean[:, None, None]
        return pixels

    def _crop(self, image: np.ndarray, box: Box | None) -> Tensor:
        if box is None and self.resize is not None:
            return self.resize([image])[0]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if box is not None:
            top, left, height, width = box
            pixels = pixels[:, top : top + height, left : left + width]
        if pixels.shape[1:] == (self.size, self.size):
            return pixels
        return vision.resize(pixels, [self.size, self.size], antialias=True)


def crop_box(height: int, width: int, crop: RandomResizedCrop, rng: np.random.Generator) -> Box:
    """Crop of random area, aspect ratio and position.

    References:
        Szegedy et al. 2014, arXiv:1409.4842, section 6.
    """
    area = height * width * rng.uniform(*crop.scale)
    ratio = math.exp(rng.uniform(math.log(crop.ratio[0]), math.log(crop.ratio[1])))
    # A box larger than the image is clipped instead of drawn again, so that the number of draws
    # per image is fixed.
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w


def cover_box(size: int, erase: RandomErasing, rng: np.random.Generator) -> Box | None:
    """Box of random area, aspect ratio and position in a square of `size` pixels, or None."""
    chosen, area, ratio = rng.random(), rng.uniform(*erase.scale), rng.uniform(-1, 1)
    down, across = rng.random(), rng.random()
    if chosen >= erase.probability:
        return None
    height = min(size, max(1, round(size * math.sqrt(area * 3**ratio))))
    width = min(size, max(1, round(size * math.sqrt(area / 3**ratio))))
    return int(down * (size - height + 1)), int(across * (size - width + 1)), height, width


def rotate(values: Tensor, angle: Tensor) -> Tensor:
    """Rotate float (B, 3, S, S) by (B,) radians, counter-clockwise; the border is replicated."""
    cos, sin, zero = angle.float().cos(), angle.float().sin(), torch.zeros(len(angle))
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta, list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def transform_colours(values: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Affine colour transform, matrix[b] @ c + offset[b] of each colour c; float (B, 3, S, S)."""
    return torch.baddbmm(offset, matrix, values.flatten(2)).view_as(values)


def colour_maps(values: Tensor, changes: Sequence[ImageChange]) -> tuple[Tensor, Tensor]:
    """Colour augmentation of each image as one affine map: (B, 3, 3) and (B, 3, 1).

    The factors are those of torchvision's `ColorJitter`, in the order brightness, contrast,
    saturation, hue; grayscale comes last.
    """
    factors = [(c.brightness, c.contrast, c.saturation, c.hue, float(c.gray)) for c in changes]
    drawn = torch.tensor(factors, dtype=torch.float32)[:, :, None, None]  # (B, 5, 1, 1)
    brightness, contrast, saturation, hue, gray = drawn.unbind(1)
    luma = LUMA.expand(3, 3)
    mean = values.mean(dim=(2, 3))[:, :, None]  # (B, 3, 1)
    matrix = brightness * contrast * torch.eye(3)
    offset = (1 - contrast) * brightness * (luma @ mean)
    change = hue_rotations(hue[:, 0, 0]) @ (saturation * torch.eye(3) + (1 - saturation) * luma)
    change = torch.where(gray > 0, luma @ change, change)
    return change @ matrix, change @ offset


def hue_rotations(turns: Tensor) -> Tensor:
    """(B, 3, 3) rotations of RGB about the grey axis, `turns` in full turns.

    The hue of HSV is not linear in RGB; this rotation keeps greys and agrees with it at thirds of
    a turn.
    """
    angle = turns * 2 * math.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    axis = 1 / math.sqrt(3)
    cross = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return cos * torch.eye(3) + sin * cross + (1 - cos) * torch.full((3, 3), 1 / 3)


def last_step(steps: Sequence[Any], kind: type[Step]) -> Step | None:
    """The last of the steps of one kind, or None."""
    found = [step for step in steps if isinstance(step, kind)]
    return found[-1] if found else None
