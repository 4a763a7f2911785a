"""Images as data URLs, and example images for the page."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from amodal.data.scenes.source import ScenesConfig
from amodal.search.description import StoreError
from amodal.search.embed import EmbeddingModel
from amodal.search.query import input_of_type
from amodal.search.store import VectorStore

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


def indexed_examples(model: EmbeddingModel, store: VectorStore) -> list[dict[str, Any]]:
    """Example images from an index, with their captions; none where it has no images.

    They are the rows nearest to different directions of the space, so that they differ.
    """
    try:
        name = input_of_type(model, "image")
        found = store.search_many(np.eye(store.dim)[: 2 * EXAMPLES], 1, input=name)
    except StoreError:  # no input of images, several of them, or no row
        return []
    shown = {
        hit.id: {
            "image": data_url(hit.thumbnail, "image/jpeg"),
            "caption": hit.text or hit.id,
            "questions": [],
        }
        for hits in found
        for hit in hits
        if hit.thumbnail is not None
    }
    return list(shown.values())[:EXAMPLES]


@lru_cache(maxsize=1)
def scene_examples() -> list[dict[str, Any]]:
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
