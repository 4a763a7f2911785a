"""Video decoding: frames at chosen times; damaged files are errors.

Only what lies between a sampled frame and the keyframe before it is decoded, one frame is held at a
time, and a file is read in parts, so that memory does not grow with its length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from amodal.data.content import content_of, open_content
from amodal.data.image_limits import check_size
from amodal.data.record import BrokenRecordError
from amodal.data.segment import Segment, equal_parts

SUFFIXES = ("mp4", "m4v", "mov", "webm", "mkv", "avi")  # of video files
# A stream that ends so much before its file says is damaged; a sound track may last a little longer
# than the images.
MAX_LOST = 0.2
LEAST_LOST_S = 1.0
BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})
FILES_OF = {"mov": "mp4", "matroska": "mkv", "avi": "avi"}  # container -> suffix of its files
MAX_BOXES = 100_000  # at the top of an MP4 file; a fragmented one has two per fragment
START = 16  # bytes that tell the container

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFacts:
    """Facts of a video file.

    Args:
        width, height: in pixels, as it is shown.
        seconds: length of the images; 0 of an array of frames.
        rate: mean frames per second; 0 of an array of frames.
        has_audio: whether there is a sound track.
    """

    width: int
    height: int
    seconds: float
    rate: float
    has_audio: bool

    def __str__(self) -> str:
        rate = f", {self.rate:.4g} frames/s" if self.rate else ""
        return f"{self.width} x {self.height}{rate}{', with sound' if self.has_audio else ''}"


def decode_video(value: Any, origin: str, frames: int, *, min_size: int | None = None) -> Pixels:
    """Frames of a video, one from the middle of each of `frames` equal parts, (T, H, W, 3) uint8.

    A video with fewer frames gives some of them several times. Frames of a phone that was held
    upright are turned as it says.

    Args:
        value: path, file content as bytes, a `Segment`, an array (T, H, W, 3), or a mapping as the
            video columns of Hugging Face have them, {"bytes", "path"}.
        origin: file and row of the record, for the error.
        frames: T.
        min_size: frames are reduced by a whole factor, while their shorter side keeps so many
            pixels; None: they are not.

    Raises:
        BrokenRecordError: no such file, no video, without a video stream or frames, cut short or
            damaged, or too large.
        ImportError: a file is to be read, and `av` is not installed.

    Examples:
        >>> import numpy as np
        >>> from amodal.data.decode_video import decode_video
        >>> clip = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(3, axis=3)
        >>> decode_video(clip, "row 1", frames=3)[:, 0, 0, 0].tolist()
        [1, 3, 5]
    """
    value = file_of(value)
    if isinstance(value, np.ndarray):
        clip = _checked_array(value, origin)
        places = (np.arange(frames) + 0.5) * len(clip) / frames
        return clip[places.astype(int)]
    part = value if isinstance(value, Segment) else Segment(value, 0.0, math.inf)
    with _opened(file_of(part.file), origin) as (container, what):
        stream = _video_stream(container, origin, what)
        start, end = part.start, min(part.end, _seconds(container, stream))
        times = [start + (i + 0.5) * (end - start) / frames for i in range(frames)]
        found = [_image(f, min_size) for f in _frames_at(container, stream, times, origin, what)]
    return np.stack(found)


def video_facts(value: Any, origin: str) -> VideoFacts:
    """Size, length and rate of a video; its first frame and one near its end are decoded.

    Raises:
        BrokenRecordError, ImportError: as `decode_video` does.
    """
    value = file_of(value)
    if isinstance(value, np.ndarray):
        clip = _checked_array(value, origin)
        return VideoFacts(clip.shape[2], clip.shape[1], 0.0, 0.0, has_audio=False)
    with _opened(value, origin) as (container, what):
        stream = _video_stream(container, origin, what)
        seconds = _seconds(container, stream)
        *_, shown = _frames_at(container, stream, [0.0, 0.98 * seconds], origin, what)
        turned = shown.rotation % 180 != 0
        height, width = (shown.width, shown.height) if turned else (shown.height, shown.width)
        rate = float(stream.average_rate or 0)
        return VideoFacts(width, height, seconds, rate, bool(container.streams.audio))


def video_file(value: Any, origin: str) -> tuple[str, bytes]:
    """Suffix and content of a video file, of which the first frame and a late one were decoded.

    Raises:
        BrokenRecordError, ImportError: as `decode_video` does.
    """
    value = file_of(value)
    video_facts(value, origin)
    content, _ = content_of(value, origin, "video")
    return FILES_OF[container_format(content[:16]) or "mov"], content


def video_segments(value: Any, origin: str, seconds: float) -> list[Any]:
    """A video in parts of equal length, of at most `seconds` each; a short one as it is.

    Raises:
        BrokenRecordError, ImportError: as `decode_video` does.
    """
    file = file_of(value)
    if isinstance(file, np.ndarray | Segment):
        return [value]
    with _opened(file, origin) as (container, what):
        whole = _seconds(container, _video_stream(container, origin, what))
    return equal_parts(value, whole, seconds)


def container_format(start: bytes) -> str | None:
    """The container that a file begins as, in the words of FFmpeg; None where it holds no video.

    Examples:
        >>> container_format(b"\\x00\\x00\\x00\\x18ftypisom"), container_format(b"RIFF....WAVE")
        ('mov', None)
    """
    if start[4:8] in BOXES:
        return "mov"
    if start.startswith(b"\x1aE\xdf\xa3"):  # EBML: Matroska, WebM
        return "matroska"
    if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
        return "avi"
    return None


def file_of(value: Any) -> Any:
    """The file in a Hugging Face mapping; any other value unchanged."""
    if not isinstance(value, Mapping):
        return value
    return value.get("path") if value.get("bytes") is None else value["bytes"]


def _checked_array(value: Pixels, origin: str) -> Pixels:
    if value.dtype != np.uint8 or value.ndim != 4 or value.shape[3] != 3 or not value.size:
        raise BrokenRecordError(
            origin, f"expected frames (T, H, W, 3) of uint8: got {value.dtype} {value.shape}"
        )
    return value


@contextmanager
def _opened(value: Any, origin: str) -> Iterator[tuple[Any, str]]:
    """The container of a file, and how to call it in an error."""
    stream, what = open_content(value, origin, "video")
    with stream, open_container(stream, origin, what) as container:
        yield container, what


def open_container(stream: IO[bytes], origin: str, what: str) -> Any:
    """A video file as PyAV opens it.

    Raises:
        BrokenRecordError: empty, no video file, cut short or damaged.
        ImportError: `av` is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"reading video needs av: pip install 'amodal[video]' ({error})"
        ) from None
    start = stream.read(START)
    if not start:
        raise BrokenRecordError(origin, f"empty file (0 bytes): {what}")
    found = container_format(start)
    if found is None:
        raise BrokenRecordError(
            origin,
            f"not a readable video file ({', '.join(SUFFIXES)}): {what} begins with {start!r}",
        )
    if found == "mov":
        _check_boxes(stream, origin, what)
    stream.seek(0)
    try:
        # The format is given: others, such as playlists, name further files to be opened.
        return av.open(stream, format=found)
    except av.error.FFmpegError as error:
        raise damaged(origin, what, error) from None


