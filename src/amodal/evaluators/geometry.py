"""Geometry of a joint space on a source: gaps, spread, hubness and mixing of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from amodal.data.record import Source
from amodal.evaluators.embedding import EmbeddingResult, embed_items
from amodal.evaluators.loop import Autocast, Tick
from amodal.metrics.geometry import EmbeddingSet, GeometryOptions, GeometryResult, geometry_metrics
from amodal.models.joint_embedding import JointEmbedding

SETTINGS = ("alpha", "t", "k", "folds", "permutations", "max_items")


@dataclass(frozen=True)
class GeometryOfSource(EmbeddingResult):
    """Geometry of the embeddings of a source.

    Args:
        embedded: of the source.
        geometry: all that was computed, spectra and k-occurrences included.
        metrics: flat `geometry/…` values, with what they depend on as `geometry/settings/…`.
    """

    geometry: GeometryResult
    metrics: dict[str, float]

    @property
    def samples(self) -> dict[str, EmbeddingSet]:
        """Input -> embeddings with the item of each."""
        return {n: EmbeddingSet(rows.z, rows.item) for n, rows in self.embedded.rows.items()}


def evaluate_geometry(
    model: JointEmbedding,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    captions: int | None = None,
    options: GeometryOptions | None = None,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> GeometryOfSource:
    """Modality gap, alignment, uniformity, hubness and mixing; see `amodal.metrics.geometry`.

    Args:
        items: row numbers; None means all.
        captions: the first so many captions of each item; None means all.
        options: what the metrics depend on.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one usable record.
        ValueError: fewer items than the folds of the modality probe.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_geometry
        >>> from amodal.metrics import GeometryOptions
        >>> from amodal.models import build_joint_embedding
        >>> from amodal.models.joint_embedding import Architecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = Architecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     projection={"kind": "linear"},
        ... )
        >>> model = build_joint_embedding(architecture, lambda: source)
        >>> options = GeometryOptions(permutations=20, bootstrap=0)
        >>> metrics = evaluate_geometry(model, source, captions=1, options=options).metrics
        >>> gap = "geometry/gap/image_text/centroid"
        >>> metrics[gap] > metrics[f"{gap}/chance"]  # the model is untrained
        True
    """
    embedded = embed_items(
        model, source, items=items, captions=captions, autocast=autocast, tick=tick
    )
    samples = {name: EmbeddingSet(rows.z, rows.item) for name, rows in embedded.rows.items()}
    found = geometry_metrics(samples, options, seed=seed)
    metrics: dict[str, float] = {f"geometry/{n}": value for n, value in found.to_dict().items()}
    for name in SETTINGS:
        metrics[f"geometry/settings/{name}"] = getattr(found.options, name)
    return GeometryOfSource(embedded, found, metrics)
