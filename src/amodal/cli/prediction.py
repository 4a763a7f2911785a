"""`amodal predict`, and what `amodal evaluate` does with a fusion."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from amodal.cli.console import console, progress_callbacks
from amodal.data.batch import key64
from amodal.data.collate import Collator
from amodal.data.corruption import only
from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Source, sample_rng
from amodal.data.sources.specification import open_random_access, parse_source
from amodal.evaluators.prediction import (
    PredictionResult,
    predict_batches,
    predict_items,
    prediction_metrics,
    read_batches,
)
from amodal.evaluators.robustness import RobustnessReport, measure_robustness, passes
from amodal.models.fusion_model import FusionModel
from amodal.training.kinds import open_run
from amodal.reports.attention_plots import save_attention
from amodal.reports.plots import ON_PAPER, save_png
from amodal.reports.robustness_plots import curves_figure, subsets_figure

TITLES = {
    "missing": "items that lose the modality",
    "noise": "share of noise in the modality",
    "swap": "items with the modality of another",
}
DRAWN = 12  # images of attention
SCORES = {"classification": "accuracy", "multi_label": "F1 of the set", "regression": "R²"}


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of a fusion.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What to predict.")],
    out: Annotated[Path, typer.Option(help="CSV file, with a row per item.")],
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many items.")] = None,
    explain: Annotated[
        bool,
        typer.Option(help="Also say what each modality changes, and draw where it looked."),
    ] = False,
) -> None:
    """Predict every item of a source; writes its id, the prediction and its probability.

    With --explain there is a column per modality: the probability of the same prediction (or the
    number) without that modality. Images of attention are written beside the file.
    """
    model = open_run(run)
    if not isinstance(model, FusionModel):
        raise DataError(f"{run}: holds a {type(model).__name__}, which does not predict a column")
    opened = _Remembering(open_random_access(parse_source(source), source))
    rows = range(min(limit or len(opened), len(opened)))
    with progress_callbacks() as callbacks:
        callbacks.stage("predicting", len(rows))
        batches = read_batches(model, opened, rows, with_target=False, tick=callbacks.advance)
        predicted = predict_batches(model, batches, where=opened.name)
        without = {}
        for modality in model.modalities if explain else ():
            callbacks.stage(f"predicting without {modality}", len(rows))
            kept = [m for m in model.modalities if m != modality]
            without[modality] = predict_batches(
                model,
                batches,
                where=opened.name,
                change=lambda b, kept=kept: only(b, kept),  # type: ignore[misc]
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(_table(model, predicted, without, opened.ids))
    partial.replace(out)
    for error in predicted.broken[:5]:
        console.print(f"[yellow]skipped[/] {error}", soft_wrap=True)
    console.print(
        f"{len(predicted.items)} predictions are in {out}; {len(predicted.broken)} broken rows",
        soft_wrap=True,
    )
    if explain and "image" in model.modalities:
        drawn = _draw_attention(model, opened, rows[:DRAWN], out.with_suffix(""))
        if drawn:
            console.print(f"where it looked is in {out.with_suffix('')}", soft_wrap=True)


def _table(
    model: FusionModel,
    predicted: PredictionResult,
    without: dict[str, PredictionResult],
    ids: dict[int, str],
) -> Iterator[list[str]]:
    """The rows of the file, its header first."""
    target = model.target
    gates = [] if predicted.gates is None else [f"gate {m}" for m in model.modalities]
    classes = () if target.task == "regression" else target.classes
    yield ["id", target.column, *classes, *gates, *(f"without {m}" for m in without)]
    said = target.probabilities(predicted.logits)
    others = {m: target.probabilities(found.logits) for m, found in without.items()}
    for i, key in enumerate(predicted.items.tolist()):
        row = said[i]
        if target.task == "regression":
            answer, numbers, changed = (
                f"{float(row):.6g}",
                [],
                [float(x[i]) for x in others.values()],
            )
        elif target.task == "classification":
            best = int(row.argmax())
            answer, numbers = target.classes[best], row.tolist()
            changed = [float(x[i, best]) for x in others.values()]
        else:
            chosen = row > 0.5
            names = zip(target.classes, chosen.tolist(), strict=True)
            answer, numbers = target.separator.join(c for c, there in names if there), row.tolist()
            # How likely the same set is, its classes taken as independent.
            changed = [float(torch.where(chosen, x[i], 1 - x[i]).prod()) for x in others.values()]
        weights = [] if predicted.gates is None else predicted.gates[i].tolist()
        digits = "{:.6g}" if target.task == "regression" else "{:.4f}"
        yield [
            ids[key],
            answer,
            *(f"{p:.4f}" for p in numbers),
            *(f"{g:.4f}" for g in weights),
            *(digits.format(c) for c in changed),
        ]


def _draw_attention(model: FusionModel, source: Source, rows: Sequence[int], folder: Path) -> int:
    """An image per item of where the model looked; how many there are."""
    collate = Collator(model.preprocessors)
    drawn = 0
    for row in rows:
        try:
            record = source[row]
            image = decode_image(record["image"], record["origin"], min_size=256)
        except (BrokenRecordError, KeyError, TypeError):
            continue
        batch = collate([record], [sample_rng(0, 0, 0)])
        shares = model.attention(batch.to(model.device)).get("image") if len(batch) else None
        if shares is None or not bool(shares.any()):
            continue  # no image, or a pooling without attention
        if math.isqrt(shares.shape[1]) ** 2 != shares.shape[1]:
            continue  # tokens that are no square grid
        plain = "".join(c if c.isalnum() else "_" for c in str(record["id"]))[-60:]
        save_attention(folder / f"{plain}.png", image, shares[0].cpu(), str(record["id"]))
        drawn += 1
    return drawn


class _Remembering:
    """A source that keeps the ids of the records it has given."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.modalities = source.name, source.modalities
        self.ids: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, object]:
        record = self.source[index]
        self.ids[key64(str(record["id"]))] = str(record["id"])
        return record


