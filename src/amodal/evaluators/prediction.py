"""What a fusion model says of a whole source, and how right that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

import amodal.metrics.prediction as figures
from amodal.data.batch import Batch
from amodal.data.collate import Collator
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, DataError, Record, Source
from amodal.data.samplers import Draw
from amodal.metrics.bootstrap import flatten
from amodal.models.fusion_model import FusionModel
from amodal.models.target import TargetConfig

SCORES = {"classification": "accuracy", "multi_label": "mean_average_precision", "regression": "r2"}


@dataclass(frozen=True)
class PredictionResult:
    """Predictions of a source, on the CPU in float32.

    Args:
        logits: (N, C) scores of the classes, or (N, 1) numbers in the units of the column.
        target: (N,) or (N, C), as `TargetConfig.encode` gives it.
        unimodal: modality -> (N, C) what it alone says.
        present: modality -> (N,) bool.
        gates: (N, M) how much each modality counted, where the fusion has gates.
        items: (N,) keys of the items.
        broken: the records that were skipped.
        truncated: modality -> rows cut to the encoder's maximum length.
    """

    logits: Tensor
    target: Tensor
    unimodal: dict[str, Tensor]
    present: dict[str, Tensor]
    gates: Tensor | None
    items: Tensor
    broken: tuple[BrokenRecordError, ...] = ()
    truncated: dict[str, int] = field(default_factory=dict)


class _WithoutTarget:
    """Leaves out what is to be predicted, for records that do not have it."""

    def __init__(self, target: TargetConfig) -> None:
        self.target = target

    def read(self, record: Record) -> None:
        return None

    def encode(self, values: Sequence[object | None]) -> Tensor:
        return self.target.encode([None] * len(values))


@torch.inference_mode()
def predict_items(
    model: FusionModel,
    source: Source,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 128,
    with_target: bool = True,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    tick: Callable[[int], None] | None = None,
) -> PredictionResult:
    """Predict the given rows of a source.

    Args:
        model: used in evaluation mode; its mode is restored.
        items: row numbers; None means all.
        batch_size: items at once.
        with_target: read the truth too; a record whose truth is no value of the column is broken.
        autocast: context of the forward passes.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: not one usable record.
    """
    rows = list(items) if items is not None else list(range(len(source)))
    batches = read_batches(
        model, source, rows, batch_size=batch_size, with_target=with_target, tick=tick
    )
    return predict_batches(model, batches, where=source.name, autocast=autocast)


def read_batches(
    model: FusionModel,
    source: Source,
    rows: Sequence[int],
    *,
    batch_size: int = 128,
    with_target: bool = True,
    tick: Callable[[int], None] | None = None,
) -> BatchesOf:
    """The batches of some rows of a source, read when they are iterated."""
    target = model.target if with_target else _WithoutTarget(model.target)
    reader = BatchReader(source, Collator(model.preprocessors, target=target), seed=0)
    return BatchesOf(reader, rows, batch_size, tick)


class BatchesOf:
    """Batches of the rows of a reader, each read when its turn comes."""

    def __init__(
        self,
        reader: BatchReader,
        rows: Sequence[int],
        batch_size: int,
        tick: Callable[[int], None] | None,
    ) -> None:
        self.reader, self.rows, self.batch_size, self.tick = reader, rows, batch_size, tick

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.batch_size
        draws = [Draw(0, row) for row in self.rows[start : start + self.batch_size]]
        batch = self.reader.__getitems__(draws)
        if self.tick is not None:
            self.tick(start + len(draws))
        return batch


@torch.inference_mode()
def predict_batches(
    model: FusionModel,
    batches: Sequence[Batch] | BatchesOf,
    *,
    where: str,
    change: Callable[[Batch], Batch] = lambda batch: batch,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> PredictionResult:
    """Predict batches, each changed before, for example by taking a modality away.

    Raises:
        DataError: not one usable record; `where` says of what.
    """
    was_training = model.training
    model.eval()
    parts: list[PredictionResult] = []
    broken: list[BrokenRecordError] = []
    truncated: dict[str, int] = {}
    for i in range(len(batches)):
        batch = batches[i]
        broken += batch.broken
        for modality, count in batch.truncated.items():
            truncated[modality] = truncated.get(modality, 0) + count
        if len(batch):
            with autocast():
                said = model(change(batch).to(model.device))
            assert batch.target is not None
            parts.append(
                PredictionResult(
                    said.logits.float().cpu(),
                    batch.target,
                    {m: x.float().cpu() for m, x in said.unimodal.items()},
                    {m: x.cpu() for m, x in said.present.items()},
                    said.gates.float().cpu() if said.gates is not None else None,
                    batch.item,
                )
            )
    model.train(was_training)
    if not parts:
        first = f"; the first: {broken[0]}" if broken else ""
        raise DataError(f"{where}: no record can be used{first}")
    gates = [part.gates for part in parts if part.gates is not None]
    return PredictionResult(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.target for part in parts]),
        {m: torch.cat([part.unimodal[m] for part in parts]) for m in parts[0].unimodal},
        {m: torch.cat([part.present[m] for part in parts]) for m in parts[0].present},
        torch.cat(gates) if gates else None,
        torch.cat([part.items for part in parts]),
        tuple(broken),
        truncated,
    )


def prediction_metrics(
    predicted: PredictionResult, target: TargetConfig, *, bootstrap: int = 0, seed: int = 0
) -> dict[str, float]:
    """Flat `prediction/metric` of the fused head, `prediction/MODALITY_alone/metric` of the others.

    Raises:
        DataError: no record has the column that is predicted.
    """
    found = _figures(predicted.logits, predicted.target, target, bootstrap, seed)
    metrics = {f"prediction/{name}": value for name, value in found.items()}
    for modality, logits in predicted.unimodal.items():
        there = predicted.present[modality]
        if not bool((there & known(predicted.target)).any()):
            continue
        own = _figures(logits[there], predicted.target[there], target, 0, seed)
        metrics |= {f"prediction/{modality}_alone/{name}": value for name, value in own.items()}
    return metrics


def score_name(target: TargetConfig) -> str:
    """The figure that picks the best weights: more is better."""
    return SCORES[target.task]


def known(target: Tensor) -> Tensor:
    """(N,) bool: whose truth is known."""
    if not target.is_floating_point():
        return target >= 0
    return ~target.isnan().reshape(len(target), -1).any(1)


def _figures(
    logits: Tensor, truth: Tensor, target: TargetConfig, bootstrap: int, seed: int
) -> dict[str, float]:
    if not bool(known(truth).any()):
        raise DataError(f"no record has a value in column {target.column!r}, which is predicted")
    measure = {
        "classification": figures.classification_metrics,
        "multi_label": figures.multi_label_metrics,
        "regression": figures.regression_metrics,
    }[target.task]
    return flatten(measure(logits, truth, bootstrap=bootstrap, seed=seed))
