"""Retrieval by a joint embedding in one gallery of all its inputs, with and without centring."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from amodal.data.record import DataError, Source
from amodal.evaluators.embedding import EmbeddingResult, embed_items
from amodal.evaluators.loop import Autocast, Tick
from amodal.metrics.mixed_retrieval import (
    MixedGalleryRows,
    centred,
    mixed_gallery_retrieval,
)
from amodal.models.joint_embedding import JointEmbedding


@dataclass(frozen=True)
class MixedGalleryResult(EmbeddingResult):
    """Retrieval in a mixed gallery, and the embeddings it comes from.

    Args:
        embedded: of the source.
        metrics: flat `mixed_gallery/A_to_B/METRIC` values, and the same of centred embeddings as
            `mixed_gallery/centred/A_to_B/METRIC`.
    """

    metrics: dict[str, float]


def evaluate_mixed_gallery(
    model: JointEmbedding,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> MixedGalleryResult:
    """Recall of each input, and its share of the results, where all inputs are one gallery.

    Args:
        items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: no usable record, or no item has values of two inputs.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_mixed_gallery
        >>> from amodal.models import build_joint_embedding
        >>> from amodal.models.joint_embedding import Architecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = Architecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     projection={"kind": "linear"},
        ... )
        >>> model = build_joint_embedding(architecture, lambda: source)
        >>> metrics = evaluate_mixed_gallery(model, source, captions=1, bootstrap=0).metrics
        >>> round(metrics["mixed_gallery/text_to_image/gallery_share"], 3)  # 8 of 15 rows
        0.533
    """
    embedded = embed_items(
        model, source, items=items, captions=captions, autocast=autocast, tick=tick
    )
    rows = {
        name: MixedGalleryRows(own.z, own.item) for name, own in embedded.rows.items() if len(own.z)
    }
    metrics: dict[str, float] = {}
    for prefix, of in (("mixed_gallery", rows), ("mixed_gallery/centred", centred(rows))):
        found = mixed_gallery_retrieval(of, bootstrap=bootstrap, seed=seed)
        metrics |= {f"{prefix}/{name}": value for name, value in found.items()}
    if not metrics:
        raise DataError(
            f"{source.name}: no item has values of two inputs ({', '.join(embedded.rows)}), so "
            "there is nothing to retrieve"
        )
    return MixedGalleryResult(embedded, metrics)
