"""Limits of an image file on memory and time, checked from its structure before it is decoded.

A small file can claim a large image, or hold millions of tiny parts, each of which costs time.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from amodal.data.orientation import EXIF_HEAD, XMP_HEAD, chosen_orientation
from amodal.data.record import BrokenRecordError, DataError

# Larger images are taken for decompression bombs; the figure is that of PIL (2 x 1 GiB / 12).
MAX_PIXELS = 178_956_970
MAX_SIDE = 65_535  # pixels, as in JPEG; each row and column of an image costs time of its own
MEMORY_VARIABLE = "AMODAL_IMAGE_MEMORY"
# Bytes that one image may take while it is decoded: about two seconds of work for the slowest
# format, PNG with transparency, and a JPEG of 108 megapixels, as phones take them, fits.
DEFAULT_MEMORY = 330_000_000
MAX_PARTS = 50_000  # chunks, segments or blocks of one file
MAX_TIFF_VALUES = 1 << 17  # of one tag that is no byte string: strips, tiles, colours
MAX_SCANS = 500  # of a progressive JPEG; usual are ten
MAX_SCANNED_PIXELS = 1_500_000_000  # pixels x scans: every scan passes over the whole image
WEBP_BYTES = 20  # per pixel: two canvases, the pixels of the decoder, of Pillow, and of the result
# Markers of a JPEG: 0 and restarts stand for bytes among pixels.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
MAX_RLE_BYTES = 2 << 20  # of a run-length encoded BMP, which is decoded run by run
MAX_METADATA = 1 << 20  # bytes of a compressed EXIF block


def memory_limit() -> int:
    """Bytes that one image may take; `AMODAL_IMAGE_MEMORY` sets another limit than the default.

    Raises:
        DataError: the variable is no number.
    """
    text = os.environ.get(MEMORY_VARIABLE)
    if text is None:
        return DEFAULT_MEMORY
    if not text.strip().isdigit():
        raise DataError(f"{MEMORY_VARIABLE}: expected a number of bytes, got {text!r}")
    return int(text)


def check_size(width: int, height: int, origin: str, what: str, bytes_per_pixel: float = 3) -> None:
    """Refuse an image without pixels, or one that takes too much to decode.

    Args:
        width, height: in pixels, as the header says.
        origin: file and row of the record, for the error.
        what: the file, for the error.
        bytes_per_pixel: memory that decoding takes at its peak.

    Raises:
        BrokenRecordError: it is refused.
    """
    if width < 1 or height < 1:
        raise BrokenRecordError(origin, f"no pixels: {what} is {width} x {height}")
    claim = f"perhaps a decompression bomb: {what} claims {width} x {height}"
    if width * height > MAX_PIXELS:
        raise BrokenRecordError(origin, f"more than {MAX_PIXELS:,} pixels, {claim}")
    if max(width, height) > MAX_SIDE:
        raise BrokenRecordError(origin, f"a side of more than {MAX_SIDE:,} pixels, {claim}")
    needed, limit = round(width * height * bytes_per_pixel), memory_limit()
    if needed > limit:
        raise BrokenRecordError(
            origin,
            f"takes more than {limit:,} bytes to decode, {claim}, which takes {needed:,}; make it "
            f"smaller, or set {MEMORY_VARIABLE}={needed}",
        )


@dataclass(frozen=True)
class Jpeg:
    """Metadata and structure of a JPEG, read from its segments.

    Args:
        orientation: of EXIF, else of XMP.
        coefficients: bytes per pixel that a file of several scans keeps while it is decoded.
        metadata: start and end of the segments that pixels do not depend on.
    """

    orientation: int
    coefficients: float
    metadata: tuple[tuple[int, int], ...]

    def slim(self, data: bytes) -> bytes:
        """The file without its metadata, for decoders that read every segment."""
        edges = [0, *(edge for span in self.metadata for edge in span), len(data)]
        return b"".join(data[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))


def read_jpeg(data: bytes, origin: str, what: str) -> Jpeg:
    """The structure of a JPEG.

    Raises:
        BrokenRecordError: it has too many segments or scans.
    """
    exif, xmp, metadata = b"", b"", []
    components = pixels = scans = 0
    progressive, samples = False, 1.0
    for number, (marker, start, end) in enumerate(_jpeg_segments(data)):
        if number >= MAX_PARTS:
            raise BrokenRecordError(origin, f"more than {MAX_PARTS:,} segments: {what}")
        body = data[start + 4 : end]
        if 0xE1 <= marker <= 0xED or marker == 0xFE:
            metadata.append((start, end))
            # A block of more than 64 KiB goes on in the next segment; the tag is at its start.
            if marker == 0xE1 and body.startswith(EXIF_HEAD):
                exif = exif or body
            elif marker == 0xE1 and body.startswith(XMP_HEAD):
                xmp = xmp or body
        elif marker in FRAMES and len(body) >= 6:
            height, width, components = struct.unpack_from(">HHB", body, 1)
            pixels, progressive = width * height, marker in PROGRESSIVE
            factors = [(s >> 4) * (s & 15) for s in body[7 : 6 + 3 * components : 3]]
            samples = sum(factors) / max([1, *factors])
        elif marker == 0xDA:
            scans += 1
            if not progressive and body[:1] == bytes([components]):
                break  # all in one scan, and what follows is not read
            if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
                raise BrokenRecordError(
                    origin, f"too many scans, perhaps a decompression bomb: {what} has {scans:,}"
                )
    several = progressive or scans > 1
    return Jpeg(chosen_orientation(exif, xmp), 2 * samples * several, tuple(metadata))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of every segment; pixels lie between them."""
    at = 2
    while found := MARKER.search(data, at):
        marker, start = found[0][-1], found.end() - 2
        if marker == 0xD9 or start + 4 > len(data):
            return
        at = start + 2
        if marker not in (0x01, 0xD8):  # those have no length
            at += int.from_bytes(data[at : at + 2], "big")
        yield marker, start, at


