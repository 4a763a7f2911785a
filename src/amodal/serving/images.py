"""Images as data URLs, and example images for the page."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from amodal.data.scenes.source import ScenesConfig

EXAMPLES = 6
SIDE = 192  # pixels: sharp on the page, and a multiple of the input size of small encoders


def png_url(pixels: np.ndarray) -> str:
    """A uint8 image (H, W, 3) as a PNG data URL.

    Examples:
        >>> png_url(np.zeros((2, 2, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return data_url(buffer.getvalue(), "image/png")


def data_url(content: bytes, media_type: str) -> str:
    """File content of a media type as a data URL.

    Examples:
        >>> data_url(b"abc", "text/plain")
        'data:text/plain;base64,YWJj'
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@lru_cache(maxsize=1)
def examples() -> list[dict[str, Any]]:
    """Example scenes: image, caption and questions of each."""
    source = ScenesConfig(
        size=EXAMPLES,
        split="test",
        image_size=SIDE,
        min_objects=3,
        captions_per_scene=1,
        caption_style="brief",
        questions_per_scene=3,
    ).open()
    scenes = []
    for number in range(EXAMPLES):
        record = source[number]
        scenes.append(
            {
                "image": png_url(record["image"]),
                "caption": record["text"][0],
                "questions": record["question"],
            }
        )
    return scenes
