"""A small file cannot take the machine down: its header says what decoding would take."""

import io
import subprocess
import sys
import time

import numpy as np
import pytest
from crafted import (
    bmp_of_runs,
    chunk,
    claiming,
    gif,
    jpeg,
    jpeg_of_many_scans,
    png,
    segment,
    tiff,
    webp_of_canvas,
    zeros,
)
from PIL import Image

from amodal.data.decode import decode_image
from amodal.data.image_limits import MAX_PARTS, memory_limit
from amodal.data.record import BrokenRecordError, DataError

MANY = MAX_PARTS + 1
REFUSED = {
    "a_line_of_100_million_pixels": (lambda: png(1, 10**8, pixels=b""), "a side of more than"),
    "a_row_of_100_million_pixels": (lambda: png(10**8, 1, pixels=b""), "a side of more than"),
    "a_square_of_13000": (
        lambda: png(13_000, 13_000, pixels=b""),
        "bytes to decode.*AMODAL_IMAGE_MEMORY",
    ),
    "png_text_chunks": (lambda: png(8, 8, before=chunk(b"tEXt", b"a\0") * MANY), "chunks"),
    "png_chunks_after": (lambda: png(8, 8, after=chunk(b"prVt", b"") * MANY), "chunks"),
    "png_empty_pixels": (lambda: png(8, 8, before=chunk(b"IDAT", b"") * MANY), "chunks"),
    "gif_comments": (lambda: gif(b"\x21\xfe\x01a\0" * MANY), "blocks before the first"),
    "gif_controls": (lambda: gif(b"\x21\xf9\0" * MANY), "blocks before the first"),
    "gif_long_comment": (lambda: gif(b"\x21\xfe" + b"\x01a" * MANY + b"\0"), "blocks before"),
    "tiff_tags": (
        lambda: tiff([(40_000 + i, 7, 4000, 8) for i in range(9)]),
        "tags too large",
    ),
    "tiff_strips": (
        lambda: tiff([(273, 4, 200_000, 8), (279, 4, 200_000, 8)], bytes(2_000_000)),
        "tags too large",
    ),
    "tiff_cut": (lambda: b"II*\x00\x08\x00\x00\x00\xff\xff", "cut short"),
    "jpeg_segments": (lambda: jpeg(before=segment(0xE1, b"") * MANY), "segments"),
    "jpeg_exif_segments": (lambda: jpeg(before=segment(0xE1, b"Exif\0\0") * MANY), "segments"),
    "jpeg_scans": (lambda: jpeg_of_many_scans(16, 16, 600), "too many scans"),
    "large_jpeg_scans": (lambda: jpeg_of_many_scans(3000, 3000, 200), "too many scans"),
    "large_progressive_jpeg": (
        lambda: claiming(jpeg(progressive=True, subsampling=0), 9000, 9000),
        "bytes to decode",
    ),
    "webp_canvas": (lambda: webp_of_canvas(60_000, 60_000), "decompression bomb"),
    "bmp_runs": (lambda: bmp_of_runs(4000, 2500, b"\x01\x00" * 1_500_000), "bytes of runs"),
}
READ = {
    "png_colour_profile_of_20_MB": lambda: png(
        8, 8, before=chunk(b"iCCP", b"x\0\0" + zeros(20 << 20))
    ),
    "png_text_of_20_MB": lambda: png(8, 8, before=chunk(b"zTXt", b"x\0\0" + zeros(20 << 20))),
    "png_international_text": lambda: png(
        8, 8, before=chunk(b"iTXt", b"x\0\1\0\0\0" + zeros(2 << 20))
    ),
    "png_exif_of_20_MB": lambda: png(
        8, 8, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zeros(20 << 20))
    ),
    "jpeg_comments": lambda: jpeg(before=segment(0xFE, bytes(65_000)) * 100),
    "a_divider": lambda: png(40_000, 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_takes_too_much_is_refused_by_its_structure(name):
    make, message = REFUSED[name]
    data = make()
    start = time.process_time()
    with pytest.raises(BrokenRecordError, match=f"^row 7: .*{message}"):
        decode_image(data, "row 7")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", READ)
def test_what_pixels_do_not_depend_on_is_left_unread(name):
    data = READ[name]()
    start = time.process_time()
    assert decode_image(data, "here").size > 0
    assert time.process_time() - start < 1


def test_a_jpeg_is_measured_at_the_size_at_which_it_is_decoded(monkeypatch):
    data = jpeg(800, 800)
    monkeypatch.setenv("AMODAL_IMAGE_MEMORY", "100000")
    assert decode_image(data, "here", min_size=100).shape == (100, 100, 3)
    with pytest.raises(BrokenRecordError, match="takes 1,920,000; make it smaller, or set"):
        decode_image(data, "here")


def test_the_limit_on_memory_can_be_raised_and_is_a_number(monkeypatch):
    monkeypatch.setenv("AMODAL_IMAGE_MEMORY", "2000000000")
    assert memory_limit() == 2_000_000_000
    monkeypatch.setenv("AMODAL_IMAGE_MEMORY", "2 GB")
    with pytest.raises(DataError, match="AMODAL_IMAGE_MEMORY: expected a number of bytes"):
        decode_image(png(8, 8), "here")


def test_the_trailer_of_a_motion_photo_is_no_scan():
    data = jpeg(3000, 3000, progressive=True)
    assert decode_image(data + b"\xff\xda\x00\x08" * 1000, "here", min_size=8).size > 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_large_images_are_converted_band_by_band_to_the_same_pixels(mode):
    g = np.random.default_rng(0)
    wide = g.integers(0, 65_536, (300, 500), dtype=np.uint16)
    colours = Image.fromarray(g.integers(0, 256, (300, 500, 4), dtype=np.uint8))
    image = Image.fromarray(wide) if mode == "I;16" else colours.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    rows = []
    for top in range(0, 300, 100):  # small enough to be one band
        part = io.BytesIO()
        image.crop((0, top, 500, top + 100)).save(part, "PNG")
        rows.append(decode_image(part.getvalue(), "here"))
    np.testing.assert_array_equal(decode_image(stream.getvalue(), "here"), np.concatenate(rows))


# Files at the limit, each decoded in a process of its own, since only the peak can be read.
LARGEST = {
    "png_6800": "png(6800, 6800)",
    "png_alpha_6800": "png(6800, 6800, 8, 6)",
    "png_16_bits_alpha": "png(6800, 6800, 16, 6)",
    "png_grey": "png(9050, 9050, 8, 0)",
    "png_16_bits_grey": "png(8100, 8100, 16, 0)",
    "jpeg_10450": "jpeg(10450, 10450)",
    "progressive_jpeg": "jpeg(7350, 7350, progressive=True)",
    "webp": "saved(4000, 'WEBP', lossless=True, quality=0, method=0)",
    "avif": "saved(4900, 'AVIF', speed=10, quality=10)",
    "tiff": "saved(5400, 'TIFF', compression='tiff_adobe_deflate')",
}
SCRIPT = """
import io, resource, sys, time
from PIL import Image
from crafted import *
from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError
def saved(side, format, **options):
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, format, **options)
    return stream.getvalue()
if sys.argv[2] == "make":
    open(sys.argv[3], "wb").write(eval(sys.argv[1]))
else:
    data = open(sys.argv[3], "rb").read()
    Image.init()
    decode_image(png(8, 8), "here")
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before, start = peak(), time.process_time()
    decode_image(data, "here")
    print((peak() - before) * 1024, time.process_time() - start)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_images_take_less_than_350_MB(name, tmp_path):
    file = str(tmp_path / "image")
    python = [sys.executable, "-c", SCRIPT, LARGEST[name]]
    subprocess.run([*python, "make", file], check=True, cwd="tests/data")
    done = subprocess.run(
        [*python, "decode", file], check=True, cwd="tests/data", capture_output=True, text=True
    )
    peak, seconds = (float(number) for number in done.stdout.split())
    assert peak < 350e6
    assert seconds < 4  # half of it on a machine with nothing else to do
