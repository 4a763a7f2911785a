"""Power laws through scores against exact laws and numpy's line."""

import numpy as np
import pytest

from amodal.metrics.bootstrap import Estimate
from amodal.metrics.learning_curve import fit_power_law

ITEMS = (250, 500, 1000)


def exact(scale=3.0, exponent=0.3, width=0.02):
    scores = [1 - scale * n**-exponent for n in ITEMS]
    return [Estimate(s, s - width / 2, s + width / 2) for s in scores]


def test_an_exact_law_is_found_and_extrapolated():
    law = fit_power_law(ITEMS, exact())
    assert (law.scale, law.exponent) == pytest.approx((3.0, 0.3))
    found = law.score(4000)
    assert found.value == pytest.approx(1 - 3 * 4000**-0.3)
    assert found.low < found.value < found.high
    assert law.more_data_helps


def test_the_line_is_that_of_least_squares():
    scores = [Estimate(s) for s in (0.1, 0.3, 0.35)]
    law = fit_power_law(ITEMS, scores)
    slope, intercept = np.polyfit(np.log(ITEMS), np.log([0.9, 0.7, 0.65]), 1)
    assert (law.scale, law.exponent) == pytest.approx((np.exp(intercept), -slope))
    assert np.isnan(law.score(2000).low)  # scores without intervals give none
    assert not law.more_data_helps


def test_wide_intervals_do_not_show_that_more_data_helps():
    assert not fit_power_law(ITEMS, exact(exponent=0.01, scale=0.9, width=0.1)).more_data_helps


def test_the_interval_has_the_width_of_the_noise():
    """For two points, the score at the second is that of the second point alone."""
    scores = [Estimate(0.2, 0.1, 0.3), Estimate(0.6, 0.5, 0.7)]
    found = fit_power_law((100, 400), scores, draws=20_000).score(400)
    assert (found.low, found.high) == pytest.approx((0.5, 0.7), abs=0.01)


def test_perfect_scores_stay_finite_and_wrong_ones_are_refused():
    assert np.isfinite(fit_power_law((1, 2), [Estimate(1.0), Estimate(1.0)]).score(4).value)
    with pytest.raises(ValueError, match="from 0 to 1"):
        fit_power_law((1, 2), [Estimate(1.0), Estimate(20.0)])
    with pytest.raises(ValueError, match="two numbers of items"):
        fit_power_law((5, 5), [Estimate(0.1), Estimate(0.2)])