def prediction(
    model: FusionModel, source: Source, limit: int | None
) -> tuple[dict[str, float], list[BrokenRecordError]]:
    """How right the predictions of a source are, with intervals."""
    count = min(limit or len(source), len(source))
    with progress_callbacks() as callbacks:
        callbacks.stage("predicting", count)
        predicted = predict_items(model, source, items=range(count), tick=callbacks.advance)
    metrics = prediction_metrics(predicted, model.target, bootstrap=1000)
    metrics["data/items"] = len(predicted.items)
    metrics["data/broken_rows"] = len(predicted.broken)
    return metrics, list(predicted.broken)


def robustness(
    model: FusionModel, source: Source, limit: int | None, plots: Path
) -> dict[str, float]:
    """Scores as each modality gets worse; PNGs are written to `plots`."""
    count = min(limit or len(source), len(source))
    with progress_callbacks() as callbacks:
        callbacks.stage("predicting with modalities worse", passes(model))
        report = measure_robustness(model, source, range(count), tick=callbacks.advance)
    label = SCORES[model.target.task]
    for kind, curves in report.curves.items():
        figure = curves_figure(curves, report.chance, ON_PAPER, title=TITLES[kind], label=label)
        save_png(figure, plots / f"{kind}.png")
    alone = {names: estimate.value for names, estimate in report.subsets.items()}
    save_png(subsets_figure(alone, report.chance, ON_PAPER, label=label), plots / "subsets.png")
    _show_subsets(report, label)
    for kind in report.curves:
        _show_curves(report, kind, label)
    _show_summary(report)
    console.print(f"plots are in {plots}", soft_wrap=True)
    metrics = report.metrics()
    metrics["data/items"] = report.items
    metrics["data/broken_rows"] = report.broken
    return metrics


def _show_subsets(report: RobustnessReport, label: str) -> None:
    table = Table("modalities that are there", label, "95 % interval", title="subsets")
    for names, score in sorted(report.subsets.items(), key=lambda item: -item[1].value):
        table.add_row(names, f"{score.value:.3f}", f"{score.low:.3f} … {score.high:.3f}")
    table.add_row("best constant prediction", f"{report.chance:.3f}", "")
    console.print(table)


def _show_curves(report: RobustnessReport, kind: str, label: str) -> None:
    curves = report.curves[kind]
    gates = report.gates.get(kind, {})
    title = f"{label}{' (mean gate)' if gates else ''} by {TITLES[kind]}"
    table = Table("rate", *curves, title=title)
    for i, rate in enumerate(next(iter(curves.values())).rates):
        cells = []
        for modality, curve in curves.items():
            gate = f" ({gates[modality][i]:.2f})" if modality in gates else ""
            cells.append(f"{curve.scores[i].value:.3f}{gate}")
        table.add_row(f"{100 * rate:.0f} %", *cells)
    console.print(table)


def _show_summary(report: RobustnessReport) -> None:
    table = Table(
        "worse", "modality", "relative", "effective", "95 % interval",
        title="robustness over all rates",
        caption="relative: mean score over the score without harm; effective: mean score above "
        "what guessing for the items that are hit would give",
    )  # fmt: skip
    for kind, curves in report.curves.items():
        for modality, curve in curves.items():
            low, high = curve.effective.low, curve.effective.high
            table.add_row(
                kind,
                modality,
                f"{curve.relative.value:.3f}",
                f"{curve.effective.value:+.3f}",
                f"{low:+.3f} … {high:+.3f}",
            )
    console.print(table)
