"""Zero-shot classification of a source by a joint embedding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

import amodal.metrics.zero_shot as zero_shot
from amodal.data.record import DataError, Source
from amodal.evaluators.embedding import EmbeddedSource, EmbeddingResult, embed_items, item_labels
from amodal.evaluators.inputs import classified_input, text_inputs
from amodal.evaluators.loop import Autocast, Tick
from amodal.models.joint_embedding import JointEmbedding


@dataclass(frozen=True)
class ClassificationOfSource(EmbeddingResult):
    """Metrics of a classification and the embeddings that were classified.

    Args:
        embedded: of the source.
        classes: names, sorted.
        metrics: flat values.
    """

    classes: tuple[str, ...]
    metrics: dict[str, float]


def evaluate_zero_shot(
    model: JointEmbedding,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    templates: Sequence[str] = zero_shot.TEMPLATES["en"],
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> ClassificationOfSource:
    """Accuracy of the class whose description is nearest, over the labels of the source.

    Args:
        items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        templates: sentences into which the name of a class is put.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: a record has no `label`, or the model has no text input.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_zero_shot
        >>> from amodal.models import build_joint_embedding
        >>> from amodal.models.joint_embedding import Architecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = Architecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     projection={"kind": "linear"},
        ... )
        >>> model = build_joint_embedding(architecture, lambda: source)
        >>> result = evaluate_zero_shot(model, source, captions=1, bootstrap=0)
        >>> result.classes
        ('circle', 'cross', 'heart', 'ring', 'star')
        >>> result.metrics["zero_shot/top5"]  # among 5 classes
        1.0
    """
    name, texts = classified_input(model), text_inputs(model)
    if not texts:
        raise DataError("zero-shot classification needs a model with a text input")
    embedded = embed_items(
        model, source, items=items, captions=captions, autocast=autocast, tick=tick
    )
    labels = labels_of(source, embedded, name)
    classes = sorted(set(labels))
    prompts = [template.format(label) for label in classes for template in templates]
    values: dict[str, Any] = {texts[0]: prompts}
    z = model.encode(output="torch", **values)
    result = zero_shot.zero_shot_metrics(
        embedded.rows[name].z,
        zero_shot.class_embeddings(z.view(len(classes), len(templates), -1)),
        torch.tensor([classes.index(label) for label in labels]),
        bootstrap=bootstrap,
        seed=seed,
    )
    metrics = {f"zero_shot/{name}": value for name, value in result.to_dict().items()}
    metrics["zero_shot/classes"] = len(classes)
    return ClassificationOfSource(embedded, tuple(classes), metrics)


def labels_of(source: Source, embedded: EmbeddedSource, name: str) -> list[str]:
    """The label of each embedded row of an input.

    Raises:
        DataError: a record has none.
    """
    by_item = item_labels(source)
    labels = [by_item.get(int(key)) for key in embedded.rows[name].item]
    if any(label is None for label in labels):
        raise DataError(f"{source.name}: every record needs a `label` for this task")
    return [str(label) for label in labels]
