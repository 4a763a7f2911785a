"""Match curves against brute force, known distributions and galleries of other sizes."""

import math

import numpy as np
import pytest
import torch

from amodal.metrics.match_threshold import (
    FALSE_ALARMS,
    LIKELY_MATCH,
    MIN_MATCHES,
    POSSIBLE_MATCH,
    SHARE_WITH_MATCH,
    WEAK,
    MatchCurve,
    PairsAbove,
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
        torch.from_numpy(rng.integers(queries, size=wrong.shape)),
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
    found = score_pairs(
        query, gallery, query_item, gallery_item, lambda part: match[part], kept=kept
    )
    rows = [i for i in range(30) if match[i].any()]
    assert 20 < len(rows) < 30  # some queries have no match and are left out
    scores = query @ gallery.T
    for place, i in enumerate(rows):
        wrong = sorted(scores[i][~match[i]].tolist(), reverse=True)[:kept]
        np.testing.assert_allclose(found.wrong[place, : len(wrong)], wrong, atol=1e-12)
        matching = found.score[found.query == place]
        np.testing.assert_allclose(sorted(matching), sorted(scores[i][match[i]]), atol=1e-12)
        assert found.item[place] == query_item[i]
        best = np.where(match[i], -2, scores[i]).argmax()
        assert found.wrong_item[place, 0] == gallery_item[best]
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
        curve = fit_match_curve(normal_pairs(queries=200, seed=seed, kept=30), resamples=100)
        at = len(curve.score) // 3
        score = torch.tensor(curve.score[at])
        true = (1000 * (1 - normal.cdf(score)) / (1 - normal.cdf(score - 4))).item()
        covered += curve.wrong_low[at] <= true <= curve.wrong_high[at]
    assert covered >= 88  # four standard deviations below 95


def test_the_log_odds_are_isotonic_and_near_the_closed_form():
    """Of two normal distributions the log odds rise by their distance for each unit of score."""
    pairs = normal_pairs(queries=4000)
    curve = fit_match_curve(pairs, resamples=0)
    assert curve.odds_score == sorted(curve.odds_score)
    assert curve.log_odds == sorted(curve.log_odds)
    for score in (2.5, 3.0, 3.5):
        true = 4 * score - 8 + math.log(SHARE_WITH_MATCH / 1000)
        p = curve.probability(score, 1000)
        assert math.log(p / (1 - p)) == pytest.approx(true, abs=0.4)


def test_the_highest_bin_counts_by_hand():
    pairs = normal_pairs(queries=60)  # 3 bins of 20 matches
    curve = fit_match_curve(pairs, resamples=0)
    shown = pairs.wrong[:, :10]
    matching = pairs.score[pairs.score >= shown[:, -1]]
    count = len(matching) // MIN_MATCHES
    edge = torch.quantile(matching, (count - 1) / count)
    right, wrong = int((matching >= edge).sum()), int((shown >= edge).sum())
    want = math.log((0.5 * right + 0.25) / (wrong + 0.5))
    assert curve.log_odds[-1] == pytest.approx(want)


def test_the_probability_of_a_perfect_separation_is_finite_and_rises_with_the_score():
    pairs = normal_pairs(distance=40.0)
    curve = fit_match_curve(pairs)
    values = [curve.probability(s, 1000) for s in (-1000.0, 0.0, 10.0, 20.0, 40.0, 1000.0)]
    assert values == sorted(values)
    assert values[0] < 0.01
    assert 0.9 < values[-1] < 1  # 20 matches in a bin do not make it certain


def test_a_match_that_no_score_makes_likely_is_never_called_so():
    curve = fit_match_curve(normal_pairs(distance=1.0))
    assert curve.likely_score(1000) == math.inf
    assert curve.match(100.0, 1000).label != LIKELY_MATCH


def test_probabilities_hold_on_new_data():
    curve = fit_match_curve(normal_pairs(queries=2000, seed=3), resamples=0)
    fresh = normal_pairs(queries=3000, seed=4, kept=10)
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
    curve = fit_match_curve(normal_pairs(queries=2000, seed=5), resamples=0)
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
    # The same scores again for all queries of an item: twenty copies tell no more than one.
    copies = pairs._replace(
        score=pairs.score[:20].repeat_interleave(20),
        wrong=pairs.wrong[:20].repeat_interleave(20, dim=0),
    )
    clustered = fit_match_curve(copies._replace(item=pairs.item // 20))
    assert relative_width(clustered) > 1.5 * relative_width(fit_match_curve(copies))


def test_a_row_that_is_wrong_for_many_queries_widens_the_interval():
    pairs = normal_pairs()
    hub = pairs._replace(wrong_item=torch.full_like(pairs.wrong_item, 7))
    assert relative_width(fit_match_curve(hub)) > 1.5 * relative_width(fit_match_curve(pairs))


def test_the_bootstrap_weighs_pairs_by_both_of_their_items():
    pairs = normal_pairs(queries=30, wrong_rows=50, kept=50)
    knots = pairs.score.sort().values[:5].unique()
    keys = torch.cat([pairs.item, pairs.wrong_item.flatten()])
    times = torch.arange(30, dtype=torch.float64) % 3
    matching, wrong = PairsAbove(pairs, knots, keys).counts(times)
    for t, knot in enumerate(knots):
        right = sum(times[i] for i in range(30) if pairs.score[i] >= knot)
        other = sum(
            times[i] * times[int(pairs.wrong_item[i, j])]
            for i in range(30)
            for j in range(50)
            if pairs.wrong[i, j] >= knot
        )
        assert (matching[t], wrong[t]) == (right, other)


def relative_width(curve):
    return math.log(curve.wrong_high[1] / curve.wrong_low[1])  # of many wrong rows


def test_too_little_data_is_refused():
    with pytest.raises(ValueError, match="19 items have a match"):
        fit_match_curve(normal_pairs(queries=MIN_MATCHES - 1))


def test_scores_that_say_nothing_make_no_match_likely():
    curve = fit_match_curve(normal_pairs(distance=0.0))
    assert curve.likely_score(1000) == math.inf
    assert all(curve.probability(s, 1000) < 0.05 for s in np.linspace(-5, 5, 50))
    assert curve.threshold(0.5, 1000) is None


def test_a_curve_survives_json():
    curve = fit_match_curve(normal_pairs())
    assert MatchCurve.model_validate_json(curve.model_dump_json()) == curve
