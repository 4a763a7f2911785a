"""Image decoding; truncated or damaged files are errors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from amodal.data.record import BrokenRecordError

# Decoders that may be reached from data; PIL has many more, rarely used and rarely tested.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")  # of files in FORMATS
# How a file of each format begins.
STARTS: dict[str, bytes | tuple[bytes, ...]] = {
    "jpg": b"\xff\xd8\xff",
    "png": b"\x89PNG",
    "webp": b"RIFF",
    "bmp": b"BM",
    "gif": b"GIF8",
    "tif": (b"II*\x00", b"MM\x00*"),
}
# Larger images are taken for decompression bombs; the number is that of PIL (2 x 1 GiB / 12).
MAX_PIXELS = 178_956_970
ORIENTATION = 0x0112  # EXIF tag
# Warnings of libjpeg after which every pixel is still there; met in photos from phones.
HARMLESS = ("before marker 0xd9", "Invalid SOS parameters", "Unknown Adobe color transform")
# EXIF orientation -> transpose first?, flip rows?, flip columns?
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def decode_image(value: Any, origin: str, min_size: int | None = None) -> np.ndarray:
    """The pixels of an image, upright, (H, W, 3) uint8 RGB; transparency becomes white.

    Args:
        value: path, file content as bytes, uint8 array or PIL image.
        origin: file and row of the record, for the error.
        min_size: a JPEG may be decoded at an eighth to the whole of its size, as long as both
            sides keep this many pixels. None decodes the whole of it.

    Raises:
        BrokenRecordError: no such file, no image, cut short, damaged, or too large.

    Examples:
        >>> from PIL import Image
        >>> from amodal.data import decode_image
        >>> transparent = Image.new("RGBA", (4, 2))  # width, height
        >>> pixels = decode_image(transparent, origin="a.csv row 1")
        >>> pixels.shape, pixels[0, 0].tolist()
        ((2, 4, 3), [255, 255, 255])
    """
    return load_image(value, origin, min_size)[0]


def load_image(
    value: Any, origin: str, min_size: int | None = None
) -> tuple[np.ndarray, bytes | None]:
    """`decode_image`, and beside the pixels the file content; None for what came decoded.

    Examples:
        >>> import io
        >>> from PIL import Image
        >>> from amodal.data import load_image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (4, 2), "red").save(file, "PNG")
        >>> pixels, content = load_image(file.getvalue(), origin="a.csv row 1")
        >>> pixels[0, 0].tolist(), content[1:4]
        ([255, 0, 0], b'PNG')
    """
    if isinstance(value, np.ndarray):
        return _from_array(value, origin), None
    if isinstance(value, Image.Image):
        _check_size(value.width, value.height, origin, "the image")
        return _decoded(value, origin, "the image"), None
    data, what = _read(value, origin)
    if suffix_of(data) == "jpg":
        pixels = _from_jpeg(data, origin, what, min_size)
        if pixels is not None:
            return pixels, data
    return _from_pil(data, origin, what), data


def suffix_of(data: bytes) -> str | None:
    """The suffix of a file with this content; None if it is no image that can be read."""
    return next((suffix for suffix, start in STARTS.items() if data.startswith(start)), None)


def _read(value: Any, origin: str) -> tuple[bytes, str]:
    """File content, and how to call it in an error."""
    if isinstance(value, bytes | bytearray | memoryview):
        data, what = bytes(value), "the image"
    elif isinstance(value, str | Path):
        what = str(value)
        if "://" in what:
            raise BrokenRecordError(origin, f"a URL, expected a file on this machine: {what}")
        try:
            data = Path(value).read_bytes()
        except FileNotFoundError:
            raise BrokenRecordError(origin, f"no such image file: {what}") from None
        except (OSError, ValueError) as error:
            raise BrokenRecordError(origin, f"unreadable file: {what}: {error}") from None
    else:
        raise BrokenRecordError(
            origin, f"expected a path, bytes, an array or an image: got {type(value).__name__}"
        )
    if not data:
        raise BrokenRecordError(origin, f"empty image (0 bytes): {what}")
    return data, what


def _check_size(width: int, height: int, origin: str, what: str) -> None:
    if width < 1 or height < 1:
        raise BrokenRecordError(origin, f"no pixels: {what} is {width} x {height}")
    if width * height > MAX_PIXELS:
        raise BrokenRecordError(
            origin,
            f"more than {MAX_PIXELS:,} pixels, perhaps a decompression bomb: {what} claims "
            f"{width} x {height}",
        )


def _from_array(value: np.ndarray, origin: str) -> np.ndarray:
    if value.dtype != np.uint8 or value.size == 0:
        raise BrokenRecordError(
            origin, f"expected a uint8 array (H, W, 3): got {value.dtype} {value.shape}"
        )
    if value.ndim == 3 and value.shape[2] == 3:
        return value
    if value.ndim == 3 and value.shape[2] == 1:
        value = value[:, :, 0]
    if value.ndim == 2:
        return np.repeat(value[:, :, None], 3, axis=2)
    if value.ndim == 3 and value.shape[2] == 4:
        return _decoded(Image.fromarray(value), origin, "the array")
    raise BrokenRecordError(
        origin, f"expected a uint8 array (H, W, 3): got {value.dtype} {value.shape}"
    )


def _from_jpeg(data: bytes, origin: str, what: str, min_size: int | None) -> np.ndarray | None:
    """The fast path; None where only PIL can read the file."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except Exception:  # KeyError where libjpeg does not know the sampling of the colours
        return None
    _check_size(width, height, origin, what)
    if colorspace not in ("YCbCr", "RGB", "Gray", "GRAY"):
        return None  # CMYK comes inverted or not; PIL knows which
    side = min_size or 0
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=side, min_height=side)
    except Exception as error:
        if any(warning in str(error) for warning in HARMLESS):
            return None
        raise BrokenRecordError(origin, f"damaged JPEG: {what}: {error}") from None
    transpose, rows, columns = TURNS.get(_orientation(data), TURNS[1])
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    if rows:
        pixels = pixels[::-1]
    if columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _orientation(data: bytes) -> int:
    if b"Exif\x00\x00" not in data[:65536]:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1


def _from_pil(data: bytes, origin: str, what: str) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BrokenRecordError(
            origin,
            f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: {what} begins with "
            f"{data[:16]!r}",
        ) from None
    except Exception as error:  # decoders raise many kinds on damaged files
        raise BrokenRecordError(origin, f"damaged image: {what}: {error}") from None
    with image:
        _check_size(image.width, image.height, origin, what)
        return _decoded(image, origin, what)


def _decoded(image: Image.Image, origin: str, what: str) -> np.ndarray:
    try:
        image.load()
        return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise many kinds on damaged files
        raise BrokenRecordError(origin, f"damaged image: {what}: {error}") from None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bits")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("pixels have more than 16 bits; expected 8 or 16")
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    return np.array(image.convert("RGB"))
