"""Image decoding; truncated or damaged files are errors."""

from __future__ import annotations

import io
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from amodal.data.content import content_of
from amodal.data.image_limits import (
    WEBP_BYTES,
    Jpeg,
    check_size,
    check_structure,
    read_jpeg,
    read_png,
)
from amodal.data.orientation import info_orientation, upright
from amodal.data.record import BrokenRecordError

# Of files that are taken for images.
SUFFIXES = (
    *("jpg", "jpeg", "jfif", "jpe", "png", "webp"),
    *("bmp", "gif", "tif", "tiff", "avif", "heic"),
)


class Format(NamedTuple):
    """A decoder that may be reached from data; Pillow has many more, rarely used and tested.

    Args:
        name: as Pillow calls it.
        starts: how a file begins.
        memory: bytes per pixel that decoding takes beside the pixels of Pillow and the result.
    """

    name: str
    starts: tuple[bytes, ...]
    memory: float = 0


FORMATS = {  # suffix -> format
    "jpg": Format("JPEG", (b"\xff\xd8\xff",)),
    "png": Format("PNG", (b"\x89PNG\r\n\x1a\n",)),
    "webp": Format("WEBP", (b"RIFF",), WEBP_BYTES - 7),
    "bmp": Format("BMP", (b"BM",)),
    "gif": Format("GIF", (b"GIF87a", b"GIF89a")),
    "tif": Format("TIFF", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), 4),
    "avif": Format("AVIF", (), 6),
    "heic": Format("HEIF", (), 6),
}
BRANDS = {  # of ISO media files: `ftyp`, then a brand and those that it is compatible with
    "avif": (b"avif", b"avis"),
    "heic": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
# Warnings of libjpeg after which every pixel is still there; met in photos from phones.
HARMLESS = (
    "bad ICC marker",
    "before marker 0xd9",
    "Invalid SOS parameters",
    "Unknown Adobe color transform",
)
# Squares of the wanted size that an image may cover: decoded images wait in memory, in batches of
# training with augmentation above all, whose random crops choose from the whole image.
MAX_AREA = 16
BAND_PIXELS = 1 << 16  # converted at once, so that conversions take little memory
# Bytes per pixel that Pillow keeps; 4 in all other modes.
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}


def decode_image(value: Any, origin: str, min_size: int | None = None) -> np.ndarray:
    """The pixels of an image, upright, (H, W, 3) uint8 RGB; transparency becomes white.

    Args:
        value: path, file content as bytes, uint8 array or PIL image.
        origin: file and row of the record, for the error.
        min_size: side of the square that the pixels are used for. A JPEG is then decoded at an
            eighth to the whole of its size, so that both sides keep this many pixels, and an image
            of more than `MAX_AREA` such squares is shrunk by a whole number. None keeps its size.

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
    pixels, _ = load_image(value, origin, min_size)
    return pixels if min_size is None else _shrunk(pixels, MAX_AREA * min_size**2)


def load_image(
    value: Any, origin: str, min_size: int | None = None
) -> tuple[np.ndarray, bytes | None]:
    """Pixels as of `decode_image`, and the file content; None for what came decoded.

    Args:
        value, origin: as for `decode_image`.
        min_size: both sides of a JPEG keep this many pixels at least; None decodes all of it.

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
        check_size(value.width, value.height, origin, "the image")
        return _decoded(ImageOps.exif_transpose(value), origin, "the image", 1), None
    data, what = content_of(value, origin, "image")
    suffix = suffix_of(data)
    if suffix is None:
        names = [format.name for format in FORMATS.values()]
        raise BrokenRecordError(
            origin,
            f"not a {', '.join(names[:-1])} or {names[-1]} image: {what} begins with {data[:16]!r}",
        )
    if suffix == "jpg":
        return _from_jpeg(data, origin, what, min_size), data
    if suffix == "png":
        png = read_png(data, origin, what)
        return _from_pil(
            png.slim, suffix, origin, what, png.orientation, transparent=png.transparent
        ), data
    check_structure(data, suffix, origin, what)
    return _from_pil(data, suffix, origin, what), data


def suffix_of(data: bytes) -> str | None:
    """The suffix of a file with this content; None if it is no image that can be read."""
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        return next((suffix for suffix, known in BRANDS.items() if brands & {*known}), None)
    if data.startswith(b"RIFF") and data[8:12] != b"WEBP":
        return None  # a sound, or a film
    return next((s for s, f in FORMATS.items() if f.starts and data.startswith(f.starts)), None)