@dataclass(frozen=True)
class Png:
    """A PNG without its metadata.

    Args:
        slim: the file with the chunks that pixels depend on.
        orientation: of EXIF, else of XMP.
        transparent: the grey or the colour that is transparent, in 8 bits or, for grey of 16 bits,
            in 16; None where there is none.
    """

    slim: bytes
    orientation: int
    transparent: int | tuple[int, ...] | None


def read_png(data: bytes, origin: str, what: str) -> Png:
    """The chunks of a PNG; compressed text and colour profiles are left unread.

    Raises:
        BrokenRecordError: it has too many chunks, or claims too large an image.
    """
    kept: list[bytes] = [data[:8]]
    exif, xmp = b"", b""
    depth = colour = 0
    transparent: int | tuple[int, ...] | None = None
    for kind, whole, body in _png_chunks(data, origin, what):
        if kind == b"IHDR" and len(body) >= 10:
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
            check_size(width, height, origin, what)
        if kind == b"eXIf":
            exif = exif or body
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\x00\x00"):
            xmp = xmp or body
        elif kind in (b"zTXt", b"tEXt") and body.startswith(b"Raw profile type exif\x00"):
            exif = exif or _raw_profile(body, compressed=kind == b"zTXt")
        elif kind == b"tRNS" and colour in (0, 2) and len(body) >= (2 if colour == 0 else 6):
            values = struct.unpack_from(">H" if colour == 0 else ">HHH", body)
            transparent = _eight_bits(values, depth)
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND") or (kind == b"tRNS" and colour == 3):
            kept.append(whole)
    return Png(b"".join(kept), chosen_orientation(exif, xmp), transparent)


