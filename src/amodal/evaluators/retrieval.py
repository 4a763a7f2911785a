"""Embed a whole source and measure retrieval on it, during training and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import permutations

import torch

from amodal.data.collate import Collator
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.samplers import Draw
from amodal.metrics.retrieval import retrieval_metrics as rank_metrics
from amodal.models.joint_embedding import Embeddings, JointEmbedding, concatenate


@dataclass(frozen=True)
class EmbeddedSource:
    """The embeddings of a source, and what could not be embedded.

    Args:
        rows: modality -> embeddings, on the CPU in float32.
        places: row number in the source of every item that was embedded, in order.
        broken: the records that were skipped.
        truncated: modality -> rows that were cut to the encoder's maximum length.
    """

    rows: dict[str, Embeddings]
    broken: tuple[BrokenRecordError, ...] = ()
    truncated: dict[str, int] = field(default_factory=dict)


@torch.inference_mode()
def embed_items(
    model: JointEmbedding,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    batch_size: int = 128,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    tick: Callable[[int], None] | None = None,
) -> EmbeddedSource:
    """Embed the given rows of a source, every modality and every caption.

    Args:
        model: used in evaluation mode; its mode is restored.
        items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        batch_size: items at once.
        autocast: context of the forward passes.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one usable record.
    """
    reader = BatchReader(source, Collator(model.preprocessors, captions=captions), seed=0)
    order = list(items) if items is not None else list(range(len(source)))
    was_training = model.training
    model.eval()
    parts: list[dict[str, Embeddings]] = []
    broken: list[BrokenRecordError] = []
    truncated: dict[str, int] = {}
    for start in range(0, len(order), batch_size):
        batch = reader.__getitems__([Draw(0, i) for i in order[start : start + batch_size]])
        broken += batch.broken
        for modality, count in batch.truncated.items():
            truncated[modality] = truncated.get(modality, 0) + count
        if len(batch):
            with autocast():
                embedded = model(batch.to(model.device))
            parts.append(
                {
                    m: Embeddings(
                        rows.z.float().cpu(),
                        rows.item.cpu(),
                        rows.content.cpu() if rows.content is not None else None,
                    )
                    for m, rows in embedded.items()
                }
            )
        if tick is not None:
            tick(min(start + batch_size, len(order)))
    model.train(was_training)
    if not parts:
        first = f"; the first: {broken[0]}" if broken else ""
        raise DataError(f"{source.name}: none of {len(order)} records can be used{first}")
    return EmbeddedSource(concatenate(parts), tuple(broken), truncated)


def retrieval_metrics(
    rows: dict[str, Embeddings], *, bootstrap: int = 0, folds: int = 1, seed: int = 0
) -> dict[str, float]:
    """Retrieval from every modality to every other, as flat `retrieval/a_to_b/metric` values."""
    metrics: dict[str, float] = {}
    for a, b in permutations(rows, 2):
        result = rank_metrics(
            rows[a].z,
            rows[b].z,
            rows[a].item,
            rows[b].item,
            bootstrap=bootstrap,
            seed=seed,
            folds=folds,
        )
        for name, value in result.to_dict().items():
            metrics[f"retrieval/{a}_to_{b}/{name}"] = value
    return metrics


def mean_recall(metrics: dict[str, float]) -> float:
    """Mean of recall@1, 5 and 10 over all directions: the figure that picks the best weights."""
    recalls = [
        value
        for name, value in metrics.items()
        if name.startswith("retrieval/") and name.split("/")[-1] in RECALLS
    ]
    return sum(recalls) / len(recalls)


RECALLS = ("recall@1", "recall@5", "recall@10")