def _shrunk(pixels: np.ndarray, max_pixels: int) -> np.ndarray:
    """Means of the smallest squares of pixels of which there are not more than this many."""
    height, width = pixels.shape[:2]
    # What was shrunk before is not shrunk again, so that its embedding stays the same.
    factor = next(f for f in count(1) if -(-height // f) * -(-width // f) <= max_pixels)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


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
        return _decoded(Image.fromarray(value), origin, "the array", 1)
    raise BrokenRecordError(
        origin, f"expected a uint8 array (H, W, 3): got {value.dtype} {value.shape}"
    )


def _from_jpeg(data: bytes, origin: str, what: str, min_size: int | None) -> np.ndarray:
    """The fast path; Pillow reads what that cannot."""
    jpeg = read_jpeg(data, origin, what)
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except Exception:  # KeyError where libjpeg does not know the sampling of the colours
        colorspace = None
    if colorspace not in ("YCbCr", "RGB", "Gray", "GRAY"):  # CMYK comes inverted or not
        return _jpeg_from_pil(data, jpeg, origin, what)
    side = min_size or 0
    share = _scale(min(height, width), side) ** 2 if height and width else 1
    turned = 3 if jpeg.orientation > 1 else 0
    check_size(width, height, origin, what, (3 + turned) * share + jpeg.coefficients)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=side, min_height=side)
    except MemoryError:
        raise BrokenRecordError(origin, f"not enough memory to decode {what}") from None
    except Exception as error:
        if any(warning in str(error) for warning in HARMLESS):
            return _jpeg_from_pil(data, jpeg, origin, what)
        raise BrokenRecordError(origin, f"damaged JPEG: {what}: {error}") from None
    return upright(pixels, jpeg.orientation)


def _scale(side: int, min_size: int) -> float:
    """The share of a side of this length that a JPEG is decoded at."""
    if min_size < 1:
        return 1.0
    return next((n / 8 for n in range(1, 8) if side * n // 8 >= min_size), 1.0)


def _jpeg_from_pil(data: bytes, jpeg: Jpeg, origin: str, what: str) -> np.ndarray:
    slim = jpeg.slim(data)
    return _from_pil(slim, "jpg", origin, what, jpeg.orientation, memory=jpeg.coefficients)


def _from_pil(
    data: bytes,
    suffix: str,
    origin: str,
    what: str,
    orientation: int | None = None,
    *,
    transparent: int | tuple[int, ...] | None = None,
    memory: float = 0,
) -> np.ndarray:
    """The pixels of a file as Pillow decodes them.

    Args:
        data: the file.
        suffix: of its format.
        orientation: None: as its metadata say; Pillow itself turns a TIFF.
        transparent: the grey or colour that is transparent.
        memory: bytes per pixel that decoding takes, beside what is known of the format.
    """
    if suffix == "heic":
        _register_heif(origin, what)
    format = FORMATS[suffix]
    try:
        image = Image.open(io.BytesIO(data), formats=(format.name,))
    except (UnidentifiedImageError, KeyError):
        hint = " (this Pillow may read no AVIF: pip install -U pillow)" if suffix == "avif" else ""
        raise BrokenRecordError(
            origin, f"damaged image: {what}: no {format.name} that can be read{hint}"
        ) from None
    except Exception as error:  # decoders raise many kinds on damaged files
        raise BrokenRecordError(origin, f"damaged image: {what}: {error}") from None
    with image:
        kept = PIXEL_BYTES.get(image.mode, 4)
        check_size(image.width, image.height, origin, what, kept + 3 + format.memory + memory)
        if transparent is not None:
            image.info["transparency"] = transparent
        if orientation is None:
            orientation = 1 if suffix == "tif" else info_orientation(image.info)
        return _decoded(image, origin, what, orientation)


def _register_heif(origin: str, what: str) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise BrokenRecordError(
            origin, f"HEIC needs pillow-heif: pip install pillow-heif: {what}"
        ) from None
    pillow_heif.register_heif_opener(thumbnails=False)


def _decoded(image: Image.Image, origin: str, what: str, orientation: int) -> np.ndarray:
    try:
        image.load()
        return upright(_rgb(image), orientation)
    except MemoryError:
        raise BrokenRecordError(origin, f"not enough memory to decode {what}") from None
    except Exception as error:  # decoders raise many kinds on damaged files
        raise BrokenRecordError(origin, f"damaged image: {what}: {error}") from None


def _rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3), converted band by band: a conversion keeps several copies."""
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    if rows >= height:
        return _band_rgb(image)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels[top:bottom] = _band_rgb(image.crop((0, top, width, bottom)))
    return pixels


def _band_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bits")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("pixels have more than 16 bits; expected 8 or 16")
        grey = ((wide + 128) // 257).astype(np.uint8)
        if "transparency" in image.info:
            grey[wide == image.info["transparency"]] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        darkest, lightest = layer.getchannel("A").getextrema()
        if lightest == 0:
            return np.full((image.height, image.width, 3), 255, np.uint8)
        if darkest == 255:
            return np.array(layer.convert("RGB"))
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer)
    return np.array(image.convert("RGB"))
