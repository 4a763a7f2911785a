"""The report of a fusion model: metrics, curves, confusions, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor

from amodal.data.batch import key64
from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.interpretation import CONSTANT
from amodal.evaluators.prediction import PredictionResult, known, score_name
from amodal.models.fusion_model import FusionModel
from amodal.models.target import TargetConfig
from amodal.reports.plots import score_curve
from amodal.reports.prediction_plots import bars_figure, confusion_figure, scatter_figure
from amodal.reports.report import Example, Metric, Plot, Report
from amodal.reports.run_report import read_log, run_report, size_and_time, with_intervals
from amodal.reports.show_value import show_record
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
    """The report of a run of a fusion model.

    Args:
        result: a run that went to its end.
        recipe: of the run.
        source: the validation source, whose items are shown.
        title: heading of the page.
        commands: what to try next.
    """
    model = cast(FusionModel, result.model)
    predicted = cast("PredictionResult | None", result.results.get("prediction"))
    return run_report(
        result,
        recipe,
        title=title,
        summary=_summary(result, model, predicted),
        metrics=_metrics(result.metrics, model.target),
        commands=commands,
        plots=_plots(result, model, predicted, read_log(result.folder)),
        examples=_examples(model, predicted, source) if predicted and source is not None else (),
    )


def prediction_text(logits: Tensor, target: TargetConfig) -> str:
    """The prediction of (C,) scores in words."""
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


def target_text(value: Tensor, target: TargetConfig) -> str:
    """A target in words."""
    if target.task == "regression":
        return f"{float(value):.4g}"
    if target.task == "classification":
        return target.classes[int(value)]
    chosen = [n for n, share in zip(target.classes, value.tolist(), strict=True) if share > 0.5]
    return ", ".join(chosen) or "none"


def _metrics(values: dict[str, float], target: TargetConfig) -> dict[str, Metric]:
    score = score_name(target)
    first = [n for n in values if n.startswith("prediction/") and n.endswith(f"/{score}")]
    chance = values.get(f"{CONSTANT}/prediction/accuracy")
    return with_intervals(values, first, chance=lambda name: chance if name in first else None)


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
            f"{score} on validation data, of the fused head and of each input by itself.",
            lambda palette: score_curve(log, list(dict.fromkeys(keys)), palette, label=score),
        )
    ]
    if predicted is None:
        return plots
    unimodal = {
        name.split("/")[1]: value
        for name, value in result.metrics.items()
        if name.endswith(f"_only/{score}")
    }
    if unimodal:
        values = {"fused": result.metrics[f"prediction/{score}"], **unimodal}
        plots.append(
            Plot(
                "unimodal",
                f"{score} of the fused head and of the head on each input by itself.",
                lambda palette: bars_figure(values, palette, label=score),
            )
        )
    if predicted.gates is not None:
        gates = dict(zip(model.inputs, predicted.gates.mean(0).tolist(), strict=True))
        plots.append(
            Plot(
                "gates",
                "Weight of each input, mean gate over the validation data.",
                lambda palette: bars_figure(gates, palette, label="mean gate"),
            )
        )
    task, found = model.target.task, predicted
    if task == "classification":
        plots.append(
            Plot(
                "confusion",
                "Confusion matrix, in per cent of the true class.",
                lambda palette: confusion_figure(
                    found.logits, found.target, model.target.classes, palette
                ),
            )
        )
    elif task == "regression":
        plots.append(
            Plot(
                "scatter",
                "Predicted over true numbers; points on the line are exact.",
                lambda palette: scatter_figure(found.logits[:, 0], found.target, palette),
            )
        )
    return plots


def _examples(model: FusionModel, predicted: PredictionResult, source: Source) -> list[Example]:
    places = {int(key): i for i, key in enumerate(predicted.item.tolist())}
    chosen = np.unique(np.linspace(0, len(source) - 1, min(SHOWN, len(source))).astype(int))
    with_target = known(predicted.target)
    examples = []
    for row in chosen.tolist():
        try:
            record = source[row]
        except BrokenRecordError:
            continue
        place = places.get(key64(str(record["id"])))
        if place is None:
            continue
        prediction = prediction_text(predicted.logits[place], model.target)
        lines = [("predicted", prediction)]
        correct = None
        if bool(with_target[place]):
            true = target_text(predicted.target[place], model.target)
            lines.append(("true", true))
            if model.target.task != "regression":
                correct = prediction.split(" (")[0] == true
        if predicted.gates is not None:
            gates = predicted.gates[place].tolist()
            shown = ", ".join(f"{m} {g:.2f}" for m, g in zip(model.inputs, gates, strict=True))
            lines.append(("gates", shown))
        texts, image = show_record(model, record, model.inputs, LONGEST)
        lines += texts
        examples.append(Example(lines, None if isinstance(image, str) else image, correct))
    return examples


def _summary(result: RunResult, model: FusionModel, predicted: PredictionResult | None) -> str:
    target = model.target
    what = {
        "classification": f"one of {len(target.classes)} classes",
        "multi_label": f"any of {len(target.classes)} classes",
        "regression": "a number",
    }[target.task]
    text = (
        f"Predicts {target.column} ({what}) from {', '.join(model.inputs)}, fused by "
        f"{model.architecture.fusion.kind}: {size_and_time(result)}."
    )
    if predicted is not None:
        count = int(known(predicted.target).sum())
        text += f" Evaluated on {count} held-out items."
    return text