def _check_boxes(stream: IO[bytes], origin: str, what: str) -> None:
    """Refuse an MP4 file whose end is missing: FFmpeg may read what is left without complaint."""
    size = stream.seek(0, 2)
    place = 0
    for _ in range(MAX_BOXES):
        if place + 8 > size:
            return
        stream.seek(place)
        length, name = struct.unpack(">I4s", stream.read(8))
        if length == 1:  # the length follows in 64 bits
            length = int.from_bytes(stream.read(8), "big")
        elif length == 0:  # up to the end of the file
            return
        if length < 8:
            return  # no box: FFmpeg says what is wrong
        place += length
        if place > size:
            shown = name.decode("ascii", "replace")
            raise BrokenRecordError(
                origin,
                f"cut short: {what} has {size:,} bytes, its {shown!r} ends at {place:,}; fetch it "
                "again",
            )


def damaged(origin: str, what: str, error: Exception) -> BrokenRecordError:
    """The error of a file that FFmpeg cannot read."""
    return BrokenRecordError(origin, f"damaged video file: {what}: {error}")


def _video_stream(container: Any, origin: str, what: str) -> Any:
    import av

    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        have = "audio alone" if container.streams.audio else "nothing that is shown"
        raise BrokenRecordError(origin, f"no video stream: {what} holds {have}")
    stream = streams[0]
    if stream.codec_context is None:
        raise BrokenRecordError(origin, f"unknown video codec: {what}; convert it to H.264")
    check_size(stream.codec_context.width, stream.codec_context.height, origin, what)
    # Frames of one file are decoded by one thread: several files are decoded at once, and each
    # further thread holds frames of its own.
    stream.codec_context.thread_count = 1
    return stream


