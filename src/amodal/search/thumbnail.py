"""Previews of values as JPEG thumbnails, kept in an index."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

THUMBNAIL_SIZE = 256  # pixels of the longer side


def jpeg_thumbnail(image: np.ndarray, size: int = THUMBNAIL_SIZE) -> bytes:
    """A JPEG of `image`, uint8 (H, W, 3), with a longer side of at most `size` pixels."""
    small = Image.fromarray(image)
    small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=85)
    return stream.getvalue()
