"""Match probability and precision of search hits, calibrated on held-out pairs.

A search always returns the nearest rows, also where nothing matches. Whether a hit is a match is
read from its score and from the size of the gallery: matching rows keep their scores in a larger
gallery, while the number of wrong rows above any score grows in proportion to its size. So
everything here is a statement about pairs of a query and a gallery row, and is carried over to a
gallery of another size by one factor. It holds for queries of which one in two has its match in
the gallery, `SHARE_WITH_MATCH`: each held-out query counts once with its matching rows and once
without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from amodal.metrics.bootstrap import resampled

SHARE_WITH_MATCH = 0.5
FALSE_ALARMS = 0.1  # share of queries without a match whose best hit may pass as a likely match
WRONG_KEPT = 100  # highest wrong scores of each query
SHOWN = 10  # hits of a query among which the probability is fitted
MIN_MATCHES = 20  # matching pairs on which any statement rests
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
        wrong_rows: mean number of wrong rows per query.
    """

    query: Tensor
    score: Tensor
    wrong: Tensor
    item: Tensor
    wrong_rows: float


class Match(NamedTuple):
    """What the score of a hit says: `likely match`, `possible match` or `weak`."""

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
        intercept, slope: log odds of a match are intercept + slope * score.
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
    intercept: float
    slope: float
    no_match_score: float
    no_match_growth: float

    def probability(self, score: float, gallery: float) -> float:
        """Probability that a hit of this score in a gallery of this size is a match."""
        logit = self.intercept + self.slope * score - self._growth(gallery)
        return 1 / (1 + math.exp(-max(-700.0, logit)))

    def likely_score(self, gallery: float) -> float:
        """Score from which on a hit is a likely match.

        Its probability is at least 0.5, and at least 90 % of the queries without a match have no
        hit of that score.
        """
        even = (
            self._growth(gallery) + math.log(LIKELY / (1 - LIKELY)) - self.intercept
        ) / self.slope
        return max(even, self.no_match_score + self.no_match_growth * self._growth(gallery))

    def match(self, score: float, gallery: float) -> Match:
        """Label and probability of a hit of this score in a gallery of this size."""
        probability = self.probability(score, gallery)
        if score >= self.likely_score(gallery):
            return Match(LIKELY_MATCH, probability)
        return Match(POSSIBLE_MATCH if probability >= POSSIBLE else WEAK, probability)

    def precision(self, gallery: float) -> list[tuple[float, float, float]]:
        """(precision, low, high) of the hits from each of `score` on."""
        times = math.exp(self._growth(gallery)) / SHARE_WITH_MATCH
        bounds = zip(self.wrong, self.wrong_high, self.wrong_low, strict=True)
        return [tuple(1 / (1 + times * ratio) for ratio in ratios) for ratios in bounds]  # type: ignore[misc]

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
        matches: slice of the queries -> (q, G) bool, True for the rows that match.
        kept: wrong scores of each query that are kept.

    Examples:
        >>> import torch
        >>> from amodal.metrics import score_pairs
        >>> z, item = torch.eye(3), torch.arange(3)
        >>> pairs = score_pairs(z, z, item, lambda part: item[part, None] == item)
        >>> pairs.score.tolist(), pairs.wrong[:, 0].tolist(), pairs.wrong_rows
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 2.0)
    """
    chunk = max(1, CHUNK_BYTES // (8 * max(1, len(gallery))))
    rows, scores, wrong, items, wrong_rows, queries = [], [], [], [], 0, 0
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
        wrong.append(similarity.topk(min(kept, similarity.shape[1]), dim=1).values)
        items.append(item)
        wrong_rows += int((~match).sum())
        queries += len(item)
    return ScoredPairs(
        torch.cat(rows),
        torch.cat(scores),
        torch.cat(wrong),
        torch.cat(items),
        wrong_rows / max(1, queries),
    )


def fit_match_curve(pairs: ScoredPairs, *, resamples: int = 1000, seed: int = 0) -> MatchCurve:
    """Precision, recall and match probability against the score.

    The interval of wrong rows per matching row is the wider one of the percentile bootstrap over
    items and of Jeffreys' interval of a proportion: the first knows that pairs of one item depend
    on each other, the second that none among few is not none.

    Args:
        pairs: of held-out data.
        resamples: of the bootstrap.
        seed: of the resamples.

    Raises:
        ValueError: fewer than 20 matching pairs, no wrong ones, or scores that do not grow with
            matching.

    References:
        Platt 1999, "Probabilistic outputs for support vector machines" (probability of a score).
        Elkan 2001, "The foundations of cost-sensitive learning", theorem 2 (another share of
        matches changes the odds by a factor).
        Brown, Cai & DasGupta 2001, "Interval estimation for a binomial proportion" (Jeffreys).
        Gumbel 1958, "Statistics of extremes" (the best of N scores grows with log N).

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from amodal.metrics import fit_match_curve, score_pairs
        >>> generator = torch.Generator().manual_seed(0)
        >>> a = F.normalize(torch.randn(300, 8, generator=generator), dim=1)
        >>> b = F.normalize(a + 0.2 * torch.randn(300, 8, generator=generator), dim=1)
        >>> item = torch.arange(300)
        >>> pairs = score_pairs(a, b, item, lambda part: item[part, None] == item)
        >>> curve = fit_match_curve(pairs)
        >>> small, large = (curve.threshold(0.8, gallery=rows) for rows in (300, 3000))
        >>> small.score < large.score  # among more rows, more of them are as near by chance
        True
    """
    count = len(pairs.score)
    if count < MIN_MATCHES or pairs.wrong_rows < 1:
        raise ValueError(
            f"{count} matching pairs and {pairs.wrong_rows:.0f} wrong rows per query; a match "
            f"threshold needs at least {MIN_MATCHES} matching pairs and a wrong row"
        )
    falling = pairs.score.sort(descending=True).values
    # Ranks in geometric order, since what matters happens among the highest scores.
    ranks = (
        torch.logspace(math.log10(MIN_MATCHES), math.log10(count), KNOTS).round().long().unique()
    )
    knots = falling[ranks - 1].unique()  # rising
    matching, wrong = _counts_above(pairs, knots)
    queries, size = len(pairs.wrong), len(knots)
    estimate, draws = resampled(
        torch.cat([matching, wrong], 1),
        pairs.item,
        resamples,
        torch.Generator().manual_seed(seed),
    )
    half = 0.5 / queries  # one half of a pair, so that none among few is not none at all
    ratio = (estimate[size:] + half) / (estimate[:size] + half)
    drawn = (draws[:, size:] + half) / (draws[:, :size] + half)
    low, high = _jeffreys(matching.sum(0), wrong.sum(0))
    if resamples:
        ends = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        low, high = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
    intercept, slope = _platt(*_shown(pairs))
    no_match_score, no_match_growth = _best_wrong(pairs)
    return MatchCurve(
        queries=queries,
        gallery=pairs.wrong_rows,
        score=knots.tolist(),
        recall=(matching.sum(0) / count).tolist(),
        wrong=ratio.tolist(),
        wrong_low=low.tolist(),
        wrong_high=high.tolist(),
        intercept=intercept,
        slope=slope,
        no_match_score=no_match_score,
        no_match_growth=no_match_growth,
    )


def _counts_above(pairs: ScoredPairs, knots: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, T) matching and wrong rows of each query with at least the score of each knot."""
    matching = torch.zeros(len(pairs.wrong), len(knots), dtype=torch.float64)
    matching.index_add_(0, pairs.query, (pairs.score[:, None] >= knots).double())
    rising = pairs.wrong.flip(1).contiguous()
    below = torch.searchsorted(rising, knots.expand(len(rising), -1).contiguous())
    return matching, (rising.shape[1] - below).double()


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


def _platt(score: Tensor, label: Tensor, weight: Tensor) -> tuple[float, float]:
    """Intercept and slope of the weighted logistic regression of Platt, by Newton's method."""
    positives = float(label.sum())
    negatives = len(label) - positives
    target = torch.where(label > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, scale = score.mean(), score.std().clamp(min=1e-9)
    design = torch.stack([torch.ones_like(score), (score - centre) / scale], 1)
    found = torch.zeros(2, dtype=torch.float64)
    for _ in range(100):
        p = torch.sigmoid(design @ found)
        gradient = design.T @ (weight * (target - p))
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design
        step = torch.linalg.solve(hessian + 1e-9 * torch.eye(2, dtype=torch.float64), gradient)
        found = found + step.clamp(-2, 2)  # far from the optimum a full step overshoots
        if float(step.abs().max()) < 1e-10:
            break
    slope = float(found[1] / scale)
    if slope <= 0:
        raise ValueError("matching pairs do not have higher scores than wrong ones")
    return float(found[0]) - slope * float(centre), slope


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
