"""A part of a media file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Segment:
    """A part of a media file.

    Args:
        file: path, file content as bytes, or a waveform with its rate.
        start, end: in seconds from the beginning.
    """

    file: Any
    start: float
    end: float


def equal_parts(file: Any, seconds: float, longest: float) -> list[Any]:
    """A file in parts of equal length, of at most `longest` seconds each; a short one as it is.

    Args:
        file: as in `Segment`.
        seconds: its length.
        longest: seconds of a part.

    Examples:
        >>> [(part.start, part.end) for part in equal_parts("a.wav", 25.0, 10.0)]
        [(0.0, 8.333), (8.333, 16.667), (16.667, 25.0)]
        >>> equal_parts("a.wav", 9.0, 10.0)
        ['a.wav']
    """
    count = max(1, -int(-(seconds / longest - 1e-6) // 1))
    if count == 1:
        return [file]
    edges = [round(seconds * part / count, 3) for part in range(count + 1)]
    return [Segment(file, edges[part], edges[part + 1]) for part in range(count)]
