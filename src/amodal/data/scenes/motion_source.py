"""Clips of synthetic scenes with motion as a source of records, and as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from amodal.data.encode_video import write_video
from amodal.data.record import Record
from amodal.data.scenes.captions import Language
from amodal.data.scenes.motion import (
    MAX_MOVING,
    MAX_SEQUENCES,
    Clip,
    render_clip,
    sample_clip,
)
from amodal.data.scenes.motion_captions import motion_captions
from amodal.data.scenes.world import COLOURS, SHAPES, Size, Split, Texture
from amodal.data.sources.renamed import RenamingConfig

FRAME_RATE = 4  # frames per second of files


class MovingScenesConfig(RenamingConfig):
    """A split of clips of synthetic scenes, in which every object moves once.

    Objects move one after the other, and captions say what moves where in which order, see
    `motion_captions`. No sequence of motions occurs in two splits, forwards or backwards.

    Args:
        size: number of clips.
        seed: of the clips; every split draws others.
        split: train, validation or test.
        image_size: side of a frame in pixels.
        frames: of a clip.
        min_objects, max_objects: of a clip.
        colours, shapes, sizes, textures: of the objects, uniformly; all of them where left out.
        languages: of the captions.
        captions_per_clip: over all languages, which alternate.
        clips_per_appearance: successive clips with objects of the same colours and shapes, which
            their motions alone tell apart.

    Examples:
        >>> from amodal.data import MovingScenesConfig
        >>> record = MovingScenesConfig(size=2, image_size=32, captions_per_clip=1).open()[0]
        >>> record["video"].shape, len(record["text"])
        ((8, 32, 32, 3), 1)
    """

    kind: Literal["moving_scenes"] = "moving_scenes"
    size: int = Field(10_000, ge=1)
    seed: int = Field(0, ge=0)
    split: Split = "train"
    image_size: int = Field(64, ge=16, le=1024)
    frames: int = Field(8, ge=2, le=256)
    min_objects: int = Field(2, ge=1, le=MAX_MOVING)
    max_objects: int = Field(2, ge=1, le=MAX_MOVING)
    colours: tuple[str, ...] = Field(tuple(COLOURS), min_length=1)
    shapes: tuple[str, ...] = Field(SHAPES, min_length=1)
    sizes: tuple[Size, ...] = Field(("small", "medium", "large"), min_length=1)
    textures: tuple[Texture, ...] = Field(("solid", "striped", "dotted"), min_length=1)
    languages: tuple[Language, ...] = Field(("en",), min_length=1)
    captions_per_clip: int = Field(5, ge=1, le=20)
    clips_per_appearance: int = Field(1, ge=1)

    @field_validator("colours", "shapes")
    @classmethod
    def _known(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [value for value in values if value not in (*COLOURS, *SHAPES)]
        if unknown:
            raise ValueError(
                f"expected colours of {', '.join(COLOURS)} and shapes of {', '.join(SHAPES)}, got "
                f"{unknown[0]}"
            )
        return values

    @model_validator(mode="after")
    def _counts_make_sense(self) -> MovingScenesConfig:
        if self.min_objects > self.max_objects:
            raise ValueError(
                f"min_objects is {self.min_objects}, more than max_objects, {self.max_objects}"
            )
        most = MAX_SEQUENCES[self.min_objects]
        if self.clips_per_appearance > most:
            raise ValueError(
                f"clips_per_appearance: expected at most {most} for min_objects "
                f"{self.min_objects}, got {self.clips_per_appearance}"
            )
        return self

    def open(self) -> MovingScenesSource:
        """The source; clips are sampled when records are read."""
        return MovingScenesSource(self)


class MovingScenesSource:
    """Clips sampled on demand; record i is the same on every machine and in every run.

    A record holds `id`, `origin`, `video` (T, S, S, 3) uint8, `text` (the captions), `languages`
    (one per caption), `objects` and `background` at the start (see `Scene.to_json`), `motions` (a
    list of `item`, index of the object, and `direction`, in the order of time) and `count`.
    """

    inputs = frozenset({"video", "text"})

    def __init__(self, config: MovingScenesConfig) -> None:
        self.config = config
        self.name = f"moving_scenes/{config.split}"

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
        return sample_clip(
            c.seed,
            c.split,
            index,
            clips_per_appearance=c.clips_per_appearance,
            min_objects=c.min_objects,
            max_objects=c.max_objects,
            colours=c.colours,
            shapes=c.shapes,
            sizes=c.sizes,
            textures=c.textures,
        )

    def __getitem__(self, index: int) -> Record:
        c, clip = self.config, self.clip(index)
        truth = clip.scene.to_json()
        key = f"moving_scenes/{c.split}/{c.seed}/{index}/{clip.signature()}"
        captions = motion_captions(clip, key, count=c.captions_per_clip, languages=c.languages)
        return {
            "id": key,
            "origin": f"{self.name} clip {index} (seed {c.seed})",
            "video": render_clip(clip, c.frames, c.image_size),
            "text": [text for text, _ in captions],
            "languages": [language for _, language in captions],
            "count": len(clip.scene.objects),
            "objects": truth["objects"],
            "background": truth["background"],
            "motions": [asdict(motion) for motion in clip.motions],
        }
