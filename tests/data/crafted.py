"""Image files that ask for more than they are worth, byte by byte."""

import io
import struct
import zlib

from PIL import Image


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def zeros(count):
    """A zlib stream of that many zeros."""
    stream, out = zlib.compressobj(9), b""
    while count > 0:
        out += stream.compress(bytes(min(count, 1 << 20)))
        count -= 1 << 20
    return out + stream.flush()


def png(width, height, depth=8, colour=2, *, before=b"", pixels=None, after=b""):
    """A PNG with chunks before and after its pixels; black where no `pixels` are given."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    stream = zeros((1 + (width * bits + 7) // 8) * height) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", stream), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(before=b""):
    """A GIF of one pixel with blocks before its frame."""
    stream = io.BytesIO()
    Image.new("P", (1, 1)).save(stream, "GIF")
    data = stream.getvalue()
    frame = data.rindex(b"\x2c")
    return data[:frame] + before + data[frame:]


def tiff(tags, data=b""):
    """A grey TIFF of 64 x 64 pixels with further tags (tag, type, count, value)."""
    kept = {
        **{256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)},
        **{277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, 4096)},
        **{tag: rest for tag, *rest in tags},
    }
    kept.setdefault(273, (4, 1, 14 + 12 * (len(kept) + 1)))
    entries = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in sorted(kept.items()))
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(kept)) + entries + bytes(4100) + data


def jpeg(width=16, height=16, before=b"", **options):
    """A JPEG with segments at its start."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(stream, "JPEG", **options)
    data = stream.getvalue()
    return data[:2] + before + data[2:]


def claiming(jpeg, width, height):
    """A JPEG whose header claims another size."""
    data = bytearray(jpeg)
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_of_many_scans(width, height, scans):
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(width, height, progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * scans + b"\xff\xd9"


def webp_of_canvas(width, height):
    """An animated WebP whose header claims that canvas."""
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(stream.getvalue())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def bmp_of_runs(width, height, runs):
    """A BMP of 8 bits whose pixels are run-length encoded."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + head + bytes(1024) + runs
