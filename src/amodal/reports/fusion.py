"""The page of a run that predicts: figures, curves, confusions, examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.data.batch import key64
from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, Record, Source
from amodal.evaluators.prediction import PredictionResult, known, score_name
from amodal.models.fusion_model import FusionModel
from amodal.models.target import TargetConfig
from amodal.reports.frame import framed, read_log, with_intervals
from amodal.reports.plots import score_curve
from amodal.reports.prediction_plots import bars_figure, confusion_figure, scatter_figure
from amodal.reports.report import Example, Image, Metric, Plot, Report
from amodal.training.recipe import Recipe
from amodal.training.run import RunResult

SHOWN = 12  # examples
LONGEST = 120  # characters of a line


def fusion_report(
    result: RunResult,
    recipe: Recipe,
    source: Source | None,
    *,
    title: str,
    commands: Sequence[str] = (),
) -> Report:
    """What the page of a run that predicts shows.

    Args:
        result: a run that went to its end.
        recipe: what it was trained with.
        source: the validation source, whose items are shown.
        title: heading of the page.
        commands: what to try next.
    """
    model = result.model
    assert isinstance(model, FusionModel)
    predicted = result.validation if isinstance(result.validation, PredictionResult) else None
    return framed(
        result,
        recipe,
        title=title,
        summary=_summary(result, model, predicted),
        metrics=_metrics(result.metrics, model.target, predicted),
        commands=commands,
        plots=_plots(result, model, predicted, read_log(result.folder)),
        examples=_examples(model, predicted, source) if predicted and source is not None else (),
    )


def majority_share(predicted: PredictionResult) -> float | None:
    """Accuracy of always saying the most frequent class; None where no class is predicted."""
    target = predicted.target
    if target.is_floating_point() or not bool((target >= 0).any()):
        return None
    counts = target[target >= 0].bincount()
    return float(counts.max() / counts.sum())


def answer(logits: Tensor, target: TargetConfig) -> str:
    """What (C,) scores say, in words."""
    if target.task == "regression":
        return f"{float(logits[0]):.4g}"
    if target.task == "classification":
        share = logits.softmax(0)
        best = int(share.argmax())
        return f"{target.classes[best]} ({100 * float(share[best]):.0f} %)"
    chosen = [
        name for name, score in zip(target.classes, logits.tolist(), strict=True) if score > 0
    ]
    return ", ".join(chosen) or "none"


def truth(value: Tensor, target: TargetConfig) -> str:
    """A target in words."""
    if target.task == "regression":
        return f"{float(value):.4g}"
    if target.task == "classification":
        return target.classes[int(value)]
    chosen = [n for n, there in zip(target.classes, value.tolist(), strict=True) if there > 0.5]
    return ", ".join(chosen) or "none"


def _metrics(
    values: dict[str, float], target: TargetConfig, predicted: PredictionResult | None
) -> dict[str, Metric]:
    score = score_name(target)
    first = [n for n in values if n.endswith(f"/{score}")]
    chance = majority_share(predicted) if predicted is not None else None
    return with_intervals(
        values, first, chance=lambda name: chance if name.endswith("/accuracy") else None
    )


def _plots(
    result: RunResult,
    model: FusionModel,
    predicted: PredictionResult | None,
    log: Sequence[dict[str, float]],
) -> list[Plot]:
    score = score_name(model.target)
    keys = [k for line in log for k in line if k.startswith("eval/") and k.endswith(f"/{score}")]
    plots = [
        Plot(
            "score",
            f"{score} on validation data: all modalities fused, and what each alone knows.",
            lambda palette: score_curve(log, list(dict.fromkeys(keys)), palette, label=score),
        )
    ]
    if predicted is None:
        return plots
    alone = {
        name.split("/")[1]: value
        for name, value in result.metrics.items()
        if name.endswith(f"_alone/{score}")
    }
    if alone:
        values = {"fused": result.metrics[f"prediction/{score}"], **alone}
        plots.append(
            Plot(
                "alone",
                f"{score} of the fused prediction and of the head on each modality alone.",
                lambda palette: bars_figure(values, palette, label=score),
            )
        )
    if predicted.gates is not None:
        gates = dict(zip(model.inputs, predicted.gates.mean(0).tolist(), strict=True))
        plots.append(
            Plot(
                "gates",
                "How much each modality counts, mean gate over the validation data.",
                lambda palette: bars_figure(gates, palette, label="mean gate"),
            )
        )
    task, found = model.target.task, predicted
    if task == "classification":
        plots.append(
            Plot(
                "confusion",
                "Which classes are taken for which, in per cent of the true class.",
                lambda palette: confusion_figure(
                    found.logits, found.target, model.target.classes, palette
                ),
            )
        )
    elif task == "regression":
        plots.append(
            Plot(
                "scatter",
                "Predicted over true numbers; points on the line are right.",
                lambda palette: scatter_figure(found.logits[:, 0], found.target, palette),
            )
        )
    return plots


def _examples(model: FusionModel, predicted: PredictionResult, source: Source) -> list[Example]:
    places = {int(key): i for i, key in enumerate(predicted.items.tolist())}
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SHOWN, len(source))).astype(int))
    there = known(predicted.target)
    examples = []
    for row in chosen.tolist():
        try:
            record = source[row]
        except BrokenRecordError:
            continue
        place = places.get(key64(str(record["id"])))
        if place is None:
            continue
        said = answer(predicted.logits[place], model.target)
        lines = [("predicted", said)]
        right = None
        if bool(there[place]):
            true = truth(predicted.target[place], model.target)
            lines.append(("true", true))
            if model.target.task != "regression":
                right = said.split(" (")[0] == true
        if predicted.gates is not None:
            gates = predicted.gates[place].tolist()
            shown = ", ".join(f"{m} {g:.2f}" for m, g in zip(model.inputs, gates, strict=True))
            lines.append(("gates", shown))
        lines += _inputs(model, record)
        examples.append(Example(lines, _image(model, record), right))
    return examples


def _inputs(model: FusionModel, record: Record) -> list[tuple[str, str]]:
    lines = []
    if "text" in model.inputs and record.get("text"):
        lines.append(("text", str(record["text"][0])[:LONGEST]))
    columns = model.architecture.columns
    names = (*columns.numbers, *columns.categories) if columns is not None else ()
    return lines + [(name, str(record.get(name))[:LONGEST]) for name in names]


def _image(model: FusionModel, record: Record) -> Image | None:
    if "image" not in model.inputs or record.get("image") is None:
        return None
    try:
        return decode_image(record["image"], record["origin"], min_size=128)
    except BrokenRecordError:
        return None


def _summary(result: RunResult, model: FusionModel, predicted: PredictionResult | None) -> str:
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    target = model.target
    what = {
        "classification": f"one of {len(target.classes)} classes",
        "multi_label": f"any of {len(target.classes)} classes",
        "regression": "a number",
    }[target.task]
    text = (
        f"Predicts {target.column} ({what}) from {', '.join(model.inputs)}, fused by "
        f"{model.architecture.fusion.kind}: {millions:.2f} million weights, trained for "
        f"{result.steps} steps in {result.train_seconds:.0f} seconds."
    )
    if predicted is not None:
        count = int(known(predicted.target).sum())
        text += f" Measured on {count} items that no gradient came from"
        share = majority_share(predicted)
        text += (
            f"; always saying the most frequent class is right in {100 * share:.1f} %."
            if share is not None and torch.isfinite(torch.tensor(share))
            else "."
        )
    return text
