"""The sound track of a video file, read as an audio file."""

from __future__ import annotations

from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from amodal.data.decode_video import damaged, open_container
from amodal.data.record import BrokenRecordError

UNKNOWN = 1 << 62  # as libsndfile has it for a length that no header says


class SoundTrack:
    """The first sound track of a video file, with the interface of `soundfile.SoundFile`.

    Args:
        stream: the file.
        origin: file and row of the record, for the error.
        what: the file, for the error.

    Attributes:
        frames: samples per channel; unknown, as codecs add some at either end.
        samplerate: in Hz.
        channels: of the track.

    Raises:
        BrokenRecordError: there is no sound track, or the file is damaged.
        ImportError: `av` is not installed.
    """

    frames = UNKNOWN

    def __init__(self, stream: IO[bytes], origin: str, what: str) -> None:
        self._origin, self._what = origin, what
        self._container = open_container(stream, origin, what)
        if not self._container.streams.audio:
            self._container.close()
            raise BrokenRecordError(
                origin, f"no sound track: {what} holds images alone; leave its cell empty"
            )
        self._track = self._container.streams.audio[0]
        self.samplerate, self.channels = int(self._track.rate), int(self._track.channels)
        self._start(skipped_to=None)

    def _start(self, skipped_to: int | None) -> None:
        """Begin to decode; `skipped_to` is the first sample that counts, None: the first one."""
        import av

        self._resampler = av.AudioResampler("flt", self._track.layout, self._track.rate)
        self._decoded = self._container.decode(self._track)
        self._waiting: NDArray[np.float32] = np.zeros((0, self.channels), np.float32)
        self._skipped_to = skipped_to

    def seek(self, frame: int) -> None:
        """Go on with this sample, counted from the first one."""
        first = self._track.start_time or 0
        time = first + round(frame / self.samplerate / self._track.time_base)
        self._container.seek(time, stream=self._track, backward=True)
        self._start(skipped_to=frame)

    def read(self, frames: int, **_: Any) -> NDArray[np.float32]:
        """The next samples, (T, C) float32; fewer at the end."""
        parts, count = [self._waiting], len(self._waiting)
        while count < frames:
            part = self._next()
            if part is None:
                break
            parts.append(part)
            count += len(part)
        whole = np.concatenate(parts)
        self._waiting = whole[frames:]
        return whole[:frames]

    def _next(self) -> NDArray[np.float32] | None:
        import av

        try:
            frame = next(self._decoded, None)
            if frame is None:
                return None
            blocks = [part.to_ndarray() for part in self._resampler.resample(frame)]
        except av.error.FFmpegError as error:
            raise damaged(self._origin, self._what, error) from None
        samples = np.concatenate(blocks, axis=1).reshape(-1, self.channels)
        if self._skipped_to is None:
            return samples
        time = float((frame.pts - (self._track.start_time or 0)) * frame.time_base)
        early = self._skipped_to - round(time * self.samplerate)
        if early < len(samples):
            self._skipped_to = None
        return samples[max(0, early) :]

    def close(self) -> None:
        """Close the file as FFmpeg has it; the stream stays open."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