def _png_chunks(data: bytes, origin: str, what: str) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, bytes and content of every chunk; a last one that is cut short as it is."""
    at, number = 8, 0
    while at < len(data):
        number += 1
        if number > MAX_PARTS:
            raise BrokenRecordError(origin, f"more than {MAX_PARTS:,} chunks: {what}")
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        yield kind, data[at : at + 12 + length], data[at + 8 : at + 8 + length]
        if kind == b"IEND":
            return
        at += 12 + length


def _eight_bits(values: tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    """A transparent colour in the depth in which pixels come out of the decoder."""
    if len(values) == 1:  # grey of 16 bits stays as it is
        return values[0] * 255 // ((1 << depth) - 1) if depth < 8 else values[0]
    # Colours of 16 bits come out as their upper 8; those next to the transparent one go as well.
    return tuple(value >> 8 for value in values) if depth == 16 else values


def _raw_profile(body: bytes, *, compressed: bool) -> bytes:
    """EXIF as ImageMagick writes it: as text, a name, a length and hexadecimal digits."""
    text = body.split(b"\x00", 1)[1]
    try:
        if compressed:
            text = zlib.decompressobj().decompress(text[1:], MAX_METADATA)
        return bytes.fromhex("".join(text.decode("ascii").split()[2:]))
    except (ValueError, zlib.error):
        return b""


def check_structure(data: bytes, suffix: str, origin: str, what: str) -> None:
    """Refuse a file of another format that takes too long to open.

    Raises:
        BrokenRecordError: it has too many parts, or claims too large an image.
    """
    check = {"gif": _check_gif, "tif": _check_tiff, "webp": _check_webp, "bmp": _check_bmp}
    if suffix in check:
        check[suffix](data, origin, what)


def _check_gif(data: bytes, origin: str, what: str) -> None:
    """Blocks before the first frame; what comes after it is never read."""
    if len(data) < 13:
        return
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    number = 0
    while at + 2 <= len(data) and data[at] == 0x21:
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            number += 1
            if number > MAX_PARTS:
                raise BrokenRecordError(
                    origin, f"more than {MAX_PARTS:,} blocks before the first frame: {what}"
                )
        at += 1
        number += 1
        if number > MAX_PARTS:
            raise BrokenRecordError(
                origin, f"more than {MAX_PARTS:,} blocks before the first frame: {what}"
            )


def _check_tiff(data: bytes, origin: str, what: str) -> None:
    """The tags of the first image, each of which may claim to be as long as the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    head, entry = ("QHHQQ", 20) if big else ("HHHII", 12)
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + head[0], data, start)
        first, total = start + struct.calcsize(order + head[0]), 0
        for at in range(first, first + entry * count, entry):
            tag, kind, values, _ = struct.unpack_from(order + head[1:], data, at)
            size = values * sizes.get(kind, 1)
            total += size
            if total > len(data) or (values > MAX_TIFF_VALUES and kind not in (1, 2, 7)):
                raise BrokenRecordError(
                    origin,
                    f"tags too large, perhaps a decompression bomb: {what} claims {size:,} bytes "
                    f"for tag {tag}",
                )
    except struct.error:
        raise BrokenRecordError(origin, f"damaged image: {what}: its tags are cut short") from None


def _check_webp(data: bytes, origin: str, what: str) -> None:
    """The size of the canvas, which opening the file allocates."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return
    if kind == b"VP8X":
        width = int.from_bytes(body[4:7], "little") + 1
        height = int.from_bytes(body[7:10], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (n & 0x3FFF for n in struct.unpack_from("<HH", body, 6))
    check_size(width, height, origin, what, WEBP_BYTES)


def _check_bmp(data: bytes, origin: str, what: str) -> None:
    compression = int.from_bytes(data[30:34], "little")
    if compression in (1, 2) and len(data) > MAX_RLE_BYTES:
        raise BrokenRecordError(
            origin,
            f"more than {MAX_RLE_BYTES:,} bytes of runs: {what}; store it as PNG",
        )
