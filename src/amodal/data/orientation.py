"""Which way up an image is: EXIF and XMP, read without trusting either."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

ORIENTATION = 0x0112  # EXIF tag
EXIF_HEAD = b"Exif\x00\x00"
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\x00"
XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")
XMP_BYTES = 1 << 20  # of a packet that are searched
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


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) pixels turned as the EXIF orientation says."""
    transpose, rows, columns = TURNS.get(orientation, TURNS[1])
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    if rows:
        pixels = pixels[::-1]
    if columns:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def chosen_orientation(exif: bytes | None, xmp: bytes | str | None) -> int:
    """The orientation of an image, 1 to 8: that of EXIF, else that of XMP, else 1."""
    found = exif_orientation(exif) if exif else None
    return found or (xmp_orientation(xmp) if xmp else None) or 1


def info_orientation(info: Mapping[str | tuple[int, int], Any]) -> int:
    """The orientation that the metadata of a Pillow image say."""
    return chosen_orientation(info.get("exif"), info.get("xmp"))


def exif_orientation(exif: bytes) -> int | None:
    """The orientation tag of an EXIF block; None where there is none that makes sense.

    Only this tag is read: the others may claim any length, and overlap.
    """
    tiff = exif[len(EXIF_HEAD) :] if exif.startswith(EXIF_HEAD) else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _ = struct.unpack_from(order + "HHI", tiff, at)
        if tag == ORIENTATION:
            (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, at + 8)
            return int(value) if value in TURNS else None
    return None


def xmp_orientation(xmp: bytes | str) -> int | None:
    """The orientation of an XMP packet, as an attribute or as an element."""
    packet = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    found = XMP_ORIENTATION.search(packet[:XMP_BYTES])
    return int(found[1]) if found else None
