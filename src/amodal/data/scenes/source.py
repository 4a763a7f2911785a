"""Built-in synthetic scenes as a source of records, and as a data set on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import Field, model_validator

from amodal.data.atomic import write_text
from amodal.data.record import Record
from amodal.data.scenes.captions import CaptionStyle, Language, write_captions
from amodal.data.scenes.dialogues import write_dialogue
from amodal.data.scenes.english import NUMBERS
from amodal.data.scenes.question_words import CHINESE_ANSWERS
from amodal.data.scenes.questions import write_questions
from amodal.data.scenes.render import render
from amodal.data.scenes.world import (
    MAX_OBJECTS,
    Generalization,
    Scene,
    Size,
    Split,
    Texture,
    sample_scene,
)
from amodal.data.sources.renamed import RenamingConfig

MAX_LARGE = 4
YES_NO = {word for name in ("yes", "no") for word in (name, CHINESE_ANSWERS[name])}


class ScenesConfig(RenamingConfig):
    """A split of the built-in synthetic scenes.

    Generalization:
        iid: all splits have the same distribution; no description of a scene occurs in two splits.
        attribute-pair: a fifth of the colour-shape pairs occurs in no training or validation
            scene and at least once in every test scene.
        count: training and validation scenes hold 1-3 objects, test scenes 4-6.
        relation: some arrangements of two shapes (`world.held_out_relation`) occur in no
            training or validation scene and at least once in every test scene.

    Args:
        size: number of scenes.
        seed: of the scenes; every split draws others.
        generalization: what test scenes have that training does not.
        split: train, validation or test.
        image_size: side of the image in pixels.
        min_objects, max_objects: default 1 and 4, or the range of `count`.
        max_overlap: of two objects, as a share of the sum of their radii.
        sizes, textures: that occur, uniformly; all of them where left out.
        languages: of captions and questions.
        caption_style: complete: every attribute of every object; brief: its colour and shape;
            mixed: either.
        captions_per_scene: over all languages, which alternate.
        questions_per_scene: over all languages, see `questions.write_questions`; 0: no questions.
        dialogue: whether records have a dialogue, see `dialogues.write_dialogue`. It is in English
            and needs 2 objects, which is then the default of `min_objects`.
        dialogue_rounds: question–answer pairs of a dialogue.

    Examples:
        >>> source = ScenesConfig(size=2, image_size=32, captions_per_scene=1).open()
        >>> record = source[0]
        >>> record["image"].shape, len(record["text"])
        ((32, 32, 3), 1)
    """

    kind: Literal["scenes"] = "scenes"
    size: int = Field(10_000, ge=1)
    seed: int = Field(0, ge=0)
    generalization: Generalization = "iid"
    split: Split = "train"
    image_size: int = Field(64, ge=16, le=1024)
    min_objects: int | None = Field(None, ge=1, le=MAX_OBJECTS)
    max_objects: int | None = Field(None, ge=1, le=MAX_OBJECTS)
    max_overlap: float = Field(0.0, ge=0.0, le=0.5)
    sizes: tuple[Size, ...] = Field(("small", "medium", "large"), min_length=1)
    textures: tuple[Texture, ...] = Field(("solid", "striped", "dotted"), min_length=1)
    languages: tuple[Language, ...] = Field(("en",), min_length=1)
    captions_per_scene: int = Field(5, ge=1, le=20)
    caption_style: CaptionStyle = "complete"
    questions_per_scene: int = Field(0, ge=0, le=50)
    dialogue: bool = False
    dialogue_rounds: int = Field(6, ge=5, le=8)

    def object_counts(self) -> tuple[int, int]:
        """The smallest and the largest number of objects in a scene."""
        low, high = 1, 4
        if self.generalization == "count":
            low, high = (4, 6) if self.split == "test" else (1, 3)
        if self.dialogue:
            low = max(low, 2)
        return (
            low if self.min_objects is None else self.min_objects,
            high if self.max_objects is None else self.max_objects,
        )

    @model_validator(mode="after")
    def _counts_make_sense(self) -> ScenesConfig:
        low, high = self.object_counts()
        if low > high:
            raise ValueError(f"min_objects is {low}, more than max_objects, {high}")
        if set(self.sizes) == {"large"} and high > MAX_LARGE:
            raise ValueError(
                f"a scene has room for {MAX_LARGE} large objects, max_objects is {high}: lower "
                "it, or allow other sizes"
            )
        if self.generalization == "relation" and self.split == "test" and high < 2:
            raise ValueError(
                "test scenes with generalization `relation` need max_objects of at least 2"
            )
        if self.dialogue and low < 2:
            raise ValueError(f"a dialogue needs min_objects of at least 2, got {low}")
        if self.dialogue and "en" not in self.languages:
            raise ValueError("dialogues are in English; add `en` to languages")
        return self

    def open(self) -> ScenesSource:
        """The source; scenes are sampled when records are read."""
        return ScenesSource(self)


class ScenesSource:
    """Scenes sampled on demand; record i is the same on every machine and in every run.

    A record holds `id`, `origin`, `image` (S, S, 3) uint8, `text` (the captions), `languages`
    (one per caption), `objects` and `background` (the truth, see `Scene.to_json`), `count` and
    `label`, the shape of the largest object (the first one of several).

    With questions it also holds the parallel lists `question`, `answer`, `question_family`
    ("attribute"), `question_type` ("attribute/colour") and `question_language`. With a dialogue
    it holds `dialog`, a list of question–answer pairs: `question`, `answer`, `candidates` (20
    answers, including the correct one), `relevance` (of each, 1.0 where it has the meaning of the
    answer) and `history_dependent`, whether the question depends on the earlier ones.
    """

    inputs = frozenset({"image", "text"})

    def __init__(self, config: ScenesConfig) -> None:
        self.config = config
        self.name = f"scenes/{config.generalization}/{config.split}"

    def __len__(self) -> int:
        return self.config.size

    def write(
        self, folder: str | Path, track: Callable[[Sequence[int]], Iterable[int]] = iter
    ) -> None:
        """Write the scenes as files, see `write_dataset`."""
        write_dataset(self, folder, track)

    def scene(self, index: int) -> Scene:
        """The truth of record `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} scenes, asked for {index}")
        low, high = self.config.object_counts()
        c = self.config
        return sample_scene(
            c.seed,
            c.generalization,
            c.split,
            index,
            min_objects=low,
            max_objects=high,
            max_overlap=c.max_overlap,
            sizes=c.sizes,
            textures=c.textures,
        )

    def __getitem__(self, index: int) -> Record:
        scene = self.scene(index)
        c = self.config
        truth = scene.to_json()
        # Scenes depend on further options, so that the index alone does not identify them.
        content = blake2b(repr(scene).encode(), digest_size=5).hexdigest()
        key = f"{c.generalization}/{c.split}/{c.seed}/{index}/{content}"
        captions = write_captions(
            scene,
            key,
            count=c.captions_per_scene,
            languages=c.languages,
            style=c.caption_style,
        )
        largest = max(scene.objects, key=lambda o: o.radius)
        record: Record = {
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
        if c.questions_per_scene:
            questions = write_questions(
                scene,
                key,
                count=c.questions_per_scene,
                languages=c.languages,
                generalization=c.generalization,
            )
            record |= {
                "question": [q.text for q in questions],
                "answer": [q.answer for q in questions],
                "question_family": [q.family for q in questions],
                "question_type": [q.type for q in questions],
                "question_language": [q.language for q in questions],
            }
        if c.dialogue:
            record["dialog"] = [
                {
                    "question": r.question,
                    "answer": r.answer,
                    "candidates": list(r.candidates),
                    "relevance": list(r.relevance),
                    "history_dependent": r.history_dependent,
                }
                for r in write_dialogue(scene, key, rounds=c.dialogue_rounds)
            ]
        return record


def write_dataset(
    source: ScenesSource,
    folder: str | Path,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Path:
    """Writes `images/*.png`, `captions.json` (COCO captions layout) and `scenes.jsonl` (truth).

    With questions, `questions.json` and `annotations.json` (VQA v2 layout); with dialogues,
    `dialogs.json` and `dense_annotations.json` (VisDial v1.0 layout, 20 answer options).
    An interruption leaves a valid, smaller data set.

    Args:
        source: to write.
        folder: created if needed.
        track: wraps the indices of the scenes to show progress, such as `rich.progress.track`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    questions = _VqaFiles(source)
    dialogues = _VisDialFiles(source)
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
                questions.add(i, record)
                dialogues.add(i, record)
    finally:
        documents: dict[str, object] = {
            "captions.json": {
                "info": {"description": f"{source.name}, made by amodal"},
                "images": images,
                "annotations": annotations,
            }
        }
        if source.config.questions_per_scene:
            documents |= questions.documents()
        if source.config.dialogue:
            documents |= dialogues.documents()
        for file, document in documents.items():
            text = json.dumps(document, ensure_ascii=False)
            write_text(folder / file, text)
    return folder


class _VqaFiles:
    """The questions of a data set in the layout of VQA v2, with ten agreeing annotators."""

    def __init__(self, source: ScenesSource) -> None:
        self._head = {
            "info": {"description": f"{source.name}, made by amodal"},
            "data_type": "scenes",
            "data_subtype": source.config.split,
            "task_type": "Open-Ended",
        }
        self._questions: list[dict[str, object]] = []
        self._annotations: list[dict[str, object]] = []

    def add(self, image_id: int, record: Record) -> None:
        rows = zip(
            record.get("question", ()),
            record.get("answer", ()),
            record.get("question_type", ()),
            strict=True,
        )
        for text, answer, kind in rows:
            number = len(self._questions)
            self._questions.append({"question_id": number, "image_id": image_id, "question": text})
            plain = "yes/no" if answer in YES_NO else "number" if answer.isdigit() else "other"
            self._annotations.append(
                {
                    "question_id": number,
                    "image_id": image_id,
                    "question_type": kind,
                    "answer_type": plain,
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": k}
                        for k in range(1, 11)
                    ],
                }
            )

    def documents(self) -> dict[str, object]:
        return {
            "questions.json": {**self._head, "questions": self._questions},
            "annotations.json": {**self._head, "annotations": self._annotations},
        }


class _VisDialFiles:
    """The dialogues of a data set in the layout of VisDial v1.0.

    The caption states the number of objects only: a full description would answer the questions.
    """

    def __init__(self, source: ScenesSource) -> None:
        self._split = source.config.split
        self._questions: dict[str, int] = {}
        self._answers: dict[str, int] = {}
        self._dialogs: list[dict[str, object]] = []
        self._dense: list[dict[str, object]] = []

    def add(self, image_id: int, record: Record) -> None:
        if "dialog" not in record:
            return
        rounds = []
        for number, entry in enumerate(record["dialog"], start=1):
            options = [self._answers.setdefault(a, len(self._answers)) for a in entry["candidates"]]
            true = self._answers[entry["answer"]]
            rounds.append(
                {
                    "question": self._questions.setdefault(entry["question"], len(self._questions)),
                    "answer": true,
                    "answer_options": options,
                    "gt_index": options.index(true),
                }
            )
            self._dense.append(
                {"image_id": image_id, "round_id": number, "gt_relevance": entry["relevance"]}
            )
        number_of = NUMBERS[record["count"]]
        caption = f"{number_of} things on a {record['background']} background"
        self._dialogs.append({"image_id": image_id, "caption": caption, "dialog": rounds})

    def documents(self) -> dict[str, object]:
        return {
            "dialogs.json": {
                "version": "1.0",
                "split": self._split,
                "data": {
                    "questions": list(self._questions),
                    "answers": list(self._answers),
                    "dialogs": self._dialogs,
                },
            },
            "dense_annotations.json": self._dense,
        }
