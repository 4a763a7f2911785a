"""Seconds that the largest images take which are accepted.

    python benchmarks/largest_images.py    # about a minute

One image per format, noise that compresses badly, as large as the limit on memory
(`AMODAL_IMAGE_MEMORY`) allows. Prints a Markdown table.
"""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
from PIL import Image

from amodal.data.decode import decode_image
from amodal.data.image_limits import memory_limit
from amodal.data.record import BrokenRecordError

# Name -> format, mode, about the bytes per pixel that decoding takes, options.
FORMATS: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    "PNG": ("PNG", "RGB", 7, {"compress_level": 1}),
    "PNG with transparency": ("PNG", "RGBA", 7, {"compress_level": 1}),
    "JPEG": ("JPEG", "RGB", 3, {"quality": 90}),
    "progressive JPEG": ("JPEG", "RGB", 5, {"quality": 90, "progressive": True}),
    "WebP": ("WEBP", "RGB", 20, {"quality": 80, "method": 0}),
    "lossless WebP": ("WEBP", "RGB", 20, {"lossless": True, "quality": 10, "method": 0}),
    "TIFF": ("TIFF", "RGB", 11, {"compression": "tiff_lzw"}),
    "AVIF": ("AVIF", "RGB", 13, {"quality": 60, "speed": 10}),
    "GIF": ("GIF", "RGB", 4, {}),
    "BMP": ("BMP", "RGB", 7, {}),
}
STEP = 0.96  # of the side, from one attempt to the next


def encoded(name: str, side: int) -> bytes:
    format, mode, _, options = FORMATS[name]
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (side // 16 + 1, side // 16 + 1, 3), np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def accepted(name: str) -> tuple[int, bytes]:
    """Side and content of the largest square image, to within a step, that is decoded."""
    side = int((memory_limit() / FORMATS[name][2]) ** 0.5)
    while True:
        data = encoded(name, side)
        try:
            decode_image(data, "here")
        except BrokenRecordError:
            side = int(side * STEP)
        else:
            return side, data


def decoding_seconds(data: bytes) -> float:
    """Seconds of CPU, the least of three attempts: other work on the machine makes them longer."""
    found = []
    for _ in range(3):
        begin = time.process_time()
        decode_image(data, "here")
        found.append(time.process_time() - begin)
    return min(found)


def main() -> None:
    print("| format | side | file in MB | CPU seconds |\n|---|---|---|---|")
    for name in FORMATS:
        side, data = accepted(name)
        size, seconds = len(data) / 1e6, decoding_seconds(data)
        print(f"| {name} | {side:,} | {size:.0f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
