"""Frames as an MP4 file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amodal.data.atomic import staged_file


def write_video(path: str | Path, frames: Iterable[NDArray[np.uint8]], rate: int) -> None:
    """Write frames (H, W, 3) as H.264, which browsers play.

    Args:
        path: of the file, which appears when it is complete.
        frames: of one size, whose sides are even.
        rate: frames per second.

    Raises:
        ValueError: a side is odd, or there is no frame.
        ImportError: `av` is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"writing video needs av: pip install 'amodal[video]' ({error})"
        ) from None
    with (
        staged_file(Path(path)) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        stream = None
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise ValueError(f"expected frames with even sides, got {width} x {height}")
                stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if stream is None:
            raise ValueError("expected frames, got none")
        container.mux(stream.encode())
