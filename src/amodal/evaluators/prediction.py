"""Predictions of a fusion model for a whole source, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import amodal.metrics.prediction as head_metrics
from amodal.data.batch import Batch
from amodal.data.record import BrokenRecordError, DataError, Record, Source
from amodal.evaluators.interpretation import CONSTANT
from amodal.evaluators.loop import Autocast, EvaluationBatches, Tick, evaluation_batches
from amodal.metrics.bootstrap import flatten
from amodal.models.evaluation_mode import evaluation_mode
from amodal.models.fusion_model import FusionModel
from amodal.models.inputs import collator_of
from amodal.models.target import TargetConfig

SCORES = {"classification": "accuracy", "multi_label": "mean_average_precision", "regression": "r2"}
# The metric of the best constant prediction that a sentence compares with, by task.
COMPARED = {
    "classification": "accuracy",
    "multi_label": "mean_average_precision",
    "regression": "mae",
}
BATCH_SIZE = 128


@dataclass(frozen=True)
class PredictionResult:
    """Predictions for a source, on the CPU in float32.

    Args:
        logits: (N, C) scores of the classes, or (N, 1) numbers in the units of the column.
        target: (N,) or (N, C), as `TargetConfig.encode` gives it.
        unimodal: input -> (N, C) scores of the head on that input alone.
        present: input -> (N,) bool.
        gates: (N, M) weight of each input, where the fusion has gates.
        item: (N,) keys of the items.
        broken: the records that were skipped.
        truncated: input -> rows cut to the encoder's maximum length.
        metrics: flat `prediction/…` values; empty before they are computed.
    """

    logits: Tensor
    target: Tensor
    unimodal: dict[str, Tensor]
    present: dict[str, Tensor]
    gates: Tensor | None
    item: Tensor
    broken: tuple[BrokenRecordError, ...] = ()
    truncated: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return len(self.item)


class _WithoutTarget:
    """Leaves the target out, for records that do not have it."""

    def __init__(self, target: TargetConfig) -> None:
        self.target = target

    def read(self, record: Record) -> None:
        return None

    def encode(self, values: Sequence[object | None]) -> Tensor:
        return self.target.encode([None] * len(values))


def evaluate_prediction(
    model: FusionModel,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> PredictionResult:
    """Accuracy, average precision or error of the fused prediction and of each input alone.

    Args:
        items: row numbers; None means all.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one usable record, or none with the target column.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_prediction
        >>> from amodal.models import build_fusion_model
        >>> from amodal.models.fusion_model import FusionArchitecture
        >>> source = parse_source("scenes:size=8").open()
        >>> architecture = FusionArchitecture(
        ...     encoders={"image": {"kind": "small_cnn"}, "text": {"kind": "small_transformer"}},
        ...     fusion={"kind": "concat"},
        ... )
        >>> model = build_fusion_model(architecture, lambda: iter(source))
        >>> result = evaluate_prediction(model, source, bootstrap=0)
        >>> model.target.classes, result.logits.shape
        (('circle', 'cross', 'heart', 'ring', 'star'), torch.Size([8, 5]))
        >>> [name for name in result.metrics if name.endswith("accuracy")][:2]
        ['prediction/accuracy', 'prediction/balanced_accuracy']
    """
    predicted = predict_items(model, source, items=items, autocast=autocast, tick=tick)
    metrics = prediction_metrics(predicted, model.target, bootstrap=bootstrap, seed=seed)
    return replace(predicted, metrics=metrics | constant_metrics(predicted.target, model.target))


def predict_items(
    model: FusionModel,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    with_target: bool = True,
    change: Callable[[Batch], Batch] = lambda batch: batch,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> PredictionResult:
    """Predict the given rows of a source.

    Args:
        items: row numbers; None means all.
        batch_size: items at once.
        with_target: read the target too; a record whose target is no value of the column is
            broken.
        change: of every batch before it is predicted, such as an input taken away.
        autocast: context of the forward passes.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one usable record.
    """
    target = model.target if with_target else _WithoutTarget(model.target)
    with evaluation_batches(
        model,
        source,
        collator_of(model, target=target),
        items=items,
        batch_size=batch_size,
        tick=tick,
    ) as batches:
        parts = _predictions(model, batches, change, autocast)
    if not parts:
        raise batches.nothing_usable("no record can be used")
    return replace(_concatenated(parts), broken=tuple(batches.broken), truncated=batches.truncated)


def read_batches(
    model: FusionModel,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    tick: Tick | None = None,
) -> EvaluationBatches:
    """Batches of a source with their target, to be changed and predicted several times."""
    # Noise belongs on values, not on the features of a cache.
    collator = collator_of(model, target=model.target, cached=False)
    return EvaluationBatches(source, collator, items=items, batch_size=batch_size, tick=tick)


def predict_batches(
    model: FusionModel,
    batches: Iterable[Batch],
    *,
    change: Callable[[Batch], Batch] = lambda batch: batch,
    autocast: Autocast = nullcontext,
) -> PredictionResult:
    """Predict batches that are already in memory, each changed before; see `predict_items`.

    Raises:
        DataError: no batch holds a usable record.
    """
    with torch.inference_mode(), evaluation_mode(model):
        parts = _predictions(model, batches, change, autocast)
    if not parts:
        raise DataError("no record can be used")
    return _concatenated(parts)


def _predictions(
    model: FusionModel,
    batches: Iterable[Batch],
    change: Callable[[Batch], Batch],
    autocast: Autocast,
) -> list[PredictionResult]:
    parts = []
    for batch in batches:
        if not len(batch):
            continue
        with autocast():
            predicted = model(change(batch).to(model.device))
        assert batch.target is not None
        parts.append(
            PredictionResult(
                predicted.logits.float().cpu(),
                batch.target,
                {m: x.float().cpu() for m, x in predicted.unimodal.items()},
                {m: x.cpu() for m, x in predicted.present.items()},
                predicted.gates.float().cpu() if predicted.gates is not None else None,
                batch.item,
            )
        )
    return parts


def _concatenated(parts: Sequence[PredictionResult]) -> PredictionResult:
    gates = [part.gates for part in parts if part.gates is not None]
    return PredictionResult(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.target for part in parts]),
        {m: torch.cat([part.unimodal[m] for part in parts]) for m in parts[0].unimodal},
        {m: torch.cat([part.present[m] for part in parts]) for m in parts[0].present},
        torch.cat(gates) if gates else None,
        torch.cat([part.item for part in parts]),
    )


def prediction_metrics(
    predicted: PredictionResult, target: TargetConfig, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, float]:
    """Flat `prediction/METRIC` of the fused head, `prediction/INPUT_only/METRIC` of the others.

    Raises:
        DataError: no record has the column that is predicted.
    """
    fused = _head_metrics(predicted.logits, predicted.target, target, bootstrap, seed)
    metrics = {f"prediction/{name}": value for name, value in fused.items()}
    for name, logits in predicted.unimodal.items():
        there = predicted.present[name]
        if not bool((there & known(predicted.target)).any()):
            continue
        own = _head_metrics(logits[there], predicted.target[there], target, 0, seed)
        metrics |= {f"prediction/{name}_only/{key}": value for key, value in own.items()}
    return metrics


def constant_metrics(values: Tensor, target: TargetConfig) -> dict[str, float]:
    """Flat `constant/prediction/METRIC` of the most frequent class, or of the mean, for every item.

    Args:
        values: (N,) or (N, C), as `TargetConfig.encode` gives it; one or more of them known.
        target: the column that is predicted.
    """
    values = values[known(values)]
    constant = (
        values.bincount(minlength=len(target.classes)).float()
        if target.task == "classification"
        else values.mean(0).reshape(-1)
    )
    found = _head_metrics(constant.expand(len(values), -1), values, target, 0, 0)
    name = COMPARED[target.task]
    return {f"{CONSTANT}/prediction/{name}": found[name]}


def score_name(target: TargetConfig) -> str:
    """The metric that picks the best weights: more is better."""
    return SCORES[target.task]


def known(target: Tensor) -> Tensor:
    """(N,) bool: True where the target is known."""
    if not target.is_floating_point():
        return target >= 0
    return ~target.isnan().reshape(len(target), -1).any(1)


def _head_metrics(
    logits: Tensor, values: Tensor, target: TargetConfig, bootstrap: int, seed: int
) -> dict[str, float]:
    if not bool(known(values).any()):
        raise DataError(f"no record has a value in column {target.column!r}, which is predicted")
    measure = {
        "classification": head_metrics.classification_metrics,
        "multi_label": head_metrics.multi_label_metrics,
        "regression": head_metrics.regression_metrics,
    }[target.task]
    return flatten(measure(logits, values, bootstrap=bootstrap, seed=seed))
