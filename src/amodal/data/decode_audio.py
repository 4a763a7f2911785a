"""Audio decoding to one channel and one rate; truncated or damaged files are errors."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from amodal.data.content import open_content
from amodal.data.decode_video import container_format
from amodal.data.record import BrokenRecordError
from amodal.data.sound_track import SoundTrack

SUFFIXES = ("wav", "flac", "ogg", "oga", "opus", "mp3")  # of audio files
# Longer audio is taken for a decompression bomb: half an hour, or a gigabyte of float32.
MAX_SECONDS = 1800
MAX_VALUES = 1 << 28
MAX_RATE = 768_000  # Hz
MAX_CHANNELS = 64
MAX_PEAK = 16.0  # a float file may exceed 1 a little; 16-bit integers read as floats exceed this
BLOCK = 1 << 18  # frames read at once
STOP_BAND_DB = 80.0  # by how much the resampler damps what would alias
PASS_BAND = 0.9  # share of the lower Nyquist frequency that it leaves as it is
MAX_FACTOR = 2000  # the ratio of two rates is rounded to p / q with q up to this
OGG_PAGE_BYTES, OGG_HEAD_BYTES = 65_307, 27  # a page at most; its header without the lengths
MAX_PARTS = 10_000  # of a WAV file before its samples
UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # in the header of a WAV file that was written to a pipe


def decode_audio(value: Any, origin: str, sample_rate: int) -> np.ndarray:
    """The waveform of an audio file, (T,) float32 in [-1, 1]: channels averaged, at `sample_rate`.

    Args:
        value: path, file content as bytes (of a video file, its sound track is read), a pair
            (waveform, rate in Hz), or a mapping as the
            audio columns of Hugging Face have them, {"bytes", "path"} or {"array",
            "sampling_rate"}. A waveform is (T,), (T, C) or (C, T), of floats in [-1, 1] or of
            integers.
        origin: file and row of the record, for the error.
        sample_rate: of the result, in Hz.

    Raises:
        BrokenRecordError: no such file, no audio, cut short, damaged, empty, numbers that are
            not finite, or longer than `MAX_SECONDS`.
        ImportError: a file is to be read, and `soundfile` is not installed.
    """
    value = _handle(value)
    blocks, rate = _blocks(value, origin)
    # Block by block: of a long recording, only the result is kept.
    mono = (_mono(block, origin) for block in blocks)
    parts = [
        part.clip(-1, 1).astype(np.float32, copy=False)
        for part in _resampled(mono, rate, sample_rate)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def load_audio(value: Any, origin: str) -> tuple[np.ndarray, int]:
    """Decoded audio without mixing or resampling: (T, C) floats, and their rate in Hz.

    Examples:
        >>> import numpy as np
        >>> from amodal.data import load_audio
        >>> stereo = np.zeros((8000, 2), np.int16)  # half a second
        >>> samples, rate = load_audio((stereo, 16000), origin="a.csv row 1")
        >>> samples.shape, rate
        ((8000, 2), 16000)
    """
    blocks, rate = _blocks(_handle(value), origin)
    return np.concatenate([_checked(block, origin) for block in blocks]), rate


def measure_audio(value: Any, origin: str) -> tuple[int, int, int]:
    """Samples, channels and rate in Hz of audio that was decoded to its end, but not kept."""
    count = channels = 0
    blocks, rate = _blocks(_handle(value), origin)
    for block in blocks:
        count, channels = count + len(_checked(block, origin)), block.shape[1]
    return count, channels, rate


def _handle(value: Any) -> Any:
    """The content of a Hugging Face mapping; any other value unchanged."""
    if not isinstance(value, Mapping):
        return value
    if value.get("array") is not None:
        return (value["array"], value.get("sampling_rate"))
    return value.get("path") if value.get("bytes") is None else value["bytes"]


def _blocks(value: Any, origin: str) -> tuple[Iterator[np.ndarray], int]:
    """(T, C) blocks of floats, and their rate in Hz."""
    if isinstance(value, tuple) and len(value) == 2:
        samples, rate = _from_array(value[0], value[1], origin)
        return iter([samples]), rate
    return _from_file(value, origin)


def _mono(block: np.ndarray, origin: str) -> np.ndarray:
    """The mean of the channels, in the precision of a file."""
    samples = _checked(block, origin)
    if samples.shape[1] == 1:
        return samples[:, 0]
    return samples.mean(axis=1, dtype=np.float64)


def _checked(samples: np.ndarray, origin: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise BrokenRecordError(origin, "samples that are not finite (NaN or infinite)")
    peak = float(np.abs(samples).max(initial=0))
    if peak > MAX_PEAK:
        raise BrokenRecordError(
            origin,
            f"expected samples in -1 to 1, or integers: the largest is {peak:.4g}; divide them by "
            "their range, such as 32768",
        )
    return samples


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """The same audio at another rate, band-limited: (T,) → (ceil(T new_rate / rate),).

    A polyphase filter leaves what is below `PASS_BAND` of the lower Nyquist frequency as it is,
    and damps what is above that frequency by `STOP_BAND_DB`. The ratio of the rates is rounded by
    less than 1e-6 where it has no small terms.

    References:
        Crochiere and Rabiner 1983, Multirate Digital Signal Processing, section 3.3.
    """
    if rate == new_rate:
        return waveform
    return np.concatenate(list(_resampled(iter([waveform]), rate, new_rate)))


def _resampled(blocks: Iterator[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """`resample` for a waveform in parts; the result does not depend on where they end.

    Every part is filtered with as much of its neighbours as the filter reaches.
    """
    ratio = Fraction(new_rate, rate)
    if ratio == 1:
        yield from blocks
        return
    from scipy import signal  # slow to import, and most work needs no audio

    if max(ratio.numerator, ratio.denominator) > MAX_FACTOR:
        if ratio < 1:
            ratio = ratio.limit_denominator(MAX_FACTOR)
        else:
            ratio = 1 / (1 / ratio).limit_denominator(MAX_FACTOR)
    up, down = ratio.numerator, ratio.denominator
    taps = _low_pass(max(up, down))
    # Lengths are multiples of `down`, so that every part begins at a sample of the result.
    margin = down * (len(taps) // (2 * up * down) + 2)
    step = max(margin, down * -(-BLOCK // down))
    before = ahead = np.zeros(0)
    count = written = 0

    def filtered(part: np.ndarray) -> np.ndarray:
        found: np.ndarray = signal.resample_poly(
            np.concatenate([before, part]), up, down, window=taps
        )
        return found[len(before) * up // down :]

    for block in blocks:
        count += len(block)
        ahead = np.concatenate([ahead, block])
        while len(ahead) > step + margin:
            part = filtered(ahead[: step + margin])[: step * up // down]
            written += len(part)
            yield part
            before, ahead = ahead[step - margin : step], ahead[step:]
    yield filtered(ahead)[: -(-count * new_rate // rate) - written]


@lru_cache(maxsize=64)
def _low_pass(factor: int) -> np.ndarray:
    """An odd, symmetric filter of unit gain that cuts at 1 / factor of the Nyquist frequency."""
    from scipy import signal

    width = (1 - PASS_BAND) / factor
    count, beta = signal.kaiserord(STOP_BAND_DB, width)
    taps: np.ndarray = signal.firwin(
        count | 1, (1 + PASS_BAND) / 2 / factor, window=("kaiser", beta)
    )
    return taps


def _from_array(value: Any, rate: Any, origin: str) -> tuple[np.ndarray, int]:
    """(T, C) floats and the rate of a decoded waveform."""
    try:
        samples = np.asarray(value)
        hertz = float(rate)
    except (TypeError, ValueError):
        raise BrokenRecordError(
            origin,
            f"expected a waveform and its rate in Hz: got {type(value).__name__} and {rate!r:.40}",
        ) from None
    if not hertz.is_integer():
        raise BrokenRecordError(origin, f"expected a rate in whole Hz: got {rate!r:.40}")
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind not in "fiu" or samples.ndim not in (1, 2):
        raise BrokenRecordError(
            origin,
            f"expected a waveform (T,) or (T, C) of numbers: got {samples.dtype} {samples.shape}",
        )
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] < samples.shape[1]:
        samples = samples.T  # there are fewer channels than samples
    _check_size(len(samples), samples.shape[1], int(hertz), origin, "the waveform")
    if kind != "f":
        half = 2.0 ** (bits - 1)
        samples = (samples.astype(np.float64) - (half if kind == "u" else 0)) / half
    return samples, int(hertz)


def _from_file(value: Any, origin: str) -> tuple[Iterator[np.ndarray], int]:
    """(T, C) float32 blocks and the rate of a file."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel without its C library
        raise ImportError(
            f"reading audio needs soundfile: pip install 'amodal[audio]' ({error})"
        ) from None
    stream, what = open_content(value, origin, "audio")
    start = stream.read(16)
    if not start:
        raise BrokenRecordError(origin, f"empty file (0 bytes): {what}")
    _check_whole(stream, origin, what)
    stream.seek(0)
    try:
        video = container_format(start) is not None
        file = SoundTrack(stream, origin, what) if video else soundfile.SoundFile(stream)
    except (BrokenRecordError, ImportError):
        raise
    except Exception as error:  # its own, and what the stream raises
        raise BrokenRecordError(
            origin,
            f"not a readable audio file ({', '.join(SUFFIXES)}): {what} begins with "
            f"{start!r}: {error}",
        ) from None
    return _read_blocks(stream, file, origin, what), int(file.samplerate)


