"""Hubness across modalities, and neighbours in a gallery of all modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from amodal.metrics.retrieval import checked, distinct_rows, scores_of

CHUNK_BYTES = 24 << 20  # of similarities held at once


class Hubness(NamedTuple):
    """Hubness of a gallery: skewness of the k-occurrence, antihubs and the largest hub.

    With neighbours drawn at random, N_k is binomial with Q draws of probability k / G; the
    `chance` values are those of that distribution.

    Args:
        skew: third standardised moment of N_k; 0 where every row occurs equally often.
        skew_chance: that of random neighbours.
        antihubs: share of gallery rows that are never among the first k.
        antihubs_chance: that of random neighbours.
        largest_hub: share of the queries that have the most frequent row among their first k.
        largest_hub_chance: the mean over rows of that share, k / G.
    """

    skew: float
    skew_chance: float
    antihubs: float
    antihubs_chance: float
    largest_hub: float
    largest_hub_chance: float


def neighbour_shares(scores: Tensor, k: int) -> Tensor:
    """Probability of each entry to be among the first k of its row; ties share their places.

    Args:
        scores: (Q, G); an entry of -inf is no candidate.
        k: places; at most the number of candidates of each row.

    Returns:
        (Q, G) in [0, 1]; each row sums to k.
    """
    border = scores.topk(k, dim=1).values[:, -1:]
    inside, tied = (scores > border).to(scores.dtype), (scores == border).to(scores.dtype)
    left = k - inside.sum(1, keepdim=True)
    return inside.add_(tied.mul_(left / tied.sum(1, keepdim=True)))


@torch.no_grad()
def k_occurrence(query: Tensor, gallery: Tensor, k: int, *, chunk: int | None = None) -> Tensor:
    """k-occurrence N_k: number of queries with a gallery row among their k nearest.

    Where scores are equal it is the expectation over their order.

    Args:
        query: (Q, E) unit-norm embeddings.
        gallery: (G, E) unit-norm embeddings.
        k: places, in 1…G.
        chunk: queries compared at once; None: as many as fit a few tens of megabytes.

    Returns:
        (G,) float64; the mean is Q k / G.

    References:
        Radovanović, Nanopoulos & Ivanović 2010, "Hubs in space", JMLR 11.

    Examples:
        >>> import torch
        >>> from amodal.metrics import k_occurrence
        >>> query = torch.eye(3)[[0, 0, 0, 1]]
        >>> k_occurrence(query, gallery=torch.eye(3), k=1).tolist()
        [3.0, 1.0, 0.0]
    """
    query, gallery = checked("query", query), checked("gallery", gallery)
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must lie in 1…{len(gallery)}, got {k}")
    distinct, place = distinct_rows(gallery)
    occurrence = torch.zeros(len(gallery), dtype=torch.float64, device=gallery.device)
    for part in torch.split(query, chunk or _rows(gallery)):
        shares = neighbour_shares(scores_of(part, distinct, place), k)
        occurrence += shares.sum(0, dtype=torch.float64)
    return occurrence


def hubness_metrics(occurrence: Tensor, queries: int, k: int) -> Hubness:
    """Hubness metrics of a `k_occurrence`.

    Args:
        occurrence: (G,) N_k of every gallery row.
        queries: Q.
        k: places.

    References:
        Radovanović et al. 2010, "Hubs in space", JMLR 11.

    Examples:
        >>> import torch
        >>> from amodal.metrics import hubness_metrics
        >>> result = hubness_metrics(torch.tensor([3.0, 1.0, 0.0]), queries=4, k=1)
        >>> round(result.antihubs, 3), result.largest_hub
        (0.333, 0.75)
    """
    size = len(occurrence)
    deviation = occurrence.double() - queries * k / size
    variance = float(deviation.square().mean())
    p = k / size
    spread = queries * p * (1 - p)
    flat = variance <= 1e-12 * (1 + (queries * p) ** 2)  # rounding
    return Hubness(
        skew=0.0 if flat else float(deviation.pow(3).mean()) / variance**1.5,
        skew_chance=(1 - 2 * p) / spread**0.5 if spread > 0 else 0.0,
        antihubs=float((occurrence == 0).double().mean()),
        antihubs_chance=(1 - p) ** queries,
        largest_hub=float(occurrence.max()) / queries,
        largest_hub_chance=p,
    )


@torch.no_grad()
def mixed_gallery(
    embeddings: Mapping[str, Tensor], k: int, *, chunk: int | None = None
) -> dict[str, tuple[Tensor, float]]:
    """Same-modality neighbour share in one gallery of all modalities.

    It is the share of a query's k nearest neighbours that have the query's modality. The gallery
    holds every row of every modality except the query itself. Where scores are equal it is the
    expectation over their order, so a constant embedding gives chance, (N_m - 1) / (N_all - 1).
    A share above chance means that the modalities are separated.

    Args:
        embeddings: modality -> (N, E) unit-norm embeddings.
        k: places; at most N_all - 1.
        chunk: queries compared at once; None: as many as fit a few tens of megabytes.

    Returns:
        modality -> (N,) float64 share of each query, and the share expected by chance.

    Examples:
        >>> import torch
        >>> from amodal.metrics import mixed_gallery
        >>> image, text = torch.eye(4)[[0, 0, 0]], torch.eye(4)[[1, 1, 1]]  # separated modalities
        >>> share, chance = mixed_gallery({"image": image, "text": text}, k=2)["image"]
        >>> share.tolist(), chance
        ([1.0, 1.0, 1.0], 0.4)
    """
    names = list(embeddings)
    gallery = torch.cat([checked(name, embeddings[name]) for name in names])
    if not 1 <= k < len(gallery):
        raise ValueError(f"k must lie in 1…{len(gallery) - 1}, got {k}")
    distinct, place = distinct_rows(gallery)
    result: dict[str, tuple[Tensor, float]] = {}
    first = 0
    for name in names:
        last = first + len(embeddings[name])
        same = []
        step = chunk or _rows(gallery)
        for start in range(first, last, step):
            stop = min(start + step, last)
            scores = scores_of(gallery[start:stop], distinct, place)
            here = torch.arange(stop - start, device=scores.device)
            scores[here, here + start] = -torch.inf
            shares = neighbour_shares(scores, k)
            same.append(shares[:, first:last].sum(1, dtype=torch.float64) / k)
        chance = (last - first - 1) / (len(gallery) - 1)
        empty = torch.zeros(0, dtype=torch.float64)
        result[name] = (torch.cat(same).cpu() if same else empty, chance)
        first = last
    return result


def _rows(gallery: Tensor) -> int:
    return max(1, CHUNK_BYTES // (gallery.element_size() * max(1, len(gallery))))
