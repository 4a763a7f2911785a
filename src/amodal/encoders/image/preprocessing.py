"""Decoded images to the normalised pixels that encoders take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


class ImagePreprocessor:
    """Images to normalised pixels.

    Args:
        size: side S of the square that the encoder sees, in pixels.
        mean, std: per channel, for pixels scaled to 0…1.
        resize: `squash` maps the whole image onto the square; `crop` keeps its proportions and
            takes the middle.
        interpolation: how pixels between pixels are found; CLIP was trained with `bicubic`.

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import ImagePreprocessor
        >>> prepare = ImagePreprocessor(32, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> pixels = prepare([np.zeros((40, 60, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)])
        >>> x = pixels["pixel_values"]
        >>> x.shape, round(x[0].mean().item(), 4), round(x[1].mean().item(), 4)
        (torch.Size([2, 3, 32, 32]), -1.0, 1.0)
    """

    FILE = "preprocessor_config.json"

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        resize: Literal["squash", "crop"] = "squash",
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.resize_mode = resize
        self.interpolation = interpolation

    def resize(self, images: list[np.ndarray]) -> Tensor:
        """Uint8 arrays (H, W, 3) of any size to one uint8 tensor (B, 3, S, S)."""
        return torch.stack([self._resize_one(image) for image in images])

    def _resize_one(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.resize_mode == "crop":
            height, width = pixels.shape[1:]
            short = min(height, width)
            # Truncated as torchvision and transformers do: rounding would shift pretrained crops.
            shape = [int(self.size * height / short), int(self.size * width / short)]
            return vision.center_crop(self._scaled(pixels, shape), [self.size, self.size])
        if pixels.shape[1:] == (self.size, self.size):
            return pixels
        return self._scaled(pixels, [self.size, self.size])

    def _scaled(self, pixels: Tensor, shape: list[int]) -> Tensor:
        mode = vision.InterpolationMode(self.interpolation)
        return vision.resize(pixels, shape, interpolation=mode, antialias=True)

    def normalize(self, pixels: Tensor) -> dict[str, Tensor]:
        """Uint8 (B, 3, S, S) to float32 of mean 0 and standard deviation 1."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1) * 255
        scale = 1 / (torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1) * 255)
        return {"pixel_values": (pixels.float() - mean) * scale}

    def __call__(self, images: list[np.ndarray]) -> dict[str, Tensor]:
        return self.normalize(self.resize(images))

    def save(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        values = {
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "resize": self.resize_mode,
            "interpolation": self.interpolation,
        }
        (path / self.FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> ImagePreprocessor:
        """Read what `save` has written."""
        return cls(**json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8")))