def _read_blocks(stream: IO[bytes], file: Any, origin: str, what: str) -> Iterator[np.ndarray]:
    with closing(stream), file:
        rate, channels, claimed = int(file.samplerate), int(file.channels), int(file.frames)
        unknown = claimed >= 1 << 62  # FLAC from a pipe: libsndfile's largest number
        _check_size(1 if unknown else claimed, channels, rate, origin, what)
        limit = min(MAX_SECONDS * rate, MAX_VALUES // channels)
        count = 0
        while count <= limit:
            try:
                block = file.read(max(1, BLOCK // channels), dtype="float32", always_2d=True)
            except Exception as error:
                raise BrokenRecordError(origin, f"damaged audio file: {what}: {error}") from None
            if not len(block):
                break
            count += len(block)
            yield block
    _check_size(count, channels, rate, origin, what)
    if count < claimed and not unknown:
        raise BrokenRecordError(
            origin, f"cut short: {what} holds {count:,} of {claimed:,} samples; fetch it again"
        )


def _check_size(frames: int, channels: int, rate: int, origin: str, what: str) -> None:
    if frames < 1 or channels < 1:
        raise BrokenRecordError(origin, f"no samples: {what} has {frames} x {channels}")
    if channels > MAX_CHANNELS:
        raise BrokenRecordError(
            origin, f"more than {MAX_CHANNELS} channels: {what} claims {channels}"
        )
    if not 1 <= rate <= MAX_RATE:
        raise BrokenRecordError(
            origin, f"expected a rate of 1 to {MAX_RATE:,} Hz: {what} claims {rate}"
        )
    if frames > MAX_SECONDS * rate or frames * channels > MAX_VALUES:
        raise BrokenRecordError(
            origin,
            f"longer than {MAX_SECONDS} s or {MAX_VALUES:,} numbers, perhaps a decompression "
            f"bomb: {what} claims {math.ceil(frames / rate):,} s of {channels} channels; cut it "
            "into parts",
        )


def _check_whole(stream: IO[bytes], origin: str, what: str) -> None:
    """Refuse WAV and Ogg files whose end is missing: libsndfile reads them without complaint."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    lost = False
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        place = 12
        for _ in range(MAX_PARTS):
            if place + 8 > size:
                break
            stream.seek(place)
            name, length = struct.unpack("<4sI", stream.read(8))
            if name == b"data":
                lost = length not in UNKNOWN_LENGTHS and place + 8 + length > size
                break
            place += 8 + length + length % 2
        else:
            raise BrokenRecordError(origin, f"more than {MAX_PARTS:,} parts: {what}")
    elif head[:4] == b"OggS":
        page = _last_page(stream)
        # A recording of a stream may lack the mark of its end; half a page is a lost end.
        lost = page is None or not page.whole
    if lost:
        raise BrokenRecordError(
            origin, f"cut short: the end of {what} ({size:,} bytes) is missing; fetch it again"
        )


class _Page(NamedTuple):
    """The last page of an Ogg file."""

    whole: bool
    marked: bool  # as the last one of its stream


def _last_page(stream: IO[bytes]) -> _Page | None:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - OGG_PAGE_BYTES - 512))
    tail = stream.read()
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + OGG_HEAD_BYTES:
        return None
    segments = tail[at + OGG_HEAD_BYTES :][: tail[at + OGG_HEAD_BYTES - 1]]
    end = at + OGG_HEAD_BYTES + tail[at + OGG_HEAD_BYTES - 1] + sum(segments)
    return _Page(end <= len(tail), bool(tail[at + 5] & 4))


def lacks_end_mark(value: Any, origin: str) -> bool:
    """Whether a file is Ogg that was read whole, but does not say that it ends.

    It may be a recording of a stream, or a file that was cut off between two pages.
    """
    value = _handle(value)
    if not isinstance(value, str | Path | bytes):
        return False
    stream, _ = open_content(value, origin, "audio")
    with stream:
        if stream.read(4) != b"OggS":
            return False
        page = _last_page(stream)
        return page is not None and not page.marked