def _seconds(container: Any, stream: Any) -> float:
    """Length of the images; of a stream from a recorder that does not say it, found by reading."""
    if stream.duration is not None and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and container.duration > 0:
        return float(container.duration / 1_000_000)
    last = 0
    for packet in container.demux(stream):
        if packet.pts is not None:
            last = max(last, packet.pts + (packet.duration or 0))
    return float((last - (stream.start_time or 0)) * stream.time_base)


def _frames_at(
    container: Any, stream: Any, times: Sequence[float], origin: str, what: str
) -> Iterator[Any]:
    """The frame that is shown at each of these times, in seconds; they ascend."""
    import av

    first = stream.start_time or 0
    shown = ahead = None  # the frame at the place, and the one after it
    frames: Iterator[Any] = iter(())
    try:
        for time in times:
            wanted = first + round(time / stream.time_base)
            if ahead is None or _keyframe_before(stream, wanted) > ahead.pts:
                container.seek(wanted, stream=stream, backward=True)
                frames = (f for f in container.decode(stream) if f.pts is not None)
                shown, ahead = None, next(frames, None)
            while ahead is not None and (shown is None or ahead.pts <= wanted):
                shown, ahead = ahead, next(frames, None)
            if shown is None:
                raise BrokenRecordError(origin, f"no frames: {what} has a video stream of none")
            if ahead is None:
                _check_end(float((shown.pts - first) * stream.time_base), time, origin, what)
            yield shown
    except av.error.FFmpegError as error:
        raise damaged(origin, what, error) from None


def _check_end(last: float, time: float, origin: str, what: str) -> None:
    if time - last > max(LEAST_LOST_S, MAX_LOST * time):
        raise BrokenRecordError(
            origin,
            f"cut short: the last frame of {what} is at {last:.1f} s, frames up to {time:.1f} s "
            "were expected; fetch it again",
        )


def _keyframe_before(stream: Any, timestamp: int) -> int:
    """Timestamp of the last keyframe before another; that one itself where there is no index."""
    entries = stream.index_entries
    place = entries.search_timestamp(timestamp) if len(entries) else -1
    return timestamp if place < 0 else int(entries[place].timestamp)


def _image(frame: Any, min_size: int | None) -> Pixels:
    """Pixels of a frame as it is shown."""
    factor = 1 if min_size is None else max(1, min(frame.width, frame.height) // min_size)
    small = frame.reformat(
        width=frame.width // factor,
        height=frame.height // factor,
        format="rgb24",
        interpolation="AREA" if factor > 1 else "BICUBIC",
    )
    pixels: Pixels = np.rot90(small.to_ndarray(), round(frame.rotation / 90))
    return pixels
