"""Retrieval across modalities: recall, ranks, MRR, mAP and nDCG, exact under ties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, flatten, intervals, resampled
from amodal.metrics.ties import (
    discount_sums,
    expected_discount,
    first_rank,
    harmonic_numbers,
    hit_within,
    precision_sum,
    reciprocal_rank,
)

CUTOFFS = (1, 5, 10)
NDCG_CUTOFF = 10
NAMES = [f"recall@{k}" for k in CUTOFFS] + ["median_rank", "mean_rank", "mrr", "map", "ndcg@10"]
MEDIAN = NAMES.index("median_rank")
CHUNK_BYTES = 24 << 20  # of similarities held at once
FEW = 8  # relevant entries per query up to which they are counted one by one; above, by sorting


@dataclass(frozen=True)
class RetrievalResult:
    """Retrieval metrics, each with a 95 % bootstrap interval.

    Args:
        metrics: recall@1, recall@5, recall@10, median_rank, mean_rank, mrr, map, ndcg@10.
        queries: queries with a positive.
        queries_without_positive: queries left out because the gallery holds no positive.
        gallery: size of the gallery; with folds, the mean per fold.
    """

    metrics: dict[str, Estimate]
    queries: int
    queries_without_positive: int
    gallery: float

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].value

    def to_dict(self) -> dict[str, float]:
        """Flat metrics: `recall@1`, `recall@1/low`, `recall@1/high`, ..., and the counts."""
        return flatten(self.metrics) | {
            "queries": self.queries,
            "queries_without_positive": self.queries_without_positive,
            "gallery": self.gallery,
        }


@torch.no_grad()
def retrieval_metrics(
    query: Tensor,
    gallery: Tensor,
    query_item: Tensor,
    gallery_item: Tensor,
    *,
    relevance: Tensor | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    generator: torch.Generator | None = None,
    folds: int = 1,
    chunk: int | None = None,
) -> RetrievalResult:
    """Recall@k, ranks, MRR, mAP and nDCG of queries against a gallery, by inner product.

    Entries of equal score are taken in random order, and every metric is the exact expectation
    over that order: a constant embedding scores chance. Recall@k is the share of queries with
    at least one positive among the first k. A rank is that of the first positive (for tied
    entries its expected rank). Queries without a positive in the gallery are left out of
    the means and counted.

    Args:
        query: (Q, E) unit-norm embeddings.
        gallery: (G, E) unit-norm embeddings.
        query_item: (Q,) int64; equal keys are positives.
        gallery_item: (G,) int64.
        relevance: (Q, G) non-negative gains for nDCG; None: 1 for the positives. Gains enter
            linearly.
        bootstrap: resamples for the intervals, drawn by item; 0 leaves the intervals out.
        seed: of the resamples, where no `generator` is given.
        generator: on the CPU.
        folds: split the items, in order of first appearance in the queries, into so many equal
            parts, evaluate each on its own and average; 5 on COCO's 5,000 test images is the "1K"
            protocol, 1 the "5K" protocol.
        chunk: queries compared at once; None: as many as fit a few tens of megabytes.

    Raises:
        ValueError: shapes differ, an embedding is not finite, or no query has a positive.

    References:
        Karpathy & Fei-Fei 2015, arXiv:1412.2306 (recall@k and median rank of captions).
        Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques" (nDCG).

    Examples:
        >>> import torch
        >>> from amodal.metrics import retrieval_metrics
        >>> text, image = torch.eye(4)[[0, 0, 1, 2]], torch.eye(4)[:3]
        >>> text_item, image_item = torch.tensor([0, 0, 1, 0]), torch.arange(3)
        >>> result = retrieval_metrics(text, image, text_item, image_item, bootstrap=0)
        >>> result["recall@1"], round(result["mrr"], 3)
        (0.75, 0.854)
    """
    query, gallery = checked("query", query), checked("gallery", gallery)
    _check(query, gallery, query_item, gallery_item, relevance, folds)
    generator = generator or torch.Generator().manual_seed(seed)
    query_item, gallery_item = query_item.to(query.device), gallery_item.to(query.device)
    estimates, draws, sizes, unmatched = [], [], [], 0
    for query_rows, gallery_rows in _folds(query_item, gallery_item, folds):
        matched = torch.isin(query_item[query_rows], gallery_item[gallery_rows])
        unmatched += int((~matched).sum())
        query_rows = query_rows[matched]
        if not len(query_rows):
            continue
        values = _measure(
            query[query_rows],
            gallery[gallery_rows] if folds > 1 else gallery,
            query_item[query_rows],
            gallery_item[gallery_rows],
            (relevance, query_rows, gallery_rows) if relevance is not None else None,
            chunk,
        ).cpu()
        estimate, drawn = resampled(
            values, query_item[query_rows].cpu(), bootstrap, generator, median_of=MEDIAN
        )
        estimates.append(estimate)
        draws.append(drawn)
        sizes.append(len(gallery_rows))
    if not estimates:
        raise ValueError(
            f"none of {len(query)} queries has a positive among the {len(gallery)} gallery rows: "
            "query_item and gallery_item share no key"
        )
    return RetrievalResult(
        metrics=intervals(NAMES, torch.stack(estimates).mean(0), torch.stack(draws).mean(0)),
        queries=len(query) - unmatched,
        queries_without_positive=unmatched,
        gallery=sum(sizes) / len(sizes),
    )


def cross_modal_retrieval(
    name_a: str,
    z_a: Tensor,
    item_a: Tensor,
    name_b: str,
    z_b: Tensor,
    item_b: Tensor,
    **options: Any,
) -> dict[str, float]:
    """Retrieval in both directions as flat metrics, `retrieval/A_to_B/recall@1` and so on.

    `options` go to `retrieval_metrics`.

    Examples:
        >>> import torch
        >>> from amodal.metrics import cross_modal_retrieval
        >>> z, item = torch.eye(3), torch.arange(3)
        >>> metrics = cross_modal_retrieval("audio", z, item, "text", z, item, bootstrap=0)
        >>> metrics["retrieval/audio_to_text/recall@1"], metrics["retrieval/text_to_audio/ndcg@10"]
        (1.0, 1.0)
    """
    flat: dict[str, float] = {}
    for (a, x, i), (b, y, j) in (
        ((name_a, z_a, item_a), (name_b, z_b, item_b)),
        ((name_b, z_b, item_b), (name_a, z_a, item_a)),
    ):
        for name, value in retrieval_metrics(x, y, i, j, **options).to_dict().items():
            flat[f"retrieval/{a}_to_{b}/{name}"] = value
    return flat


def image_text_retrieval(
    image: Tensor, text: Tensor, image_item: Tensor, text_item: Tensor, **options: Any
) -> dict[str, float]:
    """`cross_modal_retrieval` of images and their texts; text may have several rows per item.

    Examples:
        >>> import torch
        >>> from amodal.metrics import image_text_retrieval
        >>> image, text = torch.eye(3), torch.eye(3)[[0, 0, 1, 1, 2, 2]]  # two captions per image
        >>> image_item, text_item = torch.arange(3), torch.arange(3).repeat_interleave(2)
        >>> metrics = image_text_retrieval(image, text, image_item, text_item, bootstrap=0)
        >>> metrics["retrieval/text_to_image/recall@1"]
        1.0
    """
    return cross_modal_retrieval("image", image, image_item, "text", text, text_item, **options)


def scores_of(query: Tensor, distinct: Tensor, place: Tensor | None) -> Tensor:
    """(q, G) inner products in which equal gallery rows have bit-equal columns.

    A matrix product may round equal columns differently, which would break ties by position;
    so each distinct row is multiplied once. See `distinct_rows`.
    """
    scores = query @ distinct.T
    return scores if place is None else scores[:, place]


def distinct_rows(gallery: Tensor) -> tuple[Tensor, Tensor | None]:
    """The distinct rows of (G, E), and (G,) where each row is among them; None if all differ."""
    bits = (gallery + 0.0).cpu().contiguous().numpy()  # -0.0 becomes 0.0
    numbers: dict[bytes, int] = {}
    place = [numbers.setdefault(row.tobytes(), len(numbers)) for row in bits]
    if len(numbers) == len(gallery):
        return gallery, None
    index = torch.tensor(place, device=gallery.device)
    first = torch.full((len(numbers),), len(gallery), device=gallery.device)
    first.scatter_reduce_(0, index, torch.arange(len(gallery), device=gallery.device), "amin")
    return gallery[first], index


def checked(name: str, z: Tensor) -> Tensor:
    """(N, E) finite embeddings in float32 or wider; anything else is refused with its `name`."""
    if z.ndim != 2 or not z.is_floating_point():
        raise ValueError(f"{name}: expected (N, E) floats, got {tuple(z.shape)} {z.dtype}")
    bad = (~torch.isfinite(z).all(1)).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{name}: {len(bad)} of {len(z)} embeddings are not finite, the first is row "
            f"{int(bad[0])}; metrics of them would be meaningless"
        )
    return z.to(torch.promote_types(z.dtype, torch.float32))


def _check(
    query: Tensor,
    gallery: Tensor,
    query_item: Tensor,
    gallery_item: Tensor,
    relevance: Tensor | None,
    folds: int,
) -> None:
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query and gallery have different widths: {query.shape[1]} and {gallery.shape[1]}"
        )
    for name, rows, item in (("query", query, query_item), ("gallery", gallery, gallery_item)):
        if item.shape != rows.shape[:1]:
            raise ValueError(f"{name}_item must be ({len(rows)},), got {tuple(item.shape)}")
    if relevance is not None:
        if relevance.shape != (len(query), len(gallery)):
            raise ValueError(
                f"relevance must be {(len(query), len(gallery))}, got {tuple(relevance.shape)}"
            )
        if not bool((relevance >= 0).all()):
            raise ValueError("relevance must not be negative or NaN")
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")


def _folds(query_item: Tensor, gallery_item: Tensor, folds: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers of the queries and of the gallery of each fold."""
    if folds == 1:
        device = query_item.device
        yield (
            torch.arange(len(query_item), device=device),
            torch.arange(len(gallery_item), device=device),
        )
        return
    both = torch.cat([query_item, gallery_item])
    items, place = torch.unique(both, return_inverse=True)
    if len(items) < folds:
        raise ValueError(f"{folds} folds need at least as many items, got {len(items)}")
    first = torch.full_like(items, len(both))
    first.scatter_reduce_(0, place, torch.arange(len(both), device=both.device), "amin")
    by_appearance = first.argsort().argsort()
    fold = (by_appearance * folds // len(items))[place]
    for i in range(folds):
        yield (
            (fold[: len(query_item)] == i).nonzero()[:, 0],
            (fold[len(query_item) :] == i).nonzero()[:, 0],
        )


def _measure(
    query: Tensor,
    gallery: Tensor,
    query_item: Tensor,
    gallery_item: Tensor,
    relevance: tuple[Tensor, Tensor, Tensor] | None,
    chunk: int | None,
) -> Tensor:
    """(Q, len(NAMES)) float64 metrics of every query; each has a positive.

    `relevance` is the matrix of all gains, with its rows and columns to use.
    """
    device, size = query.device, len(gallery)
    distinct, place = distinct_rows(gallery)
    sorted_item, by_item = torch.sort(gallery_item, stable=True)
    harmonic = harmonic_numbers(size, device)
    discounts = discount_sums(min(NDCG_CUTOFF, size), device)
    chunk = chunk or max(1, CHUNK_BYTES // (query.element_size() * size))
    measured = []
    for start in range(0, len(query), chunk):
        part = slice(start, start + chunk)
        scores = scores_of(query[part], distinct, place)  # (q, G)
        begin = torch.searchsorted(sorted_item, query_item[part])
        count = torch.searchsorted(sorted_item, query_item[part], right=True) - begin
        row = torch.repeat_interleave(count)  # (P,) the query of each positive pair
        offset = torch.arange(len(row), device=device) - (count.cumsum(0) - count)[row]
        column = by_item[begin[row] + offset]
        value = scores[row, column]
        above, tied = _counts(scores, row, value, offset, int(count.max()))
        measured.append(_metrics_of_queries(row, value, above, tied, count, harmonic, discounts))
        if relevance is not None:
            table, rows, columns = relevance
            gains = table[rows[part].to(table.device)][:, columns.to(table.device)]
            measured[-1][:, -1] = _graded(scores, gains.to(device), discounts)
    return torch.cat(measured)


def _counts(
    scores: Tensor, row: Tensor, value: Tensor, offset: Tensor, largest: int
) -> tuple[Tensor, Tensor]:
    """(P,) entries of `scores[row]` that are greater than `value`, and that equal it."""
    if largest <= FEW and scores.shape[1] < 1 << 24:
        above, tied = torch.zeros_like(row), torch.zeros_like(row)
        # Summing booleans would first copy them into 64-bit numbers, which takes far longer;
        # as floats the counts are exact up to 2^24 entries.
        flags = torch.empty_like(scores)
        for place in range(largest):
            now = (offset == place).nonzero()[:, 0]  # at most one entry per query
            rows = scores if len(now) == len(scores) else scores[row[now]]
            bound, flag = value[now, None], flags[: len(now)]
            above[now] = torch.gt(rows, bound, out=flag).sum(1).long()
            tied[now] = torch.eq(rows, bound, out=flag).sum(1).long()
        return above, tied
    ascending = scores.sort(dim=1).values
    padded = scores.new_zeros(len(scores), largest)
    padded[row, offset] = value
    below = torch.searchsorted(ascending, padded)[row, offset]
    upto = torch.searchsorted(ascending, padded, right=True)[row, offset]
    return scores.shape[1] - upto, upto - below


def _metrics_of_queries(
    row: Tensor,
    value: Tensor,
    above: Tensor,
    tied: Tensor,
    count: Tensor,
    harmonic: Tensor,
    discounts: Tensor,
) -> Tensor:
    """(q, len(NAMES)) metrics from the counts of (P,) positive pairs."""
    queries = len(count)
    # Positives of one query with equal `above` are tied with each other: one group.
    code = row * (len(harmonic) + 1) + above
    codes, group = torch.unique(code, return_inverse=True)  # sorted: by query, then by rank
    member = torch.bincount(group, minlength=len(codes))  # relevant entries of each group
    lead = torch.zeros_like(codes).scatter_(0, group, torch.arange(len(row), device=row.device))
    group_row, group_above, group_tied = row[lead], above[lead], tied[lead]
    start = member.cumsum(0) - member  # positives of this and earlier queries before the group
    above_relevant = start - (count.cumsum(0) - count)[group_row]
    best = torch.searchsorted(group_row, torch.arange(queries, device=row.device))
    first = (group_above[best], group_tied[best], member[best])
    rank = first_rank(*first)
    precision = precision_sum(group_above, above_relevant, group_tied, member, harmonic)
    ideal = discounts[count.clamp_max(len(discounts) - 1)]
    gain = expected_discount(above, tied, discounts)
    zeros = torch.zeros(queries, dtype=torch.float64, device=row.device)
    columns = [hit_within(k, *first) for k in CUTOFFS]
    columns += [rank, rank, reciprocal_rank(*first)]
    columns += [zeros.index_add(0, group_row, precision) / count.double()]
    columns += [zeros.index_add(0, row, gain) / ideal]
    return torch.stack(columns, dim=1)


def _graded(scores: Tensor, gains: Tensor, discounts: Tensor) -> Tensor:
    """(q,) expected nDCG with gains; 0 where nothing is relevant."""
    k = len(discounts) - 1
    weights = discounts.diff()
    gains = gains.to(scores.dtype)
    ideal = gains.topk(k, dim=1).values.double() @ weights
    actual = torch.zeros_like(ideal)
    # The entry at a rank is any of those with that rank's score: its gain is their mean.
    for weight, score in zip(weights, scores.topk(k, dim=1).values.T, strict=True):
        same = scores == score[:, None]
        actual += (
            weight
            * torch.where(same, gains, 0.0).sum(1, dtype=torch.float64)
            / same.sum(1).double()
        )
    return torch.where(ideal > 0, actual / torch.where(ideal > 0, ideal, 1.0), 0.0)
