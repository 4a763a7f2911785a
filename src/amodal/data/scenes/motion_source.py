"""Clips of synthetic scenes with motion as a source of records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.data.encode_video import write_video
from amodal.data.record import Record
from amodal.data.scenes.motion import Clip, render_clip, sample_clip
from amodal.data.scenes.motion_captions import motion_captions

if TYPE_CHECKING:
    from amodal.data.scenes.source import ScenesConfig


FRAME_RATE = 4  # frames per second of files


class MotionSource:
    """Clips sampled on demand; record i is the same on every machine and in every run.

    A record holds `id`, `origin`, `video` (T, S, S, 3) uint8, `text` (the captions), `languages`
    (one per caption), `objects` and `background` at the start (see `Scene.to_json`), `motions` (a
    list of `item`, index of the object, and `direction`, in the order of time) and `count`.
    """

    inputs = frozenset({"video", "text"})

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self.name = f"scenes/motion/{config.split}"

    def __len__(self) -> int:
        return self.config.size

    def write(
        self, folder: str | Path, track: Callable[[Sequence[int]], Iterable[int]] = iter
    ) -> None:
        """Write `clips/*.mp4` with captions beside them, and `scenes.jsonl` (truth).

        An interruption leaves a valid, smaller data set.

        Args:
            folder: created if needed.
            track: wraps the indices of the clips to show progress.

        Raises:
            ImportError: `av` is not installed.
        """
        clips = Path(folder) / "clips"
        clips.mkdir(parents=True, exist_ok=True)
        with (Path(folder) / "scenes.jsonl").open("w", encoding="utf-8") as truth:
            for i in track(range(len(self))):
                record = self[i]
                file = clips / f"{i:08d}.mp4"
                write_video(file, record.pop("video"), FRAME_RATE)
                file.with_suffix(".txt").write_text("\n".join(record["text"]), encoding="utf-8")
                values = {"file_name": f"{clips.name}/{file.name}", **record}
                truth.write(json.dumps(values, ensure_ascii=False) + "\n")

    def clip(self, index: int) -> Clip:
        """The truth of record `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} clips, asked for {index}")
        c = self.config
        low, high = c.object_counts()
        return sample_clip(
            c.seed,
            c.split,
            index,
            clips_per_appearance=c.clips_per_appearance,
            min_objects=low,
            max_objects=high,
            colours=c.colours,
            shapes=c.shapes,
            sizes=c.sizes,
            textures=c.textures,
        )

    def __getitem__(self, index: int) -> Record:
        c, clip = self.config, self.clip(index)
        truth = clip.scene.to_json()
        key = f"motion/{c.split}/{c.seed}/{index}/{clip.signature()}"
        captions = motion_captions(clip, key, count=c.captions_per_scene, languages=c.languages)
        return {
            "id": f"scenes/{key}",
            "origin": f"{self.name} clip {index} (seed {c.seed})",
            "video": render_clip(clip, c.frames, c.image_size),
            "text": [text for text, _ in captions],
            "languages": [language for _, language in captions],
            "count": len(clip.scene.objects),
            "objects": truth["objects"],
            "background": truth["background"],
            "motions": [asdict(motion) for motion in clip.motions],
        }
