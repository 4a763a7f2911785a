"""CPU time to decode 8 frames of a video: this package (PyAV) beside torchcodec.

    python benchmarks/video_decoding.py [FILE ...]

Without files, half an hour of 320 x 240 pixels is made, with a keyframe every ten seconds. The
frames are the middles of 8 equal parts, at full size, and equal to the last bit between the two.
Median of 5, one thread each. Writes benchmarks/results/video_decoding.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from amodal.data.decode_video import decode_video, video_facts
from amodal.data.encode_video import write_video

RESULT = Path(__file__).parent / "results" / "video_decoding.json"
FRAMES, REPEATS = 8, 5
MADE_SECONDS, RATE = 1800, 25
Decode = Callable[[Path], np.ndarray]


def with_torchcodec(mode: str) -> Decode:
    """Decoding of the same frames; `mode` is how torchcodec seeks."""
    from torchcodec.decoders import VideoDecoder

    def decode(path: Path) -> np.ndarray:
        decoder = VideoDecoder(
            str(path), seek_mode=mode, num_ffmpeg_threads=1, dimension_order="NHWC"
        )
        seconds = decoder.metadata.duration_seconds
        times = [(i + 0.5) * seconds / FRAMES for i in range(FRAMES)]
        return decoder.get_frames_played_at(times).data.numpy()

    return decode


def decoders() -> dict[str, Decode]:
    """Decoders by their names."""
    found: dict[str, Decode] = {
        f"PyAV {version('av')}": lambda path: decode_video(path, str(path), FRAMES)
    }
    try:
        for mode in ("exact", "approximate"):
            found[f"torchcodec {version('torchcodec')}, {mode}"] = with_torchcodec(mode)
    except Exception as error:  # not installed, or without the FFmpeg that it needs
        print(f"torchcodec cannot be used: {str(error).splitlines()[0]}")
    return found


def milliseconds(decode: Decode, path: Path) -> float:
    """Median CPU time, over all threads."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        decode(path)
        times.append(1000 * (time.process_time() - start))
    return round(statistics.median(times[1:]), 1)


def make(path: Path) -> Path:
    """A long video of a pattern that moves."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = (np.roll(pattern, i % 320, axis=1) for i in range(MADE_SECONDS * RATE))
    write_video(path, frames, RATE)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = given.files or [make(Path(folder) / "made.mp4")]
        for path in files:
            facts = video_facts(path, str(path))
            row: dict[str, object] = {"video": f"{facts}, {facts.seconds:.1f} s"}
            print(f"{path.name}: {row['video']}")
            reference = None
            for name, decode in decoders().items():
                clip = decode(path)
                reference = clip if reference is None else reference
                row[name] = {
                    "cpu_ms": milliseconds(decode, path),
                    "equal": bool(np.array_equal(clip, reference)),
                }
                print(f"  {name:32} {row[name]}")
            table[path.name] = row
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    document = {"commit": commit, "machine": platform.machine(), "frames": FRAMES, "files": table}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
