"""Match curves against brute force, known distributions and galleries of other sizes."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from amodal.metrics.match_threshold import (
    FALSE_ALARMS,
    LIKELY_MATCH,
    MIN_MATCHES,
    POSSIBLE_MATCH,
    SHARE_WITH_MATCH,
    WEAK,
    MatchCurve,
    ScoredPairs,
    fit_match_curve,
    score_pairs,
)


def normal_pairs(queries=400, wrong_rows=1000, distance=4.0, seed=0, kept=100):
    """Scores of wrong rows are N(0, 1), those of the one matching row N(distance, 1)."""
    rng = np.random.default_rng(seed)
    wrong = -np.sort(-rng.normal(size=(queries, wrong_rows)), axis=1)[:, :kept]
    return ScoredPairs(
        torch.arange(queries),
        torch.from_numpy(rng.normal(distance, size=queries)),
        torch.from_numpy(wrong),
        torch.arange(queries),
        float(wrong_rows),
    )


def measured(pairs, score):
    """Matching and wrong pairs from a score on."""
    return int((pairs.score >= score).sum()), int((pairs.wrong >= score).sum())


def unit(rows, width, seed):
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(z.double(), dim=1)


@pytest.mark.parametrize("kept", [3, 50])
def test_scored_pairs_equal_brute_force_in_chunks(kept, monkeypatch):
    monkeypatch.setattr("amodal.metrics.match_threshold.CHUNK_BYTES", 8 * 40 * 4)  # 4 queries
    query, gallery = unit(30, 6, 0), unit(40, 6, 1)
    query_item, gallery_item = torch.arange(30) % 25, torch.arange(40) % 22
    match = query_item[:, None] == gallery_item
    found = score_pairs(query, gallery, query_item, lambda part: match[part], kept=kept)
    rows = [i for i in range(30) if match[i].any()]
    assert 20 < len(rows) < 30  # some queries have no match and are left out
    scores = query @ gallery.T
    for place, i in enumerate(rows):
        wrong = sorted(scores[i][~match[i]].tolist(), reverse=True)[:kept]
        np.testing.assert_allclose(found.wrong[place, : len(wrong)], wrong, atol=1e-12)
        matching = found.score[found.query == place]
        np.testing.assert_allclose(sorted(matching), sorted(scores[i][match[i]]), atol=1e-12)
        assert found.item[place] == query_item[i]
    assert found.wrong_rows == pytest.approx((~match[rows]).sum() / len(rows))


def test_precision_and_recall_equal_counts():
    pairs = normal_pairs()
    curve = fit_match_curve(pairs)
    for i, score in enumerate(curve.score):
        matching, wrong = measured(pairs, score)
        assert curve.recall[i] == pytest.approx(matching / len(pairs.score))
        assert curve.wrong[i] == pytest.approx((wrong + 0.5) / (matching + 0.5))
        # Each query counts once with its match and once without, so wrong rows count twice.
        want = (matching + 0.5) / (matching + 0.5 + 2 * (wrong + 0.5))
        value, low, high = curve.precision(curve.gallery)[i]
        assert value == pytest.approx(want)
        assert low <= value <= high


def test_a_threshold_is_the_lowest_score_that_reaches_the_precision():
    curve = fit_match_curve(normal_pairs())
    found = curve.threshold(0.9, curve.gallery)
    values = [value for value, _, _ in curve.precision(curve.gallery)]
    assert found.precision >= 0.9
    assert all(v < 0.9 for v, s in zip(values, curve.score, strict=True) if s < found.score)
    assert found.low <= found.score <= found.high
    assert 0 < found.recall < 1
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        curve.threshold(1.0, 1000)


def test_a_precision_that_no_score_reaches_has_no_threshold():
    assert fit_match_curve(normal_pairs(distance=1.0)).threshold(0.9, 1000) is None


def test_stated_precision_holds_on_new_data_of_another_size():
    curve = fit_match_curve(normal_pairs(seed=1))
    for rows in (250, 1000, 4000):
        fresh = normal_pairs(queries=1500, wrong_rows=rows, seed=rows)
        for stated in (0.5, 0.7, 0.9):
            threshold = curve.threshold(stated, rows)
            at = curve.score.index(threshold.score)
            matching, wrong = measured(fresh, threshold.score)
            _, low, high = curve.precision(rows)[at]
            assert low <= matching / (matching + 2 * wrong) <= high


def test_the_interval_covers_in_nineteen_of_twenty_fits():
    """At a fixed score, over independent calibrations; the truth is a closed form."""
    normal = torch.distributions.Normal(0.0, 1.0)
    covered = 0
    for seed in range(100):
        curve = fit_match_curve(normal_pairs(queries=200, seed=seed), resamples=200)
        at = len(curve.score) // 3
        score = torch.tensor(curve.score[at])
        true = (1000 * (1 - normal.cdf(score)) / (1 - normal.cdf(score - 4))).item()
        covered += curve.wrong_low[at] <= true <= curve.wrong_high[at]
    assert covered >= 88  # four standard deviations below 95


def test_the_probability_is_the_logistic_regression_of_the_shown_pairs():
    pairs = normal_pairs()
    curve = fit_match_curve(pairs, resamples=0)
    shown = pairs.wrong[:, :10]
    matching = pairs.score[pairs.score >= shown[:, -1]]
    score = torch.cat([matching, shown.flatten()]).numpy()[:, None]
    label = np.r_[np.ones(len(matching)), np.zeros(shown.numel())]
    weight = np.where(label > 0, SHARE_WITH_MATCH, 1.0)
    reference = LogisticRegression(C=1e9, tol=1e-10).fit(score, label, weight)
    # Platt's targets are not quite 0 and 1, so that a perfect separation stays finite.
    assert curve.slope == pytest.approx(reference.coef_[0, 0], rel=0.03)
    assert curve.intercept == pytest.approx(reference.intercept_[0], rel=0.03)


def test_the_probability_of_a_perfect_separation_is_finite_and_rises_with_the_score():
    pairs = normal_pairs(distance=40.0)
    curve = fit_match_curve(pairs)
    values = [curve.probability(s, 1000) for s in (-1000.0, 0.0, 10.0, 20.0, 40.0, 1000.0)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[-1] == pytest.approx(1)


def test_probabilities_hold_on_new_data():
    curve = fit_match_curve(normal_pairs(queries=2000, seed=3))
    fresh = normal_pairs(queries=5000, seed=4)
    wrong = fresh.wrong[:, :10].flatten()
    for low, high in ((0.1, 0.3), (0.3, 0.7), (0.7, 0.95)):
        inside = [
            [low <= curve.probability(s, 1000) < high for s in scores.tolist()]
            for scores in (fresh.score, wrong)
        ]
        matching, others = sum(inside[0]) * SHARE_WITH_MATCH, sum(inside[1])
        assert low - 0.05 <= matching / (matching + others) <= high + 0.05


def test_odds_fall_in_proportion_to_the_gallery():
    curve = fit_match_curve(normal_pairs())
    for score in (2.0, 3.5, 5.0):
        p, q = curve.probability(score, 1000), curve.probability(score, 8000)
        assert p / (1 - p) == pytest.approx(8 * q / (1 - q))


@pytest.mark.parametrize("rows", [250, 1000, 8000])
def test_nine_of_ten_queries_without_a_match_are_called_so(rows):
    curve = fit_match_curve(normal_pairs(queries=2000, seed=5))
    fresh = normal_pairs(queries=1000, wrong_rows=rows, seed=rows + 1, kept=10)
    score = curve.no_match_score + curve.no_match_growth * math.log(rows / 1000)
    called = (fresh.wrong[:, 0] < score).double().mean().item()
    # The best of N normal scores grows more slowly than log N, so larger galleries err on the safe
    # side.
    assert 1 - FALSE_ALARMS - 0.03 <= called <= 0.96
    likely = (fresh.wrong[:, 0] >= curve.likely_score(rows)).double().mean().item()
    assert likely <= FALSE_ALARMS + 0.03


def test_labels_follow_the_probability():
    curve = fit_match_curve(normal_pairs())
    labels = {curve.match(s, 1000).label: s for s in np.linspace(-2, 9, 200)}
    assert list(labels) == [WEAK, POSSIBLE_MATCH, LIKELY_MATCH]
    assert curve.match(curve.likely_score(1000), 1000).probability >= 0.5


def test_queries_of_one_item_widen_the_interval():
    pairs = normal_pairs()
    together = pairs._replace(item=pairs.item // 20)
    # The same scores again for all queries of an item: twenty copies tell no more than one.
    copies = ScoredPairs(
        torch.arange(400),
        pairs.score[:20].repeat_interleave(20),
        pairs.wrong[:20].repeat_interleave(20, dim=0),
        together.item,
        pairs.wrong_rows,
    )
    alone = fit_match_curve(copies._replace(item=pairs.item))
    clustered = fit_match_curve(copies)
    at = len(alone.score) // 2
    width = [math.log(c.wrong_high[at] / c.wrong_low[at]) for c in (alone, clustered)]
    assert width[1] > 2 * width[0]


def test_too_little_data_and_reversed_scores_are_refused():
    few = normal_pairs(queries=MIN_MATCHES - 1)
    with pytest.raises(ValueError, match="19 matching pairs"):
        fit_match_curve(few)
    pairs = normal_pairs()
    with pytest.raises(ValueError, match="do not have higher scores"):
        fit_match_curve(pairs._replace(score=pairs.wrong[:, 5] - 0.1 * torch.rand(400)))


def test_a_curve_survives_json():
    curve = fit_match_curve(normal_pairs())
    assert MatchCurve.model_validate_json(curve.model_dump_json()) == curve
