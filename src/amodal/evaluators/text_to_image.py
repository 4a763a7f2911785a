"""Images generated from the captions of a source, and their agreement with the captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
from amodal.evaluators.loop import Tick
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
TRAINING_IMAGES = 5000  # at most, for the distance to the nearest training image
SIDE = 16  # pixels; of images whose distance is taken
MAX_IMAGES = 500  # captions that images are generated for by default
MEDIA = "image"  # left out of the records that a result keeps


@dataclass(frozen=True)
class TextToImageResult:
    """An image for the first caption of each record.

    Args:
        rows: numbers of the records in the source.
        texts: the captions.
        images: the generated images.
        records: the records, without media.
        references: their own images at the size of the generated ones; None where one cannot be
            read.
        broken: records that were skipped.
        metrics: flat `text_to_image/…` values; empty before they are computed.
    """

    rows: list[int]
    texts: list[str]
    images: list[ImageArray]
    records: list[Record]
    references: list[ImageArray | None]
    broken: tuple[BrokenRecordError, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return len(self.rows)


def evaluate_text_to_image(
    model: MultimodalTransformer,
    source: Source,
    *,
    training_source: Source | None = None,
    items: Sequence[int] | None = None,
    guidance: float = GUIDANCE,
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    candidates: int = 1,
    reranker: JointEmbedding | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    generation_seed: int = 0,
    tick: Tick | None = None,
) -> TextToImageResult:
    """Generate an image for the first caption of each record, and score it.

    Args:
        training_source: whose images are compared with; None leaves the distances out.
        items: row numbers; None: the first 500.
        guidance, temperature, top_k: see `MultimodalTransformer.generate_images`.
        candidates: images generated per caption; the reranker keeps the nearest one.
        reranker: a joint embedding of images and texts.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        seed: of the resamples.
        generation_seed: of the images.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: no record has a caption.
        ValueError: several candidates and no reranker.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_text_to_image
        >>> from amodal.models import ImageTokenizer, ImageTokenizerConfig
        >>> from amodal.models import build_multimodal_transformer
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> source = parse_source("scenes:size=2").open()
        >>> sizes = dict(size=16, patch_size=4, widths=[4], codebook_size=6, codebook_dim=2)
        >>> tokenizer = ImageTokenizer(ImageTokenizerConfig(sizes))
        >>> architecture = TransformerArchitecture(width=16, heads=2)
        >>> texts = source[0]["text"]
        >>> model = build_multimodal_transformer(architecture, texts, image_tokenizer=tokenizer)
        >>> result = evaluate_text_to_image(model, source, bootstrap=0)
        >>> prefix, match = "text_to_image/", "objects_and_relations_match"
        >>> result.images[0].shape, result.metrics[prefix + match]  # an untrained model
        ((16, 16, 3), 0.0)
        >>> result.metrics[f"{prefix}real_images/{match}"]
        1.0
    """
    result = generate_for_captions(
        model,
        source,
        items=items,
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        candidates=candidates,
        reranker=reranker,
        seed=generation_seed,
        tick=tick,
    )
    metrics = text_to_image_metrics(result, training_source, bootstrap=bootstrap, seed=seed)
    return replace(result, metrics=metrics)


def generate_for_captions(
    model: MultimodalTransformer,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    guidance: float = GUIDANCE,
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    candidates: int = 1,
    reranker: JointEmbedding | None = None,
    seed: int = 0,
    tick: Tick | None = None,
) -> TextToImageResult:
    """Generated images beside their references, without metrics; see `evaluate_text_to_image`."""
    prepare: ImagePreprocessor = model.preprocessors["image"]
    found = TextToImageResult([], [], [], [], [])
    broken: list[BrokenRecordError] = []
    chosen = items if items is not None else range(min(len(source), MAX_IMAGES))
    for start in range(0, len(chosen), BATCH):
        texts = []
        for row in chosen[start : start + BATCH]:
            try:
                record = source[row]
            except BrokenRecordError as error:
                broken.append(error)
                continue
            if record.get("text"):
                found.rows.append(row)
                texts.append(str(record["text"][0]))
                found.references.append(_read(prepare, record))
                found.records.append({k: v for k, v in record.items() if k != MEDIA})
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
        raise DataError(f"{source.name}: no record has a caption to generate an image for")
    return replace(found, broken=tuple(broken))


def text_to_image_metrics(
    result: TextToImageResult, train: Source | None, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Flat `text_to_image/…` metrics.

    On scenes, by the verifier, which reads an image without the model:

    - object_recall: share of the objects of the caption whose shape and colour are in the image,
      mean over images.
    - object_match: share of the images with exactly the shapes and colours of the caption.
    - objects_and_relations_match: share of the images in which, besides, every relation of the
      caption holds.
    - caption_match: share of the images of which the caption holds in full: sizes, textures,
      cells and background too.
    - relation_accuracy: share of the captions with relations in whose images all of them hold;
      one whose objects are missing counts as wrong.
    - real_images/objects_and_relations_match: that of the reference images; the rest to 1 is the
      verifier's error.

    For any images:

    - nearest_training_distance: mean root-mean-square difference, in grey levels, to the nearest of
      up to 5,000 training images, all at 16 pixels; real_images/nearest_training_distance: that of
      the reference images. A model that copied its training images would be far below.

    Args:
        train: whose images are compared with; None leaves that out.
        bootstrap: resamples of the intervals; 0 leaves them out.
    """
    found: dict[str, float] = {"text_to_image/num_images": len(result.images)}
    claims = [_claims(r, text) for r, text in zip(result.records, result.texts, strict=True)]
    references = [image for image in result.references if image is not None]
    if all(one is not None for one in claims):
        known = [one for one in claims if one is not None]
        found |= _verified(result.images, known, bootstrap, seed)
        if len(references) == len(result.references):
            found["text_to_image/real_images/objects_and_relations_match"] = _verified(
                references, known, 0, seed
            )["text_to_image/objects_and_relations_match"]
    if train is not None:
        gallery = _small(_images(train, result.images[0].shape[0]))
        distance, _ = nearest_distance(_small(result.images), gallery)
        found["text_to_image/nearest_training_distance"] = float(distance.mean())
        found["text_to_image/nearest_training_distance/min"] = float(distance.min())
        if references:
            of_references, _ = nearest_distance(_small(references), gallery)
            found["text_to_image/real_images/nearest_training_distance"] = float(
                of_references.mean()
            )
    return found


