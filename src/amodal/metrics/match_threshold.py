"""Match probability and precision of search hits, calibrated on held-out pairs.

A search always returns the nearest rows, also where nothing matches. Whether a hit is a match is
read from its score and from the size of the gallery: matching rows keep their scores in a larger
gallery, while the number of wrong rows above any score grows in proportion to its size. So
everything here is a statement about pairs of a query and a gallery row, and is carried over to a
gallery of another size by one factor. It holds for queries of which one in two has its match in
the gallery, `SHARE_WITH_MATCH`: each held-out query counts once with its matching rows and once
without them. Wrong rows beyond the 100 best of a query are not counted; few searches show more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

SHARE_WITH_MATCH = 0.5
FALSE_ALARMS = 0.1  # share of queries without a match whose best hit may pass as a likely match
WRONG_KEPT = 100  # highest wrong scores of each query
SHOWN = 10  # hits of a query among which the probability is fitted
MIN_MATCHES = 20  # matching pairs, of as many items, on which any statement rests
KNOTS = 64
HALVINGS = 4  # of the gallery, for the growth of the best wrong score with its size
CHUNK_BYTES = 24 << 20
LIKELY, POSSIBLE = 0.5, 0.1  # least probability of a likely and of a possible match
LIKELY_MATCH, POSSIBLE_MATCH, WEAK = "likely match", "possible match", "weak"


class ScoredPairs(NamedTuple):
    """Scores of the matching rows of each query, and of its highest wrong rows.

    Args:
        query: (M,) int64 row of the query of each matching pair.
        score: (M,) float64 scores of the matching pairs.
        wrong: (Q, W) float64 highest scores of wrong rows, falling; -inf where there are fewer.
        item: (Q,) int64 item key of each query.
        wrong_item: (Q, W) int64 item keys of the wrong rows.
        wrong_rows: mean number of wrong rows per query.
    """

    query: Tensor
    score: Tensor
    wrong: Tensor
    item: Tensor
    wrong_item: Tensor
    wrong_rows: float


class Match(NamedTuple):
    """Label of a hit and its probability: `likely match`, `possible match` or `weak`."""

    label: str
    probability: float


class Threshold(NamedTuple):
    """The lowest score at which hits reach a precision.

    Args:
        score: hits of at least this score are kept.
        low: lower end of its 95 % confidence interval.
        high: upper end; infinite where the precision may not be reached at all.
        precision: estimated, of the hits that are kept.
        recall: share of the matching pairs that are kept.
    """

    score: float
    low: float
    high: float
    precision: float
    recall: float


class MatchCurve(BaseModel):
    """Precision, recall and match probability against the score, of one direction of search.

    Args:
        queries: held-out queries with a match.
        gallery: wrong rows per query.
        score: (T,) rising.
        recall: (T,) share of the matching pairs with at least this score.
        wrong: (T,) wrong rows with at least this score for each such matching row.
        wrong_low, wrong_high: (T,) ends of its 95 % interval.
        odds_score, log_odds: (K,) scores, rising, and the log odds of a match at each; between
            them a line, outside them constant.
        no_match_score: 90 % of the queries without a match have no hit of this score.
        no_match_growth: by which it rises where the gallery is e times as large.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queries: int
    gallery: float
    score: list[float]
    recall: list[float]
    wrong: list[float]
    wrong_low: list[float]
    wrong_high: list[float]
    odds_score: list[float]
    log_odds: list[float]
    no_match_score: float
    no_match_growth: float

    def probability(self, score: float, gallery: float) -> float:
        """Probability that a hit of this score in a gallery of this size is a match."""
        log_odds = float(np.interp(score, self.odds_score, self.log_odds))
        return 1 / (1 + math.exp(self._growth(gallery) - log_odds))

    def likely_score(self, gallery: float) -> float:
        """Score from which on a hit is a likely match.

        Its probability is at least 0.5, and at least 90 % of the queries without a match have no
        hit of that score. Infinite where no score is enough.
        """
        growth = self._growth(gallery)
        needed = growth + math.log(LIKELY / (1 - LIKELY))
        if self.log_odds[-1] < needed:
            return math.inf
        even = -math.inf
        if self.log_odds[0] < needed:
            at = next(i for i, value in enumerate(self.log_odds) if value >= needed)
            ends = slice(at - 1, at + 1)
            even = float(np.interp(needed, self.log_odds[ends], self.odds_score[ends]))
        return max(even, self.no_match_score + self.no_match_growth * growth)

    def match(self, score: float, gallery: float) -> Match:
        """Label and probability of a hit of this score in a gallery of this size."""
        probability = self.probability(score, gallery)
        if score >= self.likely_score(gallery):
            return Match(LIKELY_MATCH, probability)
        return Match(POSSIBLE_MATCH if probability >= POSSIBLE else WEAK, probability)

    def precision(self, gallery: float) -> list[tuple[float, float, float]]:
        """(precision, low, high) of the hits from each of `score` on."""
        times = math.exp(self._growth(gallery)) / SHARE_WITH_MATCH
        return [
            (1 / (1 + times * ratio), 1 / (1 + times * high), 1 / (1 + times * low))
            for ratio, high, low in zip(self.wrong, self.wrong_high, self.wrong_low, strict=True)
        ]

    def threshold(self, min_precision: float, gallery: float) -> Threshold | None:
        """The lowest score at which hits reach a precision; None where none does.

        Args:
            min_precision: share of the kept hits that are to be matches.
            gallery: rows of the gallery that is searched.
        """
        if not 0 < min_precision < 1:
            raise ValueError(f"min_precision must be between 0 and 1, got {min_precision}")
        found = self.precision(gallery)

        def first(column: int) -> int | None:
            reached = (i for i, values in enumerate(found) if values[column] >= min_precision)
            return next(reached, None)

        at, low, high = first(0), first(2), first(1)
        if at is None:
            return None
        return Threshold(
            self.score[at],
            self.score[low] if low is not None else self.score[at],
            self.score[high] if high is not None else math.inf,
            found[at][0],
            self.recall[at],
        )

    def _growth(self, gallery: float) -> float:
        """Log of the size of a gallery over that of the calibration."""
        return math.log(max(1.0, gallery) / self.gallery)


