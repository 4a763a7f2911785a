"""Images of every kind come out whole and upright, or not at all."""

import contextlib
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from crafted import chunk, png
from PIL import Image, ImageOps

from amodal.data.decode import SUFFIXES, decode_image, load_image, suffix_of
from amodal.data.image_limits import MAX_PIXELS
from amodal.data.record import BrokenRecordError


def image(height=48, width=64, seed=0):
    """Smooth colours, so that JPEG changes little."""
    g = np.random.default_rng(seed)
    small = Image.fromarray(g.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, format, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, format=format, **options
    )
    return buffer.getvalue()


def png_with_header(width, height):
    """A valid PNG header of that size, with hardly any pixels behind it."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def jpeg_with_header(width, height):
    """A small JPEG whose header claims another size."""
    data = bytearray(encoded(image(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_very_pixels(format, tmp_path):
    want = image()
    (tmp_path / "a.bin").write_bytes(encoded(want, format))
    for value in (tmp_path / "a.bin", str(tmp_path / "a.bin"), encoded(want, format)):
        got = decode_image(value, "here")
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, want)


def test_webp_and_gif_are_read():
    want = image()
    np.testing.assert_array_equal(decode_image(encoded(want, "WEBP", lossless=True), "here"), want)
    assert decode_image(encoded(want, "GIF"), "here").shape == want.shape


def test_jpeg_agrees_with_another_decoder():
    data = encoded(image(), "JPEG", quality=95)
    want = np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, "here").astype(int) - want).max() <= 3


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_min_size_makes_large_jpegs_cheaper_but_never_too_small(options):
    data = encoded(image(480, 640), "JPEG", **options)
    got = decode_image(data, "here", min_size=100)
    assert 100 <= min(got.shape[:2]) < 200
    assert got.shape[1] / got.shape[0] == pytest.approx(640 / 480, rel=0.02)
    assert decode_image(data, "here", min_size=1000).shape == (480, 640, 3)


@pytest.mark.parametrize(("height", "width"), [(640, 480), (2000, 2000), (3, 60_000), (129, 128)])
def test_min_size_bounds_the_pixels_of_every_format_and_twice_is_once(height, width):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    limit = 16 * 32**2
    for value in (pixels, encoded(Image.fromarray(pixels), "PNG")):
        small = decode_image(value, "here", min_size=32)
        factor = round(width / small.shape[1])
        assert small.shape[0] * small.shape[1] <= limit
        assert factor == 1 or -(-height // (factor - 1)) * -(-width // (factor - 1)) > limit
        np.testing.assert_array_equal(decode_image(small, "here", min_size=32), small)
        corner = pixels[:factor, :factor].mean((0, 1))
        assert np.abs(small[0, 0] - corner).max() <= 1
        np.testing.assert_array_equal(decode_image(value, "here"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image(), "JPEG", quality=95, exif=exif)
    want = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    got = decode_image(data, "here")
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= 3
    png = encoded(image(), "PNG", exif=exif)
    want = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(png))))
    np.testing.assert_array_equal(decode_image(png, "here"), want)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_grey_becomes_three_equal_channels(format):
    grey = image()[:, :, 0]
    got = decode_image(encoded(grey, format), "here")
    assert got.shape == (48, 64, 3)
    assert (got == got[:, :, :1]).all()
    assert np.abs(got[:, :, 0].astype(int) - grey.astype(int)).max() <= (format == "JPEG") * 12


def test_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (32, 32), (250, 10, 20)).convert("CMYK")
    got = decode_image(encoded(red, "JPEG", quality=95), "here")
    assert np.abs(got.astype(int) - [250, 10, 20]).max() <= 8


def test_a_cmyk_jpeg_cut_short_is_refused():
    data = encoded(Image.fromarray(image(200, 200)).convert("CMYK"), "JPEG")
    with pytest.raises(BrokenRecordError, match="damaged"):
        decode_image(data[: len(data) // 2], "here")


def test_transparency_becomes_white():
    layer = np.zeros((2, 3, 4), dtype=np.uint8)
    layer[0] = (255, 0, 0, 255)
    layer[1] = (255, 0, 0, 0)
    half = np.full((1, 1, 4), (0, 0, 0, 51), dtype=np.uint8)
    for got in (decode_image(encoded(layer, "PNG"), "here"), decode_image(layer, "here")):
        assert (got[0] == (255, 0, 0)).all()
        assert (got[1] == 255).all()
    np.testing.assert_array_equal(decode_image(encoded(half, "PNG"), "here"), [[[204] * 3]])


def test_palettes_are_read_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 210, 220])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(
        decode_image(encoded(image, "PNG"), "here"), [[[10, 20, 30], [200, 210, 220]]]
    )
    see_through = encoded(image, "PNG", transparency=0)
    np.testing.assert_array_equal(
        decode_image(see_through, "here"), [[[255, 255, 255], [200, 210, 220]]]
    )


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(format):
    wide = np.array([[0, 128, 129, 32896, 65535]], dtype=np.uint16)
    got = decode_image(encoded(Image.fromarray(wide), format), "here")
    np.testing.assert_array_equal(got[0, :, 0], [0, 0, 1, 128, 255])


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "want"),
    [
        (16, 0, (1000, 257 * 7), (1000,), [[255] * 3, [7] * 3]),
        (8, 0, (100, 7), (100,), [[255] * 3, [7] * 3]),
        (4, 0, (0x5A,), (5,), [[255] * 3, [170] * 3]),
        (2, 0, (0b01110000,), (1,), [[255] * 3, [255] * 3]),
        (1, 0, (0b10000000,), (1,), [[255] * 3, [0] * 3]),
        (8, 2, (1, 2, 3, 9, 9, 9), (1, 2, 3), [[255] * 3, [9] * 3]),
        (16, 2, (256, 512, 768, 2304, 2304, 2304), (256, 512, 768), [[255] * 3, [9] * 3]),
    ],
    ids=str,
)
def test_a_transparent_colour_becomes_white_in_any_depth(depth, colour, row, transparent, want):
    packed = struct.pack(f">{len(row)}{'H' if depth == 16 else 'B'}", *row)
    data = png(
        2,
        1,
        depth,
        colour,
        before=chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)),
        pixels=zlib.compress(b"\0" + packed),
    )
    np.testing.assert_array_equal(decode_image(data, "here"), [want])


def test_black_and_white_is_read():
    got = decode_image(encoded(Image.new("1", (3, 3), 1), "PNG"), "here")
    assert (got == 255).all()


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(data, "here") == (255, 0, 0)).all()


def test_avif_is_read():
    got = decode_image(encoded(image(), "AVIF", quality=100, subsampling="4:4:4"), "here")
    assert np.abs(got.astype(int) - image()).max() <= 8


def test_heic_names_the_package_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)
    with pytest.raises(BrokenRecordError, match="pip install pillow-heif"):
        decode_image(data, "here")


def test_heic_is_read_where_its_package_is():
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    heif.register_heif_opener()
    got = decode_image(encoded(image(), "HEIF", quality=95), "here")
    assert np.abs(got.astype(int) - image()).mean() <= 8


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "avif", "heic"])
def test_the_suffixes_of_phones_and_browsers_are_images(suffix):
    assert suffix in SUFFIXES


def test_arrays_and_images_pass_through():
    pixels = image()
    assert decode_image(pixels, "here") is pixels
    np.testing.assert_array_equal(decode_image(Image.fromarray(pixels), "here"), pixels)
    assert decode_image(pixels[:, :, 0], "here").shape == (48, 64, 3)
    assert decode_image(pixels[:, :, :1], "here").shape == (48, 64, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("min_size", [None, 8])
def test_a_file_cut_short_is_refused(format, kept, min_size, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = encoded(noise, format)
    file = tmp_path / "cut"
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BrokenRecordError, match=r"row 7.*cut"):
        decode_image(file, "table.csv row 7", min_size=min_size)


def test_a_progressive_jpeg_cut_short_is_refused():
    data = encoded(image(200, 200), "JPEG", progressive=True)
    for kept in (0.4, 0.9):
        with pytest.raises(BrokenRecordError, match="damaged JPEG"):
            decode_image(data[: int(len(data) * kept)], "here")


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    data = encoded(image(), "JPEG")
    np.testing.assert_array_equal(
        decode_image(data + b"a trailer of some camera", "here"), decode_image(data, "here")
    )


def test_spare_bytes_before_the_end_marker_do_no_harm():
    data = encoded(image(), "JPEG")
    padded = data[:-2] + bytes(5) + data[-2:]
    assert decode_image(padded, "here").shape == (48, 64, 3)


def test_scrambled_jpegs_never_crash():
    g = np.random.default_rng(0)
    data = encoded(image(), "JPEG")
    for _ in range(200):
        damaged = bytearray(data)
        for at in g.integers(2, len(data), 3):
            damaged[at] = g.integers(256)
        with contextlib.suppress(BrokenRecordError):
            assert decode_image(bytes(damaged), "here", min_size=16).shape[2] == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BrokenRecordError, match=r"row 3: no such image file: .*gone\.jpg"):
        decode_image(tmp_path / "gone.jpg", "row 3")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(BrokenRecordError, match="unreadable file"):
        decode_image(tmp_path, "here")


def test_a_text_file_named_jpg_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("hello, I am a text")
    with pytest.raises(BrokenRecordError, match=r"not a JPEG.*a\.jpg begins with b'hello"):
        decode_image(tmp_path / "a.jpg", "here")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a"])
def test_hardly_any_bytes_are_refused(data):
    with pytest.raises(BrokenRecordError):
        decode_image(data, "here")


@pytest.mark.parametrize(
    "data", [png_with_header(60_000, 60_000), jpeg_with_header(65_000, 65_000)]
)
def test_a_decompression_bomb_is_refused_by_its_header(data):
    assert len(data) < 5000
    with pytest.raises(BrokenRecordError, match="decompression bomb"):
        decode_image(data, "here")


def test_formats_beyond_the_list_are_not_tried():
    with pytest.raises(BrokenRecordError, match="not a JPEG"):
        decode_image(encoded(image(), "PPM"), "here")


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
        None,
        7,
        "https://example.org/a.jpg",
        "nul\0byte.jpg",
    ],
)
def test_what_is_no_image_is_refused(value):
    with pytest.raises(BrokenRecordError):
        decode_image(value, "here")


def test_floating_point_pixels_are_refused_since_their_range_is_unknown():
    data = encoded(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF")
    with pytest.raises(BrokenRecordError, match="floating-point"):
        decode_image(data, "here")


def test_the_limit_is_that_of_pillow():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_the_suffix_follows_from_the_content():
    for format, suffix in [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")]:
        assert suffix_of(encoded(image(), format)) == suffix
    assert suffix_of(b"hello") is None


def test_the_content_comes_beside_the_pixels(tmp_path):
    data = encoded(image(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for value in (tmp_path / "a.png", data):
        pixels, content = load_image(value, "here")
        assert content == data
        np.testing.assert_array_equal(pixels, image())
    assert load_image(image(), "here")[1] is None
