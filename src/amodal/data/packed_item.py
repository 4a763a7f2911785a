"""One record as the members of a shard."""

from __future__ import annotations

import io
import json
from datetime import date, time
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from amodal.data.decode import load_image, suffix_of
from amodal.data.decode_audio import audio_file
from amodal.data.decode_video import video_file
from amodal.data.record import BrokenRecordError, Record, captions_of, images_of, videos_of
from amodal.data.surrogates import half_pair

CAPTIONS = ("captions", "caption", "text")  # keys that are read as captions


class PackedItem(NamedTuple):
    """One record as members of a shard.

    Args:
        name: id of the record.
        members: suffix -> content.
    """

    name: str
    members: dict[str, bytes]
    images: int
    audio: int
    videos: int
    captions: int
    left_out: tuple[str, ...]


def packed_item(record: Record) -> PackedItem:
    """The members of one record: images, audio and videos under their suffixes, and the json.

    Frames of a video that are no file are left out: encoding them would change them.

    Raises:
        BrokenRecordError: a file cannot be decoded, or there is nothing that a shard can hold.
    """
    origin = str(record["origin"])
    images = [_content(value, origin) for value in images_of(record)]
    audio = [audio_file(value, origin) for value in _recordings(record)]
    given = videos_of(record)
    videos = [video_file(value, origin) for value in given if not isinstance(value, np.ndarray)]
    captions = captions_of(record)
    if not images and not audio and not videos and not captions:
        raise BrokenRecordError(
            origin, "neither image nor audio nor video file nor caption, which is what shards hold"
        )
    data: dict[str, Any] = {}
    left_out = ["video"] if len(videos) < len(given) else []
    for key, value in record.items():
        if key in ("image", "audio", "video", "text", "origin") or value is None:
            continue
        if not _has_json(value):
            left_out.append(key)
        else:
            # Under such a name it would be read as captions.
            data[f"column_{key}" if key in CAPTIONS else key] = value
    if captions:
        data["captions"] = captions
    members = {
        suffix if len(files) == 1 else f"{number}.{suffix}": content
        for files in (images, audio, videos)
        for number, (suffix, content) in enumerate(files)
    }
    members["json"] = _json(data, origin)
    counts = len(images), len(audio), len(videos), len(captions)
    return PackedItem(str(record["id"]), members, *counts, tuple(left_out))


def _recordings(record: Record) -> list[Any]:
    """The audio of a record; a tuple is one waveform with its rate."""
    value = record.get("audio")
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _content(value: Any, origin: str) -> tuple[str, bytes]:
    """Suffix and content of an image file."""
    pixels, content = load_image(value, origin, min_size=1)
    suffix = "png" if content is None else suffix_of(content)
    if content is None or suffix is None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        content, suffix = buffer.getvalue(), "png"
    return suffix, content


def _has_json(value: Any) -> bool:
    if value is None or isinstance(value, str | int | float):
        return True
    try:
        json.dumps(value, default=_plain, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _json(data: dict[str, Any], origin: str) -> bytes:
    text = json.dumps(data, ensure_ascii=False, default=_plain, sort_keys=True)
    wrong = half_pair(text)
    if wrong:
        raise BrokenRecordError(origin, f"the text {wrong}")
    return text.encode()


def _plain(value: Any) -> Any:
    """Metadata as JSON.

    Raises:
        TypeError: it has no form there.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview | Image.Image):
        raise TypeError(f"a {type(value).__name__} has no form in JSON")
    return str(value)
