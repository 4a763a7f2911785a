"""The bytes of a media value: a file, bytes, a data URL or base64 text."""

from __future__ import annotations

import base64
import binascii
import io
import re
import stat
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from amodal.data.record import BrokenRecordError

MAX_FILE_BYTES = 1 << 30  # larger files are not read into memory
ACCEPTED = {
    "image": "a path, bytes, an array or an image",
    "audio": "a path, bytes, a pair (waveform, rate) or a Hugging Face audio",
    "video": "a path, bytes, an array of frames or a Hugging Face video",
}
SHOWN = 100  # characters of a path in an error, from either end
# How media files begin; ISO media files (AVIF, HEIC, MP4) say `ftyp` after a length.
MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG",
    b"RIFF",  # WebP, WAV, AVI
    b"GIF8",
    b"BM",
    b"II*\x00",  # TIFF
    b"MM\x00*",
    b"fLaC",
    b"OggS",
    b"ID3",  # MP3
    b"\xff\xfb",
    b"\xff\xf3",
    b"\x1aE\xdf\xa3",  # Matroska, WebM
)
BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
MIN_BASE64 = 40  # characters: the smallest GIF there is has 48
URL_SAFE = str.maketrans("-_", "+/")


def content_of(value: Any, origin: str, kind: str) -> tuple[bytes, str]:
    """File content, and how to call it in an error.

    Args:
        value: path, bytes, data URL or base64 text.
        origin: file and row of the record, for the error.
        kind: what is expected, a key of `ACCEPTED`.

    Raises:
        BrokenRecordError: no such file, no content, or no regular file.
    """
    if isinstance(value, bytes):
        data, what = value, f"the {kind}"
    else:
        stream, what = open_content(value, origin, kind)
        with stream:
            size = stream.seek(0, io.SEEK_END)
            if size > MAX_FILE_BYTES:
                raise BrokenRecordError(
                    origin, f"larger than {MAX_FILE_BYTES:,} bytes: {what} has {size:,}"
                )
            stream.seek(0)
            data = stream.read()
    if not data:
        raise BrokenRecordError(origin, f"empty {kind} (0 bytes): {what}")
    return data, what


def open_content(value: Any, origin: str, kind: str) -> tuple[IO[bytes], str]:
    """`content_of` as a stream, for files that are not read at once."""
    if isinstance(value, bytes | bytearray | memoryview):
        return io.BytesIO(value), f"the {kind}"
    if not isinstance(value, str | Path):
        raise BrokenRecordError(origin, f"expected {ACCEPTED[kind]}: got {type(value).__name__}")
    what = shortened(str(value))
    content = embedded_content(value) if isinstance(value, str) else None
    return (_open_file(value, what, origin, kind) if content is None else io.BytesIO(content)), what


def embedded_content(text: str) -> bytes | None:
    """The file that a text holds as base64 or as a data URL; None where it is no such text.

    Examples:
        >>> embedded_content("data:image/gif;base64,R0lGODlhAQABAIAAAA==")[:6]
        b'GIF89a'
        >>> embedded_content("images/cat.jpg") is None
        True
    """
    if text[:5].lower() == "data:":
        head, comma, body = text.partition(",")
        if not comma:
            return None
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        return _from_base64(body)
    if len(text) < MIN_BASE64:
        return None
    start = _from_base64(text[:24])
    if start is None or not (start.startswith(MAGIC) or start[4:8] == b"ftyp"):
        return None
    return _from_base64(text)


def is_base64(text: str) -> bool:
    """Whether a text is too long for a path and has only letters of base64."""
    return len(text) > 255 and BASE64.fullmatch(text) is not None


def shortened(text: str) -> str:
    """A text for an error message: its two ends where it is long."""
    if len(text) <= 2 * SHOWN:
        return text
    return f"{text[:SHOWN]} … {text[-SHOWN:]} ({len(text):,} characters)"


def _from_base64(text: str) -> bytes | None:
    if not BASE64.fullmatch(text):
        return None
    letters = "".join(text.split()).translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4))
    except (binascii.Error, ValueError):
        return None


def _open_file(path: str | Path, what: str, origin: str, kind: str) -> IO[bytes]:
    if "://" in str(path):
        raise BrokenRecordError(origin, f"a URL, expected a file on this machine: {what}")
    if is_base64(str(path).rsplit("/", 1)[-1]):
        raise BrokenRecordError(origin, f"looks like base64, but holds no {kind}: {what}")
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            found = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise BrokenRecordError(origin, f"unreadable file: {what}: it is {found}")
        file = io.FileIO(path)
        file.name = ""  # libraries would guess the format from it
        return io.BufferedReader(file)
    except FileNotFoundError:
        raise BrokenRecordError(origin, f"no such {kind} file: {what}") from None
    except OSError as error:
        raise BrokenRecordError(origin, f"unreadable file: {what}: {error.strerror}") from None
    except ValueError as error:  # a null byte in the path
        raise BrokenRecordError(origin, f"unreadable file: {what}: {error}") from None