def score_pairs(
    query: Tensor,
    gallery: Tensor,
    query_item: Tensor,
    gallery_item: Tensor,
    matches: Callable[[slice], Tensor],
    *,
    kept: int = WRONG_KEPT,
) -> ScoredPairs:
    """Scores of all matching pairs, and the highest scores of wrong ones.

    Queries without a matching row are left out.

    Args:
        query: (Q, E) unit-norm embeddings.
        gallery: (G, E) unit-norm embeddings.
        query_item: (Q,) int64 key of the item of each query.
        gallery_item: (G,) int64.
        matches: slice of the queries -> (q, G) bool, True for the rows that match.
        kept: wrong scores of each query that are kept.

    Examples:
        >>> import torch
        >>> from amodal.metrics import score_pairs
        >>> z, item = torch.eye(3), torch.arange(3)
        >>> pairs = score_pairs(z, z, item, item, lambda part: item[part, None] == item)
        >>> pairs.score.tolist(), pairs.wrong[:, 0].tolist(), pairs.wrong_rows
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 2.0)
    """
    chunk = max(1, CHUNK_BYTES // (8 * max(1, len(gallery))))
    rows, scores, wrong, items, wrong_items, wrong_rows, queries = [], [], [], [], [], 0, 0
    for start in range(0, len(query), chunk):
        part = slice(start, start + chunk)
        match = matches(part)
        has_match = match.any(1)
        match, item = match[has_match], query_item[part][has_match]
        similarity = query[part][has_match].double() @ gallery.double().T  # (q, G)
        row, column = match.nonzero(as_tuple=True)
        rows.append(row + queries)
        scores.append(similarity[row, column])
        similarity[row, column] = -math.inf
        best = similarity.topk(min(kept, similarity.shape[1]), dim=1)
        wrong.append(best.values)
        wrong_items.append(gallery_item[best.indices])
        items.append(item)
        wrong_rows += int((~match).sum())
        queries += len(item)
    return ScoredPairs(
        torch.cat(rows),
        torch.cat(scores),
        torch.cat(wrong),
        torch.cat(items),
        torch.cat(wrong_items),
        wrong_rows / max(1, queries),
    )


def fit_match_curve(pairs: ScoredPairs, *, resamples: int = 400, seed: int = 0) -> MatchCurve:
    """Precision, recall and match probability against the score.

    The interval of wrong rows per matching row is the wider one of the percentile bootstrap over
    items, as queries and as rows of the gallery, and of Jeffreys' interval of a proportion: the
    first knows that pairs of one item depend on each other, the second that none among few is not
    none.

    Args:
        pairs: of held-out data.
        resamples: of the bootstrap.
        seed: of the resamples.

    Raises:
        ValueError: fewer than 20 items with a match, or no wrong rows.

    References:
        Zadrozny & Elkan 2002, "Transforming classifier scores into accurate multiclass probability
            estimates" (isotonic regression; Platt's logistic curve of 1999 overstated the highest
            scores of captions that fit many photos).
        Elkan 2001, "The foundations of cost-sensitive learning", theorem 2 (another share of
        matches changes the odds by a factor).
        Owen 2007, "The pigeonhole bootstrap" (pairs depend on both of their sides).
        Brown, Cai & DasGupta 2001, "Interval estimation for a binomial proportion" (Jeffreys).
        Gumbel 1958, "Statistics of extremes" (the best of N scores grows with log N).

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from amodal.metrics import fit_match_curve, score_pairs
        >>> generator = torch.Generator().manual_seed(0)
        >>> a = F.normalize(torch.randn(300, 16, generator=generator), dim=1)
        >>> b = F.normalize(a + 0.2 * torch.randn(300, 16, generator=generator), dim=1)
        >>> item = torch.arange(300)
        >>> pairs = score_pairs(a, b, item, item, lambda part: item[part, None] == item)
        >>> curve = fit_match_curve(pairs)
        >>> small, large = (curve.threshold(0.8, gallery=rows) for rows in (300, 3000))
        >>> small.score < large.score  # among more rows, more of them are as near by chance
        True
    """
    items, count = len(pairs.item.unique()), len(pairs.score)
    if items < MIN_MATCHES:
        raise ValueError(f"{items} items have a match, and {MIN_MATCHES} are needed")
    if pairs.wrong_rows < 1:
        raise ValueError("every row matches every query, and wrong rows are needed")
    falling = pairs.score.sort(descending=True).values
    # Ranks in geometric order, since what matters happens among the highest scores.
    ranks = (
        torch.logspace(math.log10(MIN_MATCHES), math.log10(count), KNOTS).round().long().unique()
    )
    knots = falling[ranks - 1].unique()  # rising
    queries = len(pairs.wrong)
    keys, place = torch.unique(
        torch.cat([pairs.item, pairs.wrong_item.flatten()]), return_inverse=True
    )
    above = PairsAbove(pairs, knots, place)
    matching, wrong = above.counts(torch.ones(len(keys), dtype=torch.float64))
    low, high = _jeffreys(matching, wrong)
    if resamples:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.stack([above.drawn_ratio(len(keys), generator) for _ in range(resamples)])
        ends = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        low, high = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
    odds_score, log_odds = _isotonic_log_odds(*_shown(pairs))
    no_match_score, no_match_growth = _best_wrong(pairs)
    return MatchCurve(
        queries=queries,
        gallery=pairs.wrong_rows,
        score=knots.tolist(),
        recall=(matching / count).tolist(),
        wrong=_ratio(matching, wrong).tolist(),
        wrong_low=low.tolist(),
        wrong_high=high.tolist(),
        odds_score=odds_score.tolist(),
        log_odds=log_odds.tolist(),
        no_match_score=no_match_score,
        no_match_growth=no_match_growth,
    )


class PairsAbove:
    """Weighted counts of matching and of wrong pairs from each knot on.

    Args:
        pairs: the pairs.
        knots: (T,) scores, rising.
        place: number of the item of each query, then of each wrong row.
    """

    def __init__(self, pairs: ScoredPairs, knots: Tensor, place: Tensor) -> None:
        query, row = place[: len(pairs.item)], place[len(pairs.item) :].view(pairs.wrong.shape)
        shown = pairs.wrong >= knots[0]  # the others are below every knot
        self.size = len(knots)
        self.matching = torch.searchsorted(knots, pairs.score, right=True)  # knots reached
        self.wrong = torch.searchsorted(knots, pairs.wrong[shown], right=True)
        self.matching_item = query[pairs.query]
        self.query_item = query[:, None].expand_as(row)[shown]
        self.row_item = row[shown]

    def counts(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) matching and wrong pairs where item i is there `times[i]` times.

        Every copy of a query matches the copy of its own row.
        """
        return (
            self._from_above(self.matching, times[self.matching_item]),
            self._from_above(self.wrong, times[self.query_item] * times[self.row_item]),
        )

    def drawn_ratio(self, items: int, generator: torch.Generator) -> Tensor:
        """(T,) wrong pairs per matching pair, of as many items drawn with replacement."""
        drawn = torch.randint(items, (items,), generator=generator)
        matching, wrong = self.counts(torch.bincount(drawn, minlength=items).double())
        return _ratio(matching, wrong)

    def _from_above(self, reached: Tensor, weight: Tensor) -> Tensor:
        counts = torch.bincount(reached, weight, minlength=self.size + 1)
        return counts.flip(0).cumsum(0).flip(0)[1:]


def _ratio(matching: Tensor, wrong: Tensor) -> Tensor:
    """Wrong pairs per matching pair, with half a pair more of each: none among few is not none."""
    return (wrong + 0.5) / (matching + 0.5)


def _jeffreys(matching: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """95 % interval of wrong pairs per matching pair, from counts."""
    from scipy.stats import beta

    share = beta.ppf([[0.025], [0.975]], wrong.numpy() + 0.5, matching.numpy() + 0.5)
    odds = torch.from_numpy(share / (1 - share).clip(min=1e-12))
    return odds[0], odds[1]


def _shown(pairs: ScoredPairs) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and weights of the pairs that a search shows, with and without the match."""
    wrong = pairs.wrong[:, :SHOWN]
    last = wrong[:, -1] if wrong.shape[1] == SHOWN else torch.full((len(wrong),), -math.inf)
    matching = pairs.score[pairs.score >= last[pairs.query]]
    wrong = wrong[wrong.isfinite()]
    score = torch.cat([matching, wrong])
    label = torch.cat([torch.ones_like(matching), torch.zeros_like(wrong)])
    return score, label, torch.where(label > 0, SHARE_WITH_MATCH, 1.0)


def _isotonic_log_odds(score: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in rising order, and the log odds of a match at each, which never fall.

    Bins hold `MIN_MATCHES` matches or more, and half a pair of each kind is added to them, so that
    a bin of matches alone says no more than its size allows.
    """
    from sklearn.isotonic import IsotonicRegression

    matching = score[label > 0]
    count = min(KNOTS, max(1, len(matching) // MIN_MATCHES))
    edges = torch.quantile(matching, torch.linspace(0, 1, count + 1, dtype=torch.float64))[:-1]
    place = torch.bucketize(score, edges, right=True)  # 0: below every match
    sums = torch.zeros(count + 1, 3, dtype=torch.float64)
    sums.index_add_(0, place, torch.stack([weight * label, weight * (1 - label), score], 1))
    pairs = torch.bincount(place, minlength=count + 1)
    filled = pairs > 0
    sums, pairs = sums[filled], pairs[filled].double()
    odds = ((sums[:, 0] + 0.5 * SHARE_WITH_MATCH) / (sums[:, 1] + 0.5)).log()
    fitted = IsotonicRegression().fit_transform(
        torch.arange(len(odds)).numpy(), odds.numpy(), sample_weight=pairs.numpy()
    )
    return sums[:, 2] / pairs, torch.from_numpy(fitted)


def _best_wrong(pairs: ScoredPairs) -> tuple[float, float]:
    """Quantile of the best wrong score, and its growth where the gallery is e times as large.

    In a random share f of the gallery the best row left is the j-th best of all, from 0, with
    probability f (1 - f)^j, so that galleries of several sizes come from one without drawing.
    """
    score = torch.where(pairs.wrong.isfinite(), pairs.wrong, -2.0)  # below any cosine
    place = torch.arange(score.shape[1], dtype=torch.float64)
    shares = 0.5 ** torch.arange(HALVINGS + 1, dtype=torch.float64)
    shares = shares[shares * pairs.wrong_rows >= 1]
    order = score.flatten().argsort()
    ordered = score.flatten()[order]
    quantiles = []
    for share in shares.tolist():
        mass = (share * (1 - share) ** place).expand_as(score).flatten()[order].cumsum(0)
        at = int(torch.searchsorted(mass, float(mass[-1]) * (1 - FALSE_ALARMS)))
        quantiles.append(float(ordered[min(at, len(ordered) - 1)]))
    if len(quantiles) < 2:
        return quantiles[0], 0.0
    log_size = shares.log()
    centred = log_size - log_size.mean()
    rise = float(
        (centred * torch.tensor(quantiles, dtype=torch.float64)).sum() / (centred**2).sum()
    )
    return quantiles[0], max(0.0, rise)
