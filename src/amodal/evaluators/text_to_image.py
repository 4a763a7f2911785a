"""What a model draws for the captions of a source, and whether it shows what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Record, Source
from amodal.data.scenes.claims import Claims
from amodal.data.scenes.reading import read_caption
from amodal.data.scenes.verifier import read_scene
from amodal.data.scenes.world import Scene
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.metrics.bootstrap import flatten, intervals, resampled
from amodal.metrics.image_distance import nearest_distance
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    ImageArray,
    generate_best,
)
from amodal.models.multimodal_transformer.model import MultimodalTransformer

BATCH = 64
COMPARED = 5000  # training images that drawn ones are compared with
SIDE = 16  # pixels; of the images that are compared
MAX_IMAGES = 500  # captions that are drawn at the end of a run


@dataclass(frozen=True)
class TextToImageResult:
    """An image for the first caption of each record.

    Args:
        rows: numbers of the records in the source.
        texts: what was asked for.
        images: what was drawn.
        truth: the records, without images.
        true: their own images, at the size of those drawn; None where it cannot be read.
    """

    rows: list[int]
    texts: list[str]
    images: list[ImageArray]
    truth: list[Record]
    true: list[ImageArray | None]

    @classmethod
    def of(
        cls,
        model: MultimodalTransformer,
        source: Source,
        *,
        items: range | None = None,
        guidance: float = GUIDANCE,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        candidates: int = 1,
        reranker: JointEmbedding | None = None,
        seed: int = 0,
        tick: Callable[[int], None] | None = None,
    ) -> TextToImageResult:
        """Draw.

        Args:
            items: row numbers; None: the first 500.
            guidance, temperature, top_k, seed: see `MultimodalTransformer.draw`.
            candidates: drawn for each caption; the judge keeps the one nearest to it.
            judge: of images and texts.

        Raises:
            DataError: no record has a caption.
            ValueError: several candidates and no judge.
        """
        prepare = model.preprocessors["image"]
        assert isinstance(prepare, ImagePreprocessor)
        found = cls([], [], [], [], [])
        chosen = items if items is not None else range(min(len(source), MAX_IMAGES))
        for start in range(0, len(chosen), BATCH):
            rows, texts = [], []
            for row in chosen[start : start + BATCH]:
                try:
                    record = source[row]
                except BrokenRecordError:
                    continue
                if record.get("text"):
                    rows.append(row)
                    texts.append(str(record["text"][0]))
                    found.true.append(_read(prepare, record))
                    found.truth.append({k: v for k, v in record.items() if k != "image"})
            found.rows.extend(rows)
            found.texts.extend(texts)
            found.images.extend(
                generate_best(
                    model,
                    texts,
                    candidates=candidates,
                    reranker=reranker,
                    guidance=guidance,
                    temperature=temperature,
                    top_k=top_k,
                    seed=seed + start,
                )
            )
            if tick is not None:
                tick(min(start + BATCH, len(chosen)))
        if not found.rows:
            raise DataError(f"{source.name}: no record has a caption to draw")
        return found


def text_to_image_metrics(
    drawn: TextToImageResult, train: Source | None, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Flat `text_to_image/…` figures.

    On scenes, by the verifier, which knows how images are drawn and nothing of the model:

    - named: share of the objects that are asked for whose shape and colour are there, mean over
      images.
    - objects: share of the images with exactly the shapes and colours that are asked for.
    - right: of these, those in which every relation that the caption names holds as well.
    - true: share of the images of which the caption holds in full: sizes, textures, cells and
      background too.
    - relations: share of the captions with relations in whose images all of them hold; one
      whose objects are missing counts as wrong.
    - true_pictures/right: the same of the true images, what is missing from 1 is the verifier's.

    Wherever the images come from:

    - nearest_training: mean root-mean-square difference, in grey levels, to the most alike of up
      to 5,000 training images, all at 16 pixels; nearest_training_of_true: the same of the true
      images. A model that copied its training images would be far below.

    Args:
        train: whose images are compared with; None leaves that out.
        bootstrap: resamples for the intervals.
    """
    found: dict[str, float] = {"text_to_image/images": len(drawn.images)}
    claims = [_claims(record, text) for record, text in zip(drawn.truth, drawn.texts, strict=True)]
    if all(one is not None for one in claims):
        known = [one for one in claims if one is not None]
        found |= _verified(drawn.images, known, bootstrap, seed)
        if all(image is not None for image in drawn.true):
            true = [image for image in drawn.true if image is not None]
            found["text_to_image/true_pictures/right"] = _verified(true, known, 0, seed)[
                "text_to_image/right"
            ]
    if train is not None:
        gallery = _small(_images(train, drawn.images[0].shape[0]))
        distance, _ = nearest_distance(_small(drawn.images), gallery)
        found["text_to_image/nearest_training"] = float(distance.mean())
        found["text_to_image/nearest_training/smallest"] = float(distance.min())
        true = [image for image in drawn.true if image is not None]
        if true:
            of_true, _ = nearest_distance(_small(true), gallery)
            found["text_to_image/nearest_training_of_true"] = float(of_true.mean())
    return found


