"""Retrieval in one gallery of all modalities: recall of each, and its share of the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.metrics.bootstrap import flatten, intervals, resampled
from amodal.metrics.hubness import neighbour_shares
from amodal.metrics.retrieval import CHUNK_BYTES, CUTOFFS, checked, distinct_rows, scores_of
from amodal.metrics.ties import hit_within

SHARE_CUTOFF = 10  # results whose modalities are counted


class MixedGalleryRows(NamedTuple):
    """Embeddings of one modality.

    Args:
        z: (N, E) unit-norm embeddings.
        item: (N,) int64 key of the item of each.
    """

    z: Tensor
    item: Tensor


@torch.no_grad()
def mixed_gallery_retrieval(
    rows: Mapping[str, MixedGalleryRows],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    chunk: int | None = None,
) -> dict[str, float]:
    """Retrieval of the values of an item in one gallery that holds every modality.

    The gallery of a query is every row of every modality but the query itself. For each modality
    other than that of the query, recall@k is the share of queries with a row of their item in that
    modality among the first k of the whole gallery, and share@10 the share of the modality among
    the first ten. Where modalities are separated, a query finds its own modality before the others,
    and recall falls far below that of a gallery of one modality. Both are exact expectations under
    ties.

    Args:
        rows: modality -> its rows.
        bootstrap: resamples for the 95 % intervals, drawn by item; 0 leaves them out.
        seed: of the resamples.
        chunk: queries compared at once; None: as many as fit a few tens of megabytes.

    Returns:
        `Q_to_M/recall@k` and `Q_to_M/share@10` with their intervals, and `Q_to_M/gallery_share`,
        the share that modality M has of the gallery of Q.

    Examples:
        >>> import torch
        >>> from amodal.metrics import MixedGalleryRows, mixed_gallery_retrieval
        >>> z, item = torch.eye(4), torch.arange(4)
        >>> rows = {"image": MixedGalleryRows(z, item), "audio": MixedGalleryRows(z, item)}
        >>> found = mixed_gallery_retrieval(rows, bootstrap=0)
        >>> found["image_to_audio/recall@1"], round(found["image_to_audio/gallery_share"], 3)
        (1.0, 0.571)
    """
    names = list(rows)
    gallery = torch.cat([checked(name, rows[name].z) for name in names])
    item = torch.cat([rows[name].item for name in names]).to(gallery.device)
    sizes = [len(rows[name].z) for name in names]
    modality = torch.repeat_interleave(torch.tensor(sizes)).to(gallery.device)
    distinct, place = distinct_rows(gallery)
    generator = torch.Generator().manual_seed(seed)
    step = chunk or max(1, CHUNK_BYTES // (gallery.element_size() * max(1, len(gallery))))
    found: dict[str, float] = {}
    for number, name in enumerate(names):
        own = (modality == number).nonzero()[:, 0]  # (Q,)
        measured: dict[int, list[tuple[Tensor, Tensor]]] = {}  # values and items of queries
        for queries in own.split(step):
            scores = scores_of(gallery[queries], distinct, place)  # (q, G)
            scores[torch.arange(len(queries)), queries] = -torch.inf
            shares = neighbour_shares(scores, min(SHARE_CUTOFF, len(gallery) - 1))
            for other in range(len(names)):
                partner = (item[queries, None] == item) & (modality == other)
                there = partner.any(1)
                if other == number or not bool(there.any()):
                    continue
                hits = _hits(scores[there], partner[there])
                share = shares[there][:, modality == other].sum(1, dtype=torch.float64)
                share = share / min(SHARE_CUTOFF, len(gallery) - 1)
                values = torch.cat([hits, share[:, None]], dim=1).cpu()
                measured.setdefault(other, []).append((values, item[queries[there]].cpu()))
        for other, parts in measured.items():
            values, keys = (torch.cat(column) for column in zip(*parts, strict=True))
            columns = [*(f"recall@{k}" for k in CUTOFFS), f"share@{SHARE_CUTOFF}"]
            estimate, draws = resampled(values, keys, bootstrap, generator)
            direction = f"{name}_to_{names[other]}"
            for column, value in flatten(intervals(columns, estimate, draws)).items():
                found[f"{direction}/{column}"] = value
            found[f"{direction}/gallery_share"] = sizes[other] / (len(gallery) - 1)
    return found


def centred(rows: Mapping[str, MixedGalleryRows]) -> dict[str, MixedGalleryRows]:
    """The rows of every modality without their mean, again of unit length.

    References:
        Liang et al. 2022, arXiv:2203.02053 (the gap between modalities is a shift).

    Examples:
        >>> import torch
        >>> z = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
        >>> centred({"text": MixedGalleryRows(z, torch.arange(2))})["text"].z.round(decimals=3)
        tensor([[-0.7070,  0.7070],
                [ 0.7070, -0.7070]])
    """
    return {
        name: MixedGalleryRows(F.normalize(own.z - own.z.mean(dim=0), dim=1), own.item)
        for name, own in rows.items()
    }


def _hits(scores: Tensor, partner: Tensor) -> Tensor:
    """(q, len(CUTOFFS)) probability that a partner is among the first k; each query has one."""
    best = scores.masked_fill(~partner, -torch.inf).amax(1, keepdim=True)
    tied = scores == best
    counts = (scores > best).sum(1), tied.sum(1), (tied & partner).sum(1)
    return torch.stack([hit_within(k, *counts) for k in CUTOFFS], dim=1)
