"""Images: files, bytes or arrays; pixels with augmentation; thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from amodal.augment.config import IMAGE_STEPS
from amodal.augment.image import ImageAugmentation
from amodal.data.decode import SUFFIXES, decode_image
from amodal.data.inputs import BatchContext, Effects, InputRows
from amodal.data.near_duplicates import Fingerprint, image_fingerprint
from amodal.data.perceptual_hash import MIN_SIDE
from amodal.data.record import Record, media_of
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.modalities.modality import ColumnStyle, InputOptions, Preview, Records

FLIP = "horizontal_flip"  # effect that captions and other images of the item follow
SHOWN_SIZE = 256  # pixels that the shorter side of a shown file has, at least


class ImageModality:
    """Images as RGB pixels."""

    name: ClassVar[str] = "image"
    column_style: ClassVar[ColumnStyle] = "media"
    is_text: ClassVar[bool] = False
    augmentations: ClassVar[tuple[type, ...]] = IMAGE_STEPS
    file_suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def fit(self, config: Any, name: str, records: Records | None) -> ImagePreprocessor:
        found: ImagePreprocessor = config.preprocessor()
        return found

    def load(self, folder: Path) -> ImagePreprocessor:
        return ImagePreprocessor.load(folder)

    def input(self, name: str, prepare: ImagePreprocessor, options: InputOptions) -> ImageInput:
        augmentation = None
        if options.steps is not None:
            # Where no step crops, the preprocessor's own resizing is used, so that training sees
            # the same part of an image as evaluation does.
            augmentation = ImageAugmentation(options.steps, prepare.size, prepare.resize)
        return ImageInput(name, prepare, options.views, augmentation)

    def values(self, name: str, prepare: ImagePreprocessor, record: Record) -> list[Any]:
        return media_of(record, name)

    def decode(self, value: Any, origin: str, prepare: ImagePreprocessor) -> np.ndarray:
        return decode_image(value, origin, min_size=prepare.size)

    def content_key(self, value: Any) -> str:
        if isinstance(value, str | Path):
            return str(value)
        if isinstance(value, np.ndarray):
            return f"{value.shape} {_digest(value.tobytes())}"
        if isinstance(value, bytes):
            return _digest(value)
        if isinstance(value, Image.Image):
            return f"{value.size} {value.mode} {_digest(value.tobytes())}"
        return f"object {id(value)}"

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        images = (
            decode_image(value, record["origin"], min_size=MIN_SIDE)
            for value in media_of(record, name)
        )
        return [image_fingerprint(image) for image in images]

    def preview(self, value: Any, decoded: np.ndarray | None = None) -> Preview:
        path = str(value) if isinstance(value, str | Path) else None
        if decoded is None:
            return Preview(path=path)
        large = decoded
        if min(decoded.shape[:2]) < SHOWN_SIZE and not isinstance(value, np.ndarray):
            large = decode_image(value, path or "the image", min_size=SHOWN_SIZE)
        return Preview(path=path, image=large)

    def parse(self, text: str) -> str:
        return text

    def follows(self, value: Any, effects: Effects) -> bool:
        return bool(effects.get(FLIP))

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Image encoders start as they were built."""

    def cache_decoder(self, config: Any) -> Callable[[Any, str], np.ndarray]:
        # Half as large again as the encoder sees, so that a random crop still has pixels to
        # choose from.
        size = config.preprocessor().size * 3 // 2
        return lambda value, origin: decode_image(value, origin, min_size=size)


@dataclass(frozen=True)
class ImageInput:
    """An input that takes images, each augmented on its own."""

    name: str
    prepare: ImagePreprocessor
    views: int = 1
    augmentation: ImageAugmentation | None = None
    has_effects: ClassVar[bool] = True

    def read(self, record: Record) -> np.ndarray | None:
        found = media_of(record, self.name)
        if not found:
            return None
        image = decode_image(found[0], record["origin"], min_size=self.prepare.size)
        if self.augmentation is not None:
            return image
        # Now and not with the batch, which would hold all of its images at their full size.
        return self.prepare.resize([image])[0].permute(1, 2, 0).numpy()

    def batch(self, values: Sequence[np.ndarray | None], context: BatchContext) -> InputRows:
        """(B * V, 3, S, S) pixels; with augmentation, flips are noted in the effects of an item.

        An item that another input has already flipped, or not, is treated alike here.
        """
        there = np.array([value is not None for value in values], dtype=bool)
        rows = np.flatnonzero(there).tolist()
        views, size = self.views, self.prepare.size
        pixels = torch.zeros(len(values) * views, 3, size, size, dtype=torch.uint8)
        images = [v for v in values if v is not None for _ in range(views)]
        if images:
            place = [i * views + v for i in rows for v in range(views)]
            if self.augmentation is None:
                pixels[place] = self.prepare.resize(images)
            else:
                rngs = [context.rngs[i] for i in rows for _ in range(views)]
                given = [context.effects[i].get(FLIP) for i in rows for _ in range(views)]
                pixels[place], mirrored = self.augmentation(images, rngs, given)
                for i, flipped in zip(rows, mirrored[::views].tolist(), strict=True):
                    # A caption can follow only one of several views: the first.
                    context.effects[i].setdefault(FLIP, flipped)
        present = torch.from_numpy(np.repeat(there[:, None], views, axis=1))
        return InputRows(self.prepare.normalize(pixels), present)


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
