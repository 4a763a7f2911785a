"""Hostile requests to the server: bodies, content types, headers and images."""

import io
import json
import random
import struct
import zlib

from PIL import Image
from small_models import photo, png

PATHS = ("/api/search", "/api/zero-shot", "/api/caption", "/api/nothing", "/api/about", "/")
BOUNDARY = "boundary"


def crafted_uploads(seed, count):
    """(method, path, headers, body) of `count` requests that are meant to do harm."""
    draw = random.Random(seed)
    images = list(bombs().values()) + list(valid_images().values())
    kinds = [
        lambda: upload(draw.randbytes(draw.randint(0, 5000))),
        lambda: upload(truncated(draw, draw.choice(images))),
        lambda: upload(flipped(draw, draw.choice(images))),
        lambda: upload(draw.choice(images), kind=draw.choice(TYPES), name=draw.choice(NAMES)),
        lambda: wrong_type(draw),
        lambda: huge_headers(draw),
        lambda: wrong_multipart(draw),
        lambda: odd_fields(draw),
        lambda: cross_site(draw),
    ]
    found = [("POST", "/api/search", *upload(data)) for data in bombs().values()]
    found += [("POST", "/api/search", *upload(b"\xff" * (20 << 20))) for _ in range(2)]
    found += [("POST", "/api/search", *upload(b"\0" * (22 << 20)))]
    while len(found) < count:
        headers, body = draw.choice(kinds)()
        method = draw.choice(["POST"] * 60 + ["PUT", "DELETE", "PATCH", "GET", "TRACE"])
        path = draw.choice(["/api/search"] * 50 + list(PATHS))
        found.append((method, path, headers, body))
    return found[:count]


TYPES = ("image/png", "text/html", "application/x-sh", "image/svg+xml", "", "a/b; c=" + "d" * 999)
WRONG_TYPES = (
    *("application/json", "image/png", "text/plain", "multipart/mixed", "\x7f", "/"),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary="),
    "multipart/form-data; boundary=" + "b" * 5000,
    "multipart/form-data; charset=utf-7",
)
TEXTS = ("red", "\x00", " ", "\u202e" * 50, "x" * 2001, "a " * 1000, "\U0001f600" * 99)
ORIGINS = ("https://evil.example", "null", "http://[", "x")
NAMES = ("x.png", "../../etc/passwd", "a\\b", "%00", "é" * 100, "x" * 3000, "CON", '"; drop')


def part(name, data, file=None, kind=None):
    disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    lines = [f"--{BOUNDARY}", f"Content-Disposition: {disposition}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts, boundary=BOUNDARY):
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return {"content-type": f"multipart/form-data; boundary={boundary}"}, body


def upload(data, kind="image/png", name="x.png"):
    return form(part("image", data, name.replace('"', "%22"), kind))


def truncated(draw, data):
    return data[: draw.randint(0, len(data))]


def flipped(draw, data):
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def wrong_type(draw):
    body = draw.choice([png(photo()), b"{}", b"[" * 50_000, b"text=red", b"", draw.randbytes(300)])
    return {"content-type": draw.choice(WRONG_TYPES)}, body


def huge_headers(draw):
    headers, body = upload(png(photo()))
    size = draw.choice([10_000, 60_000, 70_000, 300_000])
    one = {f"x-{i}": "y" * 50 for i in range(size // 60)}
    more = draw.choice([{"x-long": "x" * size}, one, {"cookie": "a=b; " * (size // 6)}])
    return {**headers, **more}, body


def wrong_multipart(draw):
    image = png(photo())
    return draw.choice(
        [
            form(part("image", image, "x.png"), boundary="another"),
            form(*[part(f"field{i}", b"x") for i in range(1100)]),
            form(*[part("image", image, "x.png") for _ in range(1100)]),
            form(*[part("text", b"red") for _ in range(50)]),
            form(part("text", b"r" * (2 << 20))),
            form(part("image" * 3000, image, "x.png")),
            (form()[0], part("image", image, "x.png")[:-30]),
            form(b"--boundary\r\n" * 3000),
            form(b"--boundary\r\nContent-Disposition: form-data\r\n\r\nx\r\n"),
            form(b"--boundary\r\n" + b"a: b\r\n" * 5000 + b"\r\n\r\n"),
            form(b"--boundary\r\n" + b"a" * 100_000 + b": b\r\n\r\n"),
            form(b"\r\n--boundar" * 40_000),
            form(b"\r\n" * 200_000),
            form(part("image", b"\r\n--boundar" * 20_000, "x.png")),
            form(part("text", "röd".encode("latin-1"))),
            form(part("text", b"red"), part("input", b"\xff\xfe")),
        ]
    )


def odd_fields(draw):
    k = draw.choice(["0", "-1", "1001", "1e3", "nan", "9" * 5000, "", "1000", "5", "五"])
    text = draw.choice(TEXTS)
    extra = draw.choice(["image", "all", "nothing", "x" * 2001, "\x00", "'; --"])
    parts = [("text", text), ("k", k), ("input", extra)]
    return form(*[part(name, value.encode()) for name, value in parts])


def cross_site(draw):
    headers, body = form(part("text", b"red"))
    return {**headers, "origin": draw.choice(ORIGINS)}, body


def valid_images():
    found = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(photo(1, (60, 80))).save(buffer, kind)
        found[kind] = buffer.getvalue()
    return found


def chunk(name, data):
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png_of(width, height, rows=b"", *, depth=8, color=0, more=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def zeros(count):
    """Deflated zeros, made in pieces."""
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(piece[: min(1 << 20, count - at)]) for at in range(0, count, 1 << 20)]
    return b"".join(parts) + packer.flush()


def bombs():
    """Small files that claim, or unpack to, much more."""
    text = chunk(b"zTXt", b"a\0\0" + zeros(200_000_000))
    profile = chunk(b"iCCP", b"a\0\0" + zeros(200_000_000))
    frames, buffer = [Image.new("P", (800, 800)) for _ in range(60)], io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return {
        "thin": thin_png(),
        "wide": png_of(100_000_000, 1, zeros(100_000_001)),
        "square": png_of(13_000, 13_000, zeros(13_000 * 13_001)),
        "claims": png_of(2**31 - 1, 2**31 - 1),
        "claims, deep": png_of(60_000, 2_900, zeros(1000), depth=16, color=6),
        "text": png_of(4, 4, zeros(20), more=text),
        "profile": png_of(4, 4, zeros(20), more=profile),
        "chunks": png_of(4, 4, zeros(20), more=chunk(b"tEXt", b"a\0b") * 50_000),
        "frames": buffer.getvalue(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9"/>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n(%pipe%id) run",
        "ppm": b"P6 99999 99999 255\n",
        "tiff": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200,
        "json": json.dumps({"image": "x"}).encode(),
    }


def thin_png():
    """1 x 100,000,000 pixels, a few hundred kilobytes."""
    return png_of(1, 100_000_000, zeros(200_000_000))
