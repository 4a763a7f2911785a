"""Robustness of a fusion model: every input missing, noisy and swapped, and every subset alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from amodal.data.batch import Batch
from amodal.data.corruption import CORRUPTIONS, changer, only
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.evaluators.loop import Autocast, Tick
from amodal.evaluators.prediction import PredictionResult, known, predict_batches, read_batches
from amodal.metrics.bootstrap import Estimate
from amodal.metrics.robustness import RobustnessCurve, item_scores, robustness_metrics
from amodal.models.fusion_model import FusionModel
from amodal.models.target import TargetConfig

RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class RobustnessResult:
    """Scores of a fusion model as its inputs are corrupted.

    Args:
        target: what is predicted.
        curves: corruption -> input -> scores over rates.
        subsets: inputs that alone are present, joined by "+" -> score; all of them included.
        gates: corruption -> input -> mean gate of that input at each rate, where there are gates.
        chance: score of the best constant prediction.
        items: number of items with a known target.
        broken: records that were skipped.
    """

    target: TargetConfig
    curves: dict[str, dict[str, RobustnessCurve]]
    subsets: dict[str, Estimate]
    gates: dict[str, dict[str, list[float]]]
    chance: float
    items: int
    broken: tuple[BrokenRecordError, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Flat `robustness/…` and `gates/…` values."""
        flat: dict[str, float] = {"robustness/chance": self.chance}
        for names, estimate in self.subsets.items():
            flat |= _flat(f"robustness/only/{names}", estimate)
        for kind, by_input in self.curves.items():
            for one, curve in by_input.items():
                name = f"robustness/{kind}/{one}"
                for rate, score in zip(curve.rates, curve.scores, strict=True):
                    flat |= _flat(f"{name}/{round(100 * rate)}", score)
                flat |= _flat(f"{name}/area", curve.area)
                flat |= _flat(f"{name}/relative", curve.relative)
                flat |= _flat(f"{name}/effective", curve.effective)
        for kind, gates in self.gates.items():
            for one, values in gates.items():
                for rate, value in zip(RATES, values, strict=True):
                    flat[f"gates/{kind}/{one}/{round(100 * rate)}"] = value
        return flat


def evaluate_robustness(
    model: FusionModel,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    rates: tuple[float, ...] = RATES,
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> RobustnessResult:
    """Scores for every input, corruption and rate, and for every subset of the inputs.

    Args:
        source: records with the target.
        items: row numbers, None means all; all batches of them are kept in memory.
        rates: of corruption, ascending from 0 to 1.
        bootstrap: resamples of the intervals; 0 leaves them out.
        seed: of what is corrupted; items that a rate hits are hit by every higher one too.
        tick: called with the number of items done, as if each were done once in all passes.

    Raises:
        DataError: no record has the target.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_robustness
        >>> from amodal.models import build_fusion_model
        >>> from amodal.models.fusion_model import FusionArchitecture
        >>> source = parse_source("scenes:size=4,image_size=32").open()
        >>> architecture = FusionArchitecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     fusion={"kind": "concat"},
        ... )
        >>> model = build_fusion_model(architecture, lambda: iter(source))
        >>> metrics = evaluate_robustness(model, source, rates=(0.0, 1.0), bootstrap=0).metrics
        >>> without_image = metrics["robustness/missing/image/100"]  # missing in 100 % of the items
        >>> without_image == metrics["robustness/only/text"]
        True
    """
    reading = read_batches(model, source, items=items)
    batches = list(reading)
    if not batches:
        raise reading.nothing_usable("no record can be used")
    done, passes = 0, _passes(model, rates)

    def scored(change: Callable[[Batch], Batch]) -> tuple[Tensor, float, PredictionResult]:
        nonlocal done
        predicted = predict_batches(model, batches, change=change, autocast=autocast)
        with_target = known(predicted.target)
        if not bool(with_target.any()):
            raise DataError(f"{source.name}: no record has a value in {model.target.column!r}")
        done += 1
        if tick is not None:
            tick(round(len(reading.items) * done / passes))
        values, chance = item_scores(
            predicted.logits[with_target], predicted.target[with_target], model.target.task
        )
        return values, chance, predicted

    clean, chance, predicted = scored(lambda batch: batch)
    subsets = {}
    for size in range(len(model.inputs), 0, -1):
        for kept in combinations(model.inputs, size):
            whole = size == len(model.inputs)
            values = clean if whole else scored(lambda batch, kept=kept: only(batch, kept))[0]  # type: ignore[misc]
            subsets["+".join(kept)] = _mean(values, bootstrap, seed)
    curves: dict[str, dict[str, RobustnessCurve]] = {}
    gates: dict[str, dict[str, list[float]]] = {}
    for kind in CORRUPTIONS:
        curves[kind] = {}
        for place, name in enumerate(model.inputs):
            lines, mean_gates = [clean], [_mean_gate(predicted, place)]
            for rate in rates[1:]:
                values, _, corrupted = scored(changer(name, kind, rate, seed))
                lines.append(values)
                mean_gates.append(_mean_gate(corrupted, place))
            curves[kind][name] = robustness_metrics(
                rates, torch.stack(lines), chance, bootstrap=bootstrap, seed=seed
            )
            if predicted.gates is not None:
                gates.setdefault(kind, {})[name] = [g for g in mean_gates if g is not None]
    return RobustnessResult(
        model.target, curves, subsets, gates, chance, len(clean), tuple(reading.broken)
    )


def _passes(model: FusionModel, rates: tuple[float, ...]) -> int:
    """Number of passes over the rows that `evaluate_robustness` makes."""
    count = len(model.inputs)
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
