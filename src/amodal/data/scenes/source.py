"""The scenes world as a source of records, and as a data set on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import Field, model_validator

from amodal.data.record import Record, StrictModel
from amodal.data.scenes.captions import CaptionStyle, Language, write_captions
from amodal.data.scenes.render import render
from amodal.data.scenes.world import MAX_OBJECTS, Part, Scene, Split, sample_scene


class ScenesConfig(StrictModel):
    """A part of the built-in world.

    Splits:
        iid: all parts are drawn alike; no description of a scene occurs in two parts.
        attribute-pair: a fifth of the colour-shape pairs occurs in no training or validation
            scene and at least once in every test scene.
        count: training and validation scenes hold 1-3 objects, test scenes 4-6.
        relation: some arrangements of two shapes (`world.held_out_relation`) occur in no
            training or validation scene and at least once in every test scene.

    Args:
        size: number of scenes.
        image_size: side of the picture in pixels.
        min_objects, max_objects: left out, they are 1 and 4, or what the split `count` says.
        max_overlap: how deep two objects may enter each other, as a share of their reach.
        captions_per_scene: in all; languages take turns.
    """

    kind: Literal["scenes"] = "scenes"
    size: int = Field(10_000, ge=1)
    seed: int = Field(0, ge=0)
    split: Split = "iid"
    part: Part = "train"
    image_size: int = Field(64, ge=16, le=1024)
    min_objects: int | None = Field(None, ge=1, le=MAX_OBJECTS)
    max_objects: int | None = Field(None, ge=1, le=MAX_OBJECTS)
    max_overlap: float = Field(0.0, ge=0.0, le=0.5)
    languages: tuple[Language, ...] = Field(("en",), min_length=1)
    captions_per_scene: int = Field(5, ge=1, le=20)
    caption_style: CaptionStyle = "complete"

    def object_counts(self) -> tuple[int, int]:
        """The smallest and the largest number of objects in a scene."""
        low, high = 1, 4
        if self.split == "count":
            low, high = (4, 6) if self.part == "test" else (1, 3)
        return (
            low if self.min_objects is None else self.min_objects,
            high if self.max_objects is None else self.max_objects,
        )

    @model_validator(mode="after")
    def _counts_make_sense(self) -> ScenesConfig:
        low, high = self.object_counts()
        if low > high:
            raise ValueError(f"min_objects is {low}, more than max_objects, {high}")
        if self.split == "relation" and self.part == "test" and high < 2:
            raise ValueError("test scenes of the split `relation` need max_objects of at least 2")
        return self

    def open(self) -> ScenesSource:
        """The source that this describes; nothing is drawn yet."""
        return ScenesSource(self)


class ScenesSource:
    """Scenes drawn on demand; record i is the same whenever and wherever it is asked for.

    A record holds `id`, `origin`, `image` (S, S, 3) uint8, `text` (the captions), `languages`
    (one per caption), `objects` and `background` (the truth, see `Scene.to_json`), `count` and
    `label`, the shape of the largest object (of the first of them, where several are largest).
    """

    modalities = frozenset({"image", "text"})

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self.name = f"scenes/{config.split}/{config.part}"

    def __len__(self) -> int:
        return self.config.size

    def scene(self, index: int) -> Scene:
        """The truth of record `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} scenes, asked for {index}")
        low, high = self.config.object_counts()
        c = self.config
        return sample_scene(
            c.seed,
            c.split,
            c.part,
            index,
            min_objects=low,
            max_objects=high,
            max_overlap=c.max_overlap,
        )

    def __getitem__(self, index: int) -> Record:
        scene = self.scene(index)
        c = self.config
        truth = scene.to_json()
        # The options shape a scene too, so the place alone would not name it.
        content = blake2b(repr(scene).encode(), digest_size=5).hexdigest()
        key = f"{c.split}/{c.part}/{c.seed}/{index}/{content}"
        captions = write_captions(
            scene,
            key,
            count=c.captions_per_scene,
            languages=c.languages,
            style=c.caption_style,
        )
        largest = max(scene.objects, key=lambda o: o.radius)
        return {
            "id": f"scenes/{key}",
            "origin": f"{self.name} scene {index} (seed {c.seed})",
            "image": render(scene, c.image_size),
            "text": [caption.text for caption in captions],
            "languages": [caption.language for caption in captions],
            "label": largest.shape,
            "count": len(scene.objects),
            "objects": truth["objects"],
            "background": truth["background"],
        }


def write_dataset(
    source: ScenesSource,
    folder: str | Path,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Path:
    """Writes `images/*.png`, `captions.json` (COCO captions layout) and `scenes.jsonl` (truth).

    When interrupted, it leaves a valid, smaller data set.

    Args:
        track: wraps the indices of the scenes, to show progress; such as `rich.progress.track`.

    Returns:
        the folder, made if it was not there.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    try:
        with (folder / "scenes.jsonl").open("w", encoding="utf-8") as truth:
            for i in track(range(len(source))):
                record = source[i]
                pixels = record.pop("image")
                name = f"{i:08d}.png"
                Image.fromarray(pixels).save(folder / "images" / name)
                truth.write(json.dumps({"file_name": name, **record}, ensure_ascii=False) + "\n")
                height, width = pixels.shape[:2]
                images.append({"id": i, "file_name": name, "height": height, "width": width})
                annotations += [
                    {"id": len(annotations) + k, "image_id": i, "caption": text}
                    for k, text in enumerate(record["text"])
                ]
    finally:
        document = {
            "info": {"description": f"{source.name}, made by amodal"},
            "images": images,
            "annotations": annotations,
        }
        (folder / "captions.json").write_text(
            json.dumps(document, ensure_ascii=False), encoding="utf-8"
        )
    return folder
