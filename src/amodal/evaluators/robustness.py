"""Robustness of a fusion: every modality missing, noisy and swapped, and every subset alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from amodal.data.batch import Batch
from amodal.data.corruption import CORRUPTIONS, changer, only
from amodal.data.record import DataError, Source
from amodal.evaluators.prediction import PredictionResult, known, predict_batches, read_batches
from amodal.metrics.bootstrap import Estimate
from amodal.metrics.robustness import Robustness, item_scores, robustness_metrics
from amodal.models.fusion_model import FusionModel

RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class RobustnessReport:
    """What became of a fusion as its modalities got worse.

    Args:
        curves: corruption -> modality -> scores over rates.
        subsets: modalities that alone are there, joined by "+" -> score; all of them included.
        gates: corruption -> modality -> mean gate of that modality at each rate, where there are.
        chance: score of the best constant prediction.
        items: how many were measured.
        broken: how many records were skipped.
    """

    curves: dict[str, dict[str, Robustness]]
    subsets: dict[str, Estimate]
    gates: dict[str, dict[str, list[float]]]
    chance: float
    items: int
    broken: int

    def metrics(self) -> dict[str, float]:
        """Flat `robustness/…` figures."""
        flat: dict[str, float] = {"robustness/chance": self.chance}
        for names, estimate in self.subsets.items():
            flat |= _flat(f"robustness/only/{names}", estimate)
        for kind, by_modality in self.curves.items():
            for modality, curve in by_modality.items():
                name = f"robustness/{kind}/{modality}"
                for rate, score in zip(curve.rates, curve.scores, strict=True):
                    flat |= _flat(f"{name}/{round(100 * rate)}", score)
                flat |= _flat(f"{name}/area", curve.area)
                flat |= _flat(f"{name}/relative", curve.relative)
                flat |= _flat(f"{name}/effective", curve.effective)
        for kind, gates in self.gates.items():
            for modality, values in gates.items():
                for rate, value in zip(RATES, values, strict=True):
                    flat[f"gates/{kind}/{modality}/{round(100 * rate)}"] = value
        return flat


def measure_robustness(
    model: FusionModel,
    source: Source,
    rows: Sequence[int],
    *,
    rates: tuple[float, ...] = RATES,
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    tick: Callable[[int], None] | None = None,
) -> RobustnessReport:
    """Predict the rows once for every modality, corruption and rate, and once for every subset.

    Args:
        model: the fusion.
        source: records with the target.
        rows: row numbers; all batches of them are kept in memory.
        rates: of corruption, ascending from 0 to 1.
        bootstrap: resamples of the intervals.
        seed: of what is corrupted; items that a rate hits are hit by every higher one too.
        tick: called with the number of passes done, see `passes`.

    Raises:
        DataError: no record has the target.
    """
    reader = read_batches(model, source, rows)
    batches = [reader[i] for i in range(len(reader))]
    done = 0

    def scored(change: Callable[[Batch], Batch]) -> tuple[Tensor, float, PredictionResult]:
        nonlocal done
        predicted = predict_batches(
            model, batches, where=source.name, change=change, autocast=autocast
        )
        there = known(predicted.target)
        if not bool(there.any()):
            raise DataError(f"{source.name}: no record has a value in {model.target.column!r}")
        done += 1
        if tick is not None:
            tick(done)
        values, chance = item_scores(
            predicted.logits[there], predicted.target[there], model.target.task
        )
        return values, chance, predicted

    clean, chance, predicted = scored(lambda batch: batch)
    subsets = {}
    for size in range(len(model.modalities), 0, -1):
        for kept in combinations(model.modalities, size):
            whole = size == len(model.modalities)
            values = clean if whole else scored(lambda batch, kept=kept: only(batch, kept))[0]  # type: ignore[misc]
            subsets["+".join(kept)] = _mean(values, bootstrap, seed)
    curves: dict[str, dict[str, Robustness]] = {}
    gates: dict[str, dict[str, list[float]]] = {}
    for kind in CORRUPTIONS:
        curves[kind] = {}
        for place, modality in enumerate(model.modalities):
            lines, found = [clean], [_mean_gate(predicted, place)]
            for rate in rates[1:]:
                values, _, said = scored(changer(modality, kind, rate, seed))
                lines.append(values)
                found.append(_mean_gate(said, place))
            curves[kind][modality] = robustness_metrics(
                rates, torch.stack(lines), chance, bootstrap=bootstrap, seed=seed
            )
            if predicted.gates is not None:
                gates.setdefault(kind, {})[modality] = [g for g in found if g is not None]
    return RobustnessReport(
        curves, subsets, gates, chance, len(clean), sum(len(b.broken) for b in batches)
    )


def passes(model: FusionModel, rates: tuple[float, ...] = RATES) -> int:
    """How often `measure_robustness` predicts all rows."""
    count = len(model.modalities)
    return 1 + (2**count - 2) + count * len(CORRUPTIONS) * (len(rates) - 1)


def _mean_gate(predicted: PredictionResult, place: int) -> float | None:
    return None if predicted.gates is None else float(predicted.gates[:, place].mean())


def _mean(values: Tensor, bootstrap: int, seed: int) -> Estimate:
    """The mean, with its interval from the same resampling as the curves have."""
    whole = robustness_metrics(
        (0.0, 1.0), torch.stack([values, values]), 0.0, bootstrap=bootstrap, seed=seed
    )
    return whole.scores[0]


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    if estimate.low != estimate.low:
        return {name: estimate.value}
    return {name: estimate.value, f"{name}/low": estimate.low, f"{name}/high": estimate.high}
