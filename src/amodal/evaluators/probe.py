"""Linear probe: a classifier fitted on the frozen embeddings of one source, tested on another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from amodal.data.record import Source
from amodal.evaluators.embedding import embed_items
from amodal.evaluators.inputs import classified_input
from amodal.evaluators.loop import Autocast, Tick
from amodal.evaluators.zero_shot import ClassificationOfSource, labels_of
from amodal.metrics.probe import linear_probe
from amodal.models.joint_embedding import JointEmbedding


def evaluate_probe(
    model: JointEmbedding,
    source: Source,
    *,
    training_source: Source,
    items: Sequence[int] | None = None,
    training_items: Sequence[int] | None = None,
    captions: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> ClassificationOfSource:
    """Accuracy of a linear classifier on the embeddings of the first input that is not text.

    Args:
        source: test rows, with `label`.
        training_source: rows on which the classifier is fitted, with `label`.
        items, training_items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        tick: called with the number of test items done, for a progress bar.

    Raises:
        DataError: a record has no `label`.

    Examples:
        >>> from amodal.evaluators import evaluate_probe
        >>> from amodal.models import build_joint_embedding
        >>> from amodal.models.joint_embedding import Architecture
        >>> records = [
        ...     {"id": str(i), "origin": f"row {i}", "z": [2 * (i % 2) - 1.0, 1.0], "label": i % 2}
        ...     for i in range(20)
        ... ]
        >>> architecture = Architecture(
        ...     encoders={"vector": {"kind": "vector", "column": "z"}},
        ...     projection={"kind": "linear"},
        ... )
        >>> model = build_joint_embedding(architecture, lambda: iter(records))
        >>> result = evaluate_probe(model, records[:6], training_source=records[6:], bootstrap=0)
        >>> result.classes, result.metrics["probe/top1"]
        (('0', '1'), 1.0)
    """
    name = classified_input(model)
    embedded = embed_items(
        model, source, items=items, captions=captions, autocast=autocast, tick=tick
    )
    fitted = embed_items(
        model, training_source, items=training_items, captions=captions, autocast=autocast
    )
    train_labels = labels_of(training_source, fitted, name)
    test_labels = labels_of(source, embedded, name)
    classes = sorted({*train_labels, *test_labels})
    number = {label: i for i, label in enumerate(classes)}
    result = linear_probe(
        fitted.rows[name].z,
        torch.tensor([number[label] for label in train_labels]),
        embedded.rows[name].z,
        torch.tensor([number[label] for label in test_labels]),
        bootstrap=bootstrap,
        seed=seed,
    )
    metrics = {f"probe/{key}": value for key, value in result.to_dict().items()}
    return ClassificationOfSource(embedded, tuple(classes), metrics)
