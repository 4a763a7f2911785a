"""A power law through scores of models that were trained on parts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amodal.metrics.bootstrap import Estimate

LEAST_ERROR = 1e-6  # of a score that is 1, whose logarithm is not finite
TO_DEVIATION = 2 * 1.959964  # width of a 95 % interval in standard deviations


class PowerLaw(NamedTuple):
    """error(n) = scale * n ** -exponent, with the fits of redrawn scores for its intervals.

    Args:
        scale: error of a single item.
        exponent: how fast the error falls; 0: not at all.
        drawn: (S, 2) scale and exponent of every redrawn fit.
    """

    scale: float
    exponent: float
    drawn: np.ndarray

    def score(self, items: float) -> Estimate:
        """Score at a number of items, with its 95 % interval."""
        drawn = 1 - self.drawn[:, 0] * items ** -self.drawn[:, 1]
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
        return Estimate(1 - self.scale * items**-self.exponent, float(low), float(high))

    @property
    def more_data_helps(self) -> bool:
        """Whether the 95 % interval of the exponent lies above 0."""
        return len(self.drawn) > 0 and float(np.quantile(self.drawn[:, 1], 0.025)) > 0


def fit_power_law(
    items: Sequence[float], scores: Sequence[Estimate], *, draws: int = 2000, seed: int = 0
) -> PowerLaw:
    """Least-squares line through log error against log number of items.

    The intervals come from scores that are drawn again from normal distributions with the widths
    of their own intervals: they hold the noise of the evaluation, not that of training.

    Args:
        items: numbers of training items, at least two different ones.
        scores: shares from 0 to 1, one for each.
        draws: redrawn fits, for scores with intervals.
        seed: of the draws.

    Raises:
        ValueError: fewer than two numbers of items, or a score that is no share.

    References:
        Hestness et al. 2017, arXiv:1712.00409 (error falls as a power of the number of items).

    Examples:
        >>> from amodal.metrics import Estimate, fit_power_law
        >>> law = fit_power_law([100, 400], [Estimate(0.2), Estimate(0.6)])
        >>> round(law.exponent, 3), round(law.score(1600).value, 3)
        (0.5, 0.8)
    """
    if len(items) != len(scores) or len(set(items)) < 2:
        raise ValueError(f"a curve needs scores at two numbers of items or more, got {items}")
    values = np.array([score.value for score in scores], np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"expected scores from 0 to 1, got {values.tolist()}")
    widths = np.array([score.high - score.low for score in scores], np.float64)
    log_items = np.log(np.asarray(items, np.float64))
    known = np.isfinite(widths).all()
    noise = np.random.default_rng(seed).normal(size=(draws if known else 0, len(values)))
    redrawn = values + noise * np.where(known, widths / TO_DEVIATION, 0)
    fits = _lines(log_items, np.vstack([values, redrawn]))
    return PowerLaw(float(fits[0, 0]), float(fits[0, 1]), fits[1:])


def _lines(log_items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(S, 2) scale and exponent of the line through each of (S, P) rows of scores."""
    log_error = np.log(np.clip(1 - scores, LEAST_ERROR, None))
    centred = log_items - log_items.mean()
    slope = log_error @ centred / (centred**2).sum()
    intercept = log_error.mean(1) - slope * log_items.mean()
    return np.stack([np.exp(intercept), -slope], 1)
