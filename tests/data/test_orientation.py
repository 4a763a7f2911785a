"""Images stand upright, wherever their file says which way that is."""

import io
import struct

import numpy as np
import pytest
from crafted import chunk, jpeg, segment
from PIL import Image, ImageOps

from amodal.data.decode import decode_image
from amodal.data.orientation import exif_orientation, xmp_orientation


def exif(value, order="<", kind=3):
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "HHI", 0x0112, kind, 1)
    entry += struct.pack(order + ("HH" if kind == 3 else "I"), *([value, 0][: 5 - kind]))
    body = struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    return b"Exif\x00\x00" + mark + body


def xmp(value, element=False):
    inner = f"<tiff:Orientation>{value}</tiff:Orientation>" if element else ""
    attribute = "" if element else f' tiff:Orientation="{value}"'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{inner}</rdf:Description>'
    ).encode()


XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\x00"


@pytest.mark.parametrize(
    "before",
    [
        segment(0xE1, exif(6)),
        segment(0xE2, b"ICC_PROFILE\x00" + bytes(60_000)) * 3 + segment(0xE1, exif(6, ">")),
        b"".join(
            segment(0xE2, b"ICC_PROFILE\x00" + bytes([n, 3]) + bytes(60_000)) for n in (1, 2, 3)
        )
        + segment(0xE1, exif(6)),
        segment(0xED, b"Photoshop 3.0\x00" + bytes(60_000)) * 2 + segment(0xE1, exif(6)),
        segment(0xE1, XMP_HEAD + xmp(6)),
        segment(0xE1, XMP_HEAD + xmp(6, element=True)),
        segment(0xE1, XMP_HEAD + xmp(1)) + segment(0xE1, exif(6)),
    ],
    ids=[
        "first",
        "after_damaged_icc",
        "after_icc",
        "after_photoshop",
        "xmp",
        "xmp_element",
        "both",
    ],
)
@pytest.mark.parametrize("min_size", [None, 8])
def test_the_orientation_of_a_jpeg_is_found_in_any_segment(before, min_size):
    data = jpeg(60, 40, before)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size == (40, 60)
    height, width = decode_image(data, "here", min_size=min_size).shape[:2]
    assert height > width


def test_a_cmyk_jpeg_is_turned_as_well():
    stream = io.BytesIO()
    Image.new("CMYK", (60, 40)).save(stream, "JPEG")
    data = stream.getvalue()
    data = data[:2] + segment(0xE2, bytes(65_000)) * 2 + segment(0xE1, exif(6)) + data[2:]
    assert decode_image(data, "here").shape == (60, 40, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("how", ["exif", "xmp"])
def test_other_formats_are_turned_as_pillow_turns_them(format, how):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 255
    options = {"exif": exif(6)} if how == "exif" else {"xmp": xmp(6)}
    if (format, how) == ("TIFF", "exif"):
        options = {"tiffinfo": {0x0112: 6}}
    if format == "TIFF" and how == "xmp":
        options = {"tiffinfo": {700: xmp(6)}}
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if (format, how) == ("PNG", "xmp"):
        image.save(stream, format)
        data = stream.getvalue()
        packet = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))
        data = data[:33] + packet + data[33:]
    else:
        image.save(stream, format, **options)
        data = stream.getvalue()
    want = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    got = decode_image(data, "here")
    np.testing.assert_array_equal(got, want)
    if format != "AVIF" or how == "exif":  # whether a library reads it from XMP is its own choice
        assert got.shape == (60, 40, 3)


def test_exif_that_image_magick_wrote_as_text_is_read():
    digits = exif(6).hex().encode()
    text = (
        b"Raw profile type exif\0\nexif\n      " + str(len(digits) // 2).encode() + b"\n" + digits
    )
    stream = io.BytesIO()
    Image.new("RGB", (60, 40)).save(stream, "PNG")
    data = stream.getvalue()
    data = data[:33] + chunk(b"tEXt", text) + data[33:]
    assert decode_image(data, "here").shape == (60, 40, 3)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_none(value):
    assert exif_orientation(exif(value)) is None


def test_damaged_exif_says_nothing():
    g = np.random.default_rng(0)
    for length in range(40):
        exif_orientation(exif(6)[:length])
    for _ in range(300):
        exif_orientation(b"Exif\0\0II" + g.bytes(40))
    assert exif_orientation(exif(6, kind=4)) == 6
    assert xmp_orientation("tiff:Orientation = '3'") == 3
    assert xmp_orientation(b"tiff:Orientation='x'") is None