def scene_of(image: ImageArray) -> Scene:
    """What the verifier reads; nothing where there is no colour of this world."""
    try:
        return read_scene(image)
    except ValueError:
        return Scene(())


def _verified(
    images: Sequence[ImageArray], claims: Sequence[Claims], bootstrap: int, seed: int
) -> dict[str, float]:
    rows = []
    for image, claim in zip(images, claims, strict=True):
        scene = scene_of(image)
        asked = Counter((m.shape, m.colour) for m in claim.mentions)
        there = Counter((o.shape, o.colour) for o in scene.objects)
        plain = replace(
            claim,
            mentions=tuple(replace(m, size=None, texture=None, cell=None) for m in claim.mentions),
            background=None,
        )
        rows.append(
            [
                (asked & there).total() / asked.total(),
                float(asked == there),
                float(plain.hold_in(scene)),
                float(claim.hold_in(scene)),
                float(replace(plain, complete=False).hold_in(scene))
                if claim.relations
                else float("nan"),
            ]
        )
    values = torch.tensor(rows, dtype=torch.float64)
    columns = ("named", "objects", "right", "true", "relations")
    found: dict[str, float] = {}
    for place, column in enumerate(columns):
        kept = values[:, place : place + 1]
        kept = kept[~kept.isnan()[:, 0]]
        if not len(kept):
            continue
        generator = torch.Generator().manual_seed(seed)
        drawn = resampled(kept, torch.arange(len(kept)), bootstrap, generator)
        found |= flatten(intervals([f"text_to_image/{column}"], *drawn))
    return {n: v for n, v in found.items() if v == v}


def _claims(record: Record, text: str) -> Claims | None:
    return read_caption(text) if "objects" in record else None


def _read(prepare: ImagePreprocessor, record: Record) -> ImageArray | None:
    """The image of a record as the model gets it; None where it cannot be read."""
    try:
        image = decode_image(record["image"], record["origin"], min_size=prepare.size)
    except (BrokenRecordError, KeyError):
        return None
    pixels: ImageArray = prepare.resize([image])[0].permute(1, 2, 0).numpy()
    return pixels


def _images(source: Source, side: int) -> list[ImageArray]:
    """Images of a source, spread over it, at one size; those that cannot be read are left out."""
    prepare = ImagePreprocessor(side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    places = np.unique(np.linspace(0, len(source) - 1, min(COMPARED, len(source))).astype(int))
    found: list[ImageArray] = []
    for row in places.tolist():
        try:
            image = _read(prepare, source[row])
        except BrokenRecordError:
            continue
        if image is not None:
            found.append(image)
    return found


def _small(images: Sequence[ImageArray]) -> Tensor:
    """(P, 3, 16, 16) float32."""
    whole = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return torch.nn.functional.adaptive_avg_pool2d(whole, SIDE)
