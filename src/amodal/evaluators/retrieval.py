"""Retrieval across the inputs of a joint embedding, on a whole source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from amodal.data.record import DataError, Source
from amodal.evaluators.embedding import (
    EmbeddedSource,
    EmbeddingResult,
    embed_captioned,
    embed_items,
)
from amodal.evaluators.inputs import text_inputs
from amodal.evaluators.keyword_search import keyword_search_metrics
from amodal.evaluators.loop import Autocast, Tick
from amodal.metrics.retrieval import retrieval_metrics as rank_metrics
from amodal.models.joint_embedding import Embeddings, JointEmbedding
from amodal.models.multimodal_transformer.model import MultimodalTransformer

RECALLS = ("recall@1", "recall@5", "recall@10")


@dataclass(frozen=True)
class RetrievalResult(EmbeddingResult):
    """Retrieval metrics and the embeddings they come from.

    Args:
        embedded: of the source.
        metrics: flat `retrieval/A_to_B/METRIC` values.
    """

    metrics: dict[str, float]


def evaluate_retrieval(
    model: JointEmbedding,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    folds: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
    keyword_search: bool = False,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> RetrievalResult:
    """Recall, ranks, MRR, mAP and nDCG from every input to every other.

    Args:
        items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        folds: mean over so many parts of the gallery; 5 is COCO's 1K protocol.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        keyword_search: add the recall of a keyword search, see `keyword_search_metrics`.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: no usable record, or a single input.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_retrieval
        >>> from amodal.models import build_joint_embedding
        >>> from amodal.models.joint_embedding import Architecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = Architecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     projection={"kind": "linear"},
        ... )
        >>> model = build_joint_embedding(architecture, lambda: source)
        >>> result = evaluate_retrieval(model, source, captions=1, bootstrap=0)
        >>> result.metrics["retrieval/text_to_image/recall@10"]  # among 8 images
        1.0
    """
    embedded = embed_items(
        model, source, items=items, captions=captions, autocast=autocast, tick=tick
    )
    result = _result(embedded, source, bootstrap=bootstrap, folds=folds, seed=seed)
    if keyword_search:
        rows = items if items is not None else range(len(source))
        result.metrics.update(keyword_search_metrics(source, text_inputs(model), rows, seed=seed))
    return result


def evaluate_captioner_retrieval(
    model: MultimodalTransformer,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    folds: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
    tick: Tick | None = None,
) -> RetrievalResult:
    """Retrieval between images and captions by a contrastive captioner.

    See `evaluate_retrieval` for the arguments.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_captioner_retrieval
        >>> from amodal.models import build_multimodal_transformer
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = TransformerArchitecture(
        ...     encoders={"image": {"kind": "small_cnn"}}, unimodal_layers=1
        ... )
        >>> model = build_multimodal_transformer(architecture, source[0]["text"])
        >>> result = evaluate_captioner_retrieval(model, source, captions=1, bootstrap=0)
        >>> result.metrics["retrieval/image_to_text/recall@10"]  # among 8 captions
        1.0
    """
    embedded = embed_captioned(model, source, items=items, captions=captions, tick=tick)
    return _result(embedded, source, bootstrap=bootstrap, folds=folds, seed=seed)


def retrieval_metrics(
    rows: Mapping[str, Embeddings], *, bootstrap: int = 0, folds: int = 1, seed: int = 0
) -> dict[str, float]:
    """Retrieval from every input to every other, as flat `retrieval/A_to_B/METRIC` values."""
    metrics: dict[str, float] = {}
    for a in rows:
        for b in rows:
            if a == b or not bool(torch.isin(rows[a].item, rows[b].item).any()):
                continue  # no item has values of both
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


def mean_recall(metrics: Mapping[str, float]) -> float:
    """Mean of recall@1, 5 and 10 over all directions: the metric that picks the best weights."""
    recalls = [
        value
        for name, value in metrics.items()
        if name.startswith("retrieval/") and name.split("/")[-1] in RECALLS
    ]
    return sum(recalls) / len(recalls)


def _result(
    embedded: EmbeddedSource, source: Source, *, bootstrap: int, folds: int, seed: int
) -> RetrievalResult:
    if len(embedded.rows) < 2:
        raise DataError(
            f"{source.name}: retrieval needs two inputs, the model has {', '.join(embedded.rows)}"
        )
    metrics = retrieval_metrics(embedded.rows, bootstrap=bootstrap, folds=folds, seed=seed)
    if not any(name.split("/")[-1] in RECALLS for name in metrics):
        raise DataError(
            f"{source.name}: no item has values of two inputs ({', '.join(embedded.rows)}), so "
            "there is nothing to retrieve"
        )
    return RetrievalResult(embedded, metrics)