def scene_of(image: ImageArray) -> Scene:
    """The scene that the verifier reads; an empty one where no colour of the scenes occurs."""
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
        claimed = Counter((m.shape, m.colour) for m in claim.mentions)
        shown = Counter((o.shape, o.colour) for o in scene.objects)
        plain = replace(
            claim,
            mentions=tuple(replace(m, size=None, texture=None, cell=None) for m in claim.mentions),
            background=None,
        )
        rows.append(
            [
                (claimed & shown).total() / claimed.total(),
                float(claimed == shown),
                float(plain.hold_in(scene)),
                float(claim.hold_in(scene)),
                float(replace(plain, complete=False).hold_in(scene))
                if claim.relations
                else float("nan"),
            ]
        )
    values = torch.tensor(rows, dtype=torch.float64)
    columns = (
        "object_recall",
        "object_match",
        "objects_and_relations_match",
        "caption_match",
        "relation_accuracy",
    )
    found: dict[str, float] = {}
    for place, column in enumerate(columns):
        kept = values[:, place : place + 1]
        kept = kept[~kept.isnan()[:, 0]]
        if not len(kept):
            continue
        generator = torch.Generator().manual_seed(seed)
        resamples = resampled(kept, torch.arange(len(kept)), bootstrap, generator)
        found |= flatten(intervals([f"text_to_image/{column}"], *resamples))
    return {n: v for n, v in found.items() if v == v}


def _claims(record: Record, text: str) -> Claims | None:
    return read_caption(text) if "objects" in record else None


def _read(prepare: ImagePreprocessor, record: Record) -> ImageArray | None:
    """The image of a record as the model reads it; None where it cannot be read."""
    try:
        image = decode_image(record["image"], record["origin"], min_size=prepare.size)
    except (BrokenRecordError, KeyError):
        return None
    pixels: ImageArray = prepare.resize([image])[0].permute(1, 2, 0).numpy()
    return pixels


def _images(source: Source, side: int) -> list[ImageArray]:
    """Images of a source, spread over it, at one size; those that cannot be read are left out."""
    prepare = ImagePreprocessor(side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    places = np.unique(
        np.linspace(0, len(source) - 1, min(TRAINING_IMAGES, len(source))).astype(int)
    )
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
