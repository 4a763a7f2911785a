"""Images as the page sends and shows them."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from amodal.data.scenes.source import ScenesConfig

EXAMPLES = 6
SIDE = 192  # pixels: sharp on a page, and an even multiple of what small encoders see


def png_url(pixels: np.ndarray) -> str:
    """A uint8 image (H, W, 3) as a URL that holds the whole PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return data_url(buffer.getvalue(), "image/png")


def data_url(content: bytes, kind: str) -> str:
    """File content as a URL that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@lru_cache(maxsize=1)
def examples() -> list[dict[str, Any]]:
    """Scenes of the built-in world to try the page with: image, caption, questions."""
    source = ScenesConfig(
        size=EXAMPLES,
        part="test",
        image_size=SIDE,
        min_objects=3,
        captions_per_scene=1,
        caption_style="brief",
        questions_per_scene=3,
    ).open()
    found = []
    for number in range(EXAMPLES):
        record = source[number]
        found.append(
            {
                "image": png_url(record["image"]),
                "caption": record["text"][0],
                "questions": record["question"],
            }
        )
    return found
