"""Retrieval from one modality to another, with ties, several positives and intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CUTOFFS = (1, 5, 10)
# Scores are compared on this grid, far below what float32 embeddings can tell apart. Without it
# the last bits of a matrix product would order a gallery of equal embeddings by their place.
GRID = 2.0**-30
CHUNK_BYTES = 32 << 20  # one block of float64 scores


@dataclass(frozen=True)
class RetrievalResult:
    """Figures per query and over all queries.

    Args:
        per_query: name -> (Q,) float64 expected value under random order of tied scores.
        item: (Q,) int64 item of each query; queries of one item are resampled together.
        chance: name -> value of a constant embedding.
        unmatched: queries whose item is not in the gallery; they are left out.
        bootstrap: name -> (low, high), the 95 % percentile interval over resampled items.
    """

    per_query: dict[str, Tensor]
    item: Tensor
    chance: dict[str, float]
    unmatched: int
    bootstrap: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, float]:
        """Flat figures: `recall@1`, `recall@1/low`, `recall@1/high`, `recall@1/chance`, …"""
        figures: dict[str, float] = {}
        for name, values in self.per_query.items():
            if name == "rank":
                figures["median_rank"] = float(_median(values))
                figures["mean_rank"] = float(values.mean())
                continue
            figures[name] = float(values.mean())
            if name in self.bootstrap:
                figures[f"{name}/low"], figures[f"{name}/high"] = self.bootstrap[name]
            if name in self.chance:
                figures[f"{name}/chance"] = self.chance[name]
        if self.unmatched:
            figures["unmatched_queries"] = float(self.unmatched)
        return figures


def retrieval(
    query: Tensor,
    gallery: Tensor,
    query_item: Tensor,
    gallery_item: Tensor,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> RetrievalResult:
    """Rank the gallery for every query by cosine similarity and score the ranking.

    A gallery row is a positive of a query where their items are equal; there may be several.
    Tied scores stand in random order and every figure is its exact expectation over that order,
    so that a constant embedding scores chance. Beyond the embeddings this takes some 100 MB,
    whatever Q and G are.

    Figures: recall@k, the probability that a positive is among the first k; rank of the first
    positive; mrr, its mean reciprocal; map, mean average precision over all positives; ndcg@10
    with binary relevance.

    Args:
        query: (Q, E) unit rows.
        gallery: (G, E) unit rows.
        query_item: (Q,) int64 key of each query's item.
        gallery_item: (G,) int64 key of each gallery row's item.
        bootstrap: resamplings for the intervals; 0 leaves them out.
        seed: of the resampling.

    Raises:
        ValueError: shapes that do not fit, embeddings that are not finite, or no query with a
            positive.

    References:
        McSherry & Najork 2008 (expected measures under ties).
    """
    _check(query, gallery, query_item, gallery_item)
    places = _positive_places(query_item, gallery_item)  # (Q, P), -1 where there are fewer
    matched = (places >= 0).any(dim=1)
    if not bool(matched.any()):
        raise ValueError("no query has a positive in the gallery: do the item keys match?")
    places = places[matched]
    counts = (places >= 0).sum(dim=1)
    above, tied = _counts(query[matched], gallery, places)
    per_query = _expectations(above, tied, places >= 0)
    item = query_item[matched]
    return RetrievalResult(
        per_query=per_query,
        item=item,
        chance={
            f"recall@{k}": float(_at_least_one(counts, torch.full_like(counts, len(gallery)), k).mean())
            for k in CUTOFFS
        },
        unmatched=int((~matched).sum()),
        bootstrap=_intervals(per_query, item, bootstrap, seed),
    )


def folded_retrieval(
    query: Tensor,
    gallery: Tensor,
    query_item: Tensor,
    gallery_item: Tensor,
    *,
    folds: int,
) -> dict[str, float]:
    """Mean of the figures over `folds` equal parts of the items, in the order of the gallery.

    With 5,000 pictures, 5 folds are the COCO 1K protocol and `retrieval` of all the 5K protocol.

    Raises:
        ValueError: fewer items than folds.
    """
    items = torch.tensor(list(dict.fromkeys([*gallery_item.tolist(), *query_item.tolist()])))
    if folds < 1 or len(items) < folds:
        raise ValueError(f"folds must lie between 1 and the {len(items)} items, got {folds}")
    parts = []
    for part in items.tensor_split(folds):
        q, g = torch.isin(query_item, part), torch.isin(gallery_item, part)
        result = retrieval(query[q], gallery[g], query_item[q], gallery_item[g], bootstrap=0)
        parts.append(result.to_dict())
    return {name: sum(p[name] for p in parts) / folds for name in parts[0]}


def _check(query: Tensor, gallery: Tensor, query_item: Tensor, gallery_item: Tensor) -> None:
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"expected (Q, E) and (G, E) embeddings, got {tuple(query.shape)} and "
            f"{tuple(gallery.shape)}"
        )
    if query_item.shape != query.shape[:1] or gallery_item.shape != gallery.shape[:1]:
        raise ValueError(
            f"expected one item key per row, got {tuple(query_item.shape)} for {len(query)} "
            f"queries and {tuple(gallery_item.shape)} for {len(gallery)} gallery rows"
        )
    for name, rows in (("query", query), ("gallery", gallery)):
        bad = (~torch.isfinite(rows)).any(dim=1)
        if bool(bad.any()):
            raise ValueError(f"{int(bad.sum())} {name} embeddings are NaN or infinite")


def _positive_places(query_item: Tensor, gallery_item: Tensor) -> Tensor:
    """(Q, P) gallery rows with the item of each query, filled up with -1."""
    order = gallery_item.argsort(stable=True)
    ordered = gallery_item[order]
    first = torch.searchsorted(ordered, query_item)
    count = torch.searchsorted(ordered, query_item, right=True) - first
    offset = torch.arange(int(count.max()) if len(count) else 0)
    inside = offset < count[:, None]
    at = (first[:, None] + offset).clamp(max=len(order) - 1)
    return torch.where(inside, order[at], -1)


def _scores(query: Tensor, gallery: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Blocks of similarity on the grid: (first query, (q, G) float64)."""
    rows = max(1, CHUNK_BYTES // (8 * max(1, len(gallery))))
    columns = max(1, CHUNK_BYTES // (8 * query.shape[1]))
    for start in range(0, len(query), rows):
        part = query[start : start + rows].double()
        block = torch.empty(len(part), len(gallery), dtype=torch.float64)
        for left in range(0, len(gallery), columns):
            right = left + columns
            block[:, left:right] = part @ gallery[left:right].double().T
        yield start, block.div_(GRID).round_()


def _counts(query: Tensor, gallery: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """For each positive, how many gallery rows score higher, and how many the same.

    Returns:
        above, tied: (Q, P) int64; tied counts the positive itself.
    """
    above = torch.zeros_like(places)
    tied = torch.ones_like(places)
    for start, block in _scores(query, gallery):
        stop = start + len(block)
        own = block.gather(1, places[start:stop].clamp(min=0))  # (q, P)
        if places.shape[1] <= 16:
            for j in range(places.shape[1]):
                score = own[:, j : j + 1].contiguous()
                above[start:stop, j] = (block > score).sum(dim=1)
                tied[start:stop, j] = (block == score).sum(dim=1)
        else:  # many positives, as with class labels: sorting once is cheaper
            ordered = block.neg_().sort(dim=1).values
            above[start:stop] = torch.searchsorted(ordered, -own)
            tied[start:stop] = torch.searchsorted(ordered, -own, right=True) - above[start:stop]
    return above, tied


def _expectations(above: Tensor, tied: Tensor, there: Tensor) -> dict[str, Tensor]:
    """Expected figures of every query over the order of tied scores.

    Args:
        above, tied: (Q, P) as `_counts` gives them.
        there: (Q, P) False where a query has fewer positives.
    """
    far = torch.iinfo(torch.int64).max // 4
    order = torch.where(there, above, far).argsort(dim=1, stable=True)
    above, tied, there = above.gather(1, order), tied.gather(1, order), there.gather(1, order)
    same = (above[:, :, None] == above[:, None, :]) & there[:, :, None] & there[:, None, :]
    positives_tied = same.sum(dim=2)  # positives in the same group of equal scores, itself too
    positives_above = ((above[:, None, :] < above[:, :, None]) & there[:, None, :]).sum(dim=2)
    best_above, best_tied, best_count = above[:, 0], tied[:, 0], positives_tied[:, 0]

    figures = {
        f"recall@{k}": _at_least_one(best_count, best_tied, k - best_above) for k in CUTOFFS
    }
    figures["rank"] = best_above + (best_tied + 1) / (best_count + 1.0)
    figures["mrr"] = _expected_reciprocal(best_above, best_tied, best_count)
    figures["map"] = _expected_precision(above, tied, there, positives_above, positives_tied)
    figures["ndcg@10"] = _expected_ndcg(above, tied, there)
    return {name: values.double() for name, values in figures.items()}


def _at_least_one(good: Tensor, size: Tensor, draws: Tensor | int) -> Tensor:
    """Probability that `draws` of `size` rows, without replacement, hold one of `good`."""
    size_, good_ = size.double(), good.double()
    draws_ = torch.as_tensor(draws, device=size.device).double().expand_as(size_)
    bounded = draws_.clamp(min=0).minimum(size_)
    # C(size - good, draws) / C(size, draws), the chance to miss them all
    missed = (
        _log_factorial(size_ - good_)
        + _log_factorial(size_ - bounded)
        - _log_factorial(size_ - good_ - bounded)
        - _log_factorial(size_)
    ).exp()
    certain = bounded > size_ - good_
    probability = torch.where(certain, torch.ones_like(missed), 1 - missed)
    # One good row drawn for from no ties is the common case, and is exact without logarithms.
    single = (size_ == 1) & (good_ == 1)
    exact = torch.where(single, (bounded >= 1).double(), probability)
    return torch.where(bounded <= 0, torch.zeros_like(exact), exact)


def _log_factorial(n: Tensor) -> Tensor:
    return torch.lgamma(n.clamp(min=0) + 1)


def _expected_reciprocal(above: Tensor, tied: Tensor, good: Tensor) -> Tensor:
    """E[1 / rank of the first of `good` rows among `tied`, behind `above` others]."""
    value = 1.0 / (above.double() + 1)
    for i in (tied > good).nonzero()[:, 0].tolist():
        g, t, p = int(above[i]), int(tied[i]), int(good[i])
        place = torch.arange(1, t - p + 2, dtype=torch.float64)  # of the first good row
        log_chance = (
            _log_choose(t - place, torch.tensor(p - 1.0, dtype=torch.float64))
            - _log_choose(torch.tensor(float(t), dtype=torch.float64), torch.tensor(float(p)).double())
        )
        value[i] = (log_chance.exp() / (g + place)).sum()
    return value


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return _log_factorial(n) - _log_factorial(k) - _log_factorial(n - k)


def _expected_precision(
    above: Tensor, tied: Tensor, there: Tensor, before: Tensor, good: Tensor
) -> Tensor:
    """Expected average precision; each positive adds its share of its group of ties."""
    share = (before + 1.0) / (above + 1.0)
    for i, j in ((tied > 1) & there).nonzero().tolist():
        g, t, p, b = int(above[i, j]), int(tied[i, j]), int(good[i, j]), int(before[i, j])
        place = torch.arange(1, t + 1, dtype=torch.float64)
        ahead = (p - 1) * (place - 1) / (t - 1)  # of the group's positives, on average
        share[i, j] = ((b + 1 + ahead) / (g + place)).mean()
    return (share.double() * there).sum(dim=1) / there.sum(dim=1)


def _expected_ndcg(above: Tensor, tied: Tensor, there: Tensor, cutoff: int = 10) -> Tensor:
    """Expected nDCG with binary relevance."""
    discount = 1 / torch.log2(torch.arange(cutoff, dtype=torch.float64) + 2)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), discount.cumsum(0)])
    start = above.clamp(max=cutoff)
    stop = (above + tied).clamp(max=cutoff)
    gain = (total[stop] - total[start]) / tied  # a tied row stands anywhere in its group
    return (gain * there).sum(dim=1) / total[there.sum(dim=1).clamp(max=cutoff)]


def _median(values: Tensor) -> Tensor:
    """The median; the mean of the middle two for an even number."""
    return torch.quantile(values, 0.5) if len(values) < 1 << 24 else values.median()


def _intervals(
    per_query: dict[str, Tensor], item: Tensor, rounds: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the means, resampling items with all their queries."""
    if rounds <= 0:
        return {}
    _, group = item.unique(return_inverse=True)
    groups = int(group.max()) + 1
    size = torch.zeros(groups, dtype=torch.float64).index_add_(
        0, group, torch.ones(len(group), dtype=torch.float64)
    )
    names = [name for name in per_query if name != "rank"]
    sums = torch.zeros(groups, len(names), dtype=torch.float64)
    sums.index_add_(0, group, torch.stack([per_query[name] for name in names], dim=1))
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(rounds):
        chosen = torch.randint(groups, (groups,), generator=generator)
        times = torch.bincount(chosen, minlength=groups).double()
        means.append(times @ sums / (times @ size))
    low, high = torch.quantile(
        torch.stack(means), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0
    )
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
