"""`amodal predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import console, note, progress_callbacks
from amodal.cli.options import UseFeatureCache
from amodal.training.kinds import kind_of_run, open_run

if TYPE_CHECKING:
    from amodal.data.record import Record, Source
    from amodal.evaluators.prediction import PredictionResult
    from amodal.models.fusion_model import FusionModel

MAX_ATTENTION_MAPS = 12
SHOWN_BROKEN = 5


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder of a fusion model.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What to predict.")],
    out: Annotated[Path, typer.Option(help="CSV file, with a row per item.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N items.")] = None,
    explain: Annotated[
        bool,
        typer.Option(help="Also predict without each input, and write attention maps."),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="A table column that the model reads may be absent."),
    ] = False,
    feature_cache: UseFeatureCache = True,
) -> None:
    """Predict every item of a source; writes its id, the prediction and its probability.

    With --explain there is a column per input: the probability of the same prediction (or the
    number) without that input. Attention maps are written beside the file.
    """
    kind_of_run(run)  # a mistyped run is answered before the slow imports
    import csv

    from amodal.data.atomic import full_disk_as_data_error, staged_file
    from amodal.data.corruption import only
    from amodal.data.notes import notes_of
    from amodal.evaluators.prediction import predict_items
    from amodal.training.features import use_feature_caches
    from amodal.training.sources import open_for_run

    model = open_run(run, "fusion")
    if feature_cache:
        use_feature_caches(run, model, warn=note)
    opened = _SourceWithIds(open_for_run(run, model, source, allow_missing=allow_missing))
    for told in notes_of(opened.source):
        console.print(f"note: {told}", soft_wrap=True, markup=False)
    rows = range(min(limit or len(opened), len(opened)))
    with progress_callbacks() as callbacks:
        callbacks.stage("predicting", len(rows))
        predicted = predict_items(
            model, opened, items=rows, with_target=False, tick=callbacks.advance
        )
        without = {}
        for name in model.inputs if explain else ():
            callbacks.stage(f"predicting without {name}", len(rows))
            kept = [other for other in model.inputs if other != name]
            without[name] = predict_items(
                model,
                opened,
                items=rows,
                with_target=False,
                change=lambda batch, kept=kept: only(batch, kept),  # type: ignore[misc]
                tick=callbacks.advance,
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_as_data_error(out, "free some space and predict again"):
        with staged_file(out) as staged, staged.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(_table(model, predicted, without, opened.ids))
        maps = out.with_suffix("")
        explained = rows[:MAX_ATTENTION_MAPS] if explain else ()
        written = _write_attention(model, opened, explained, maps)
    for error in predicted.broken[:SHOWN_BROKEN]:
        console.print(f"[yellow]skipped[/] {error}", soft_wrap=True)
    console.print(
        f"{predicted.items} predictions are in {out}; {len(predicted.broken)} broken rows",
        soft_wrap=True,
    )
    if written:
        console.print(f"attention maps are in {maps}", soft_wrap=True)


def _table(
    model: FusionModel,
    predicted: PredictionResult,
    without: dict[str, PredictionResult],
    ids: dict[int, str],
) -> Iterator[list[str]]:
    """The rows of the file, its header first."""
    import torch

    target = model.target
    gates = [] if predicted.gates is None else [f"gate {m}" for m in model.inputs]
    classes = () if target.task == "regression" else target.classes
    yield ["id", target.column, *classes, *gates, *(f"without {m}" for m in without)]
    outputs = target.probabilities(predicted.logits)
    others = {m: target.probabilities(found.logits) for m, found in without.items()}
    for i, key in enumerate(predicted.item.tolist()):
        row = outputs[i]
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
            # Probability of the same set, its classes taken as independent.
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


def _write_attention(model: FusionModel, source: Source, rows: Sequence[int], folder: Path) -> int:
    """Write an attention map per item whose image tokens form a square grid; their number."""
    import math

    import numpy as np

    from amodal.data.record import BrokenRecordError, sample_rng
    from amodal.models.inputs import collator_of
    from amodal.reports.attention_plots import save_attention
    from amodal.reports.show_value import show_value, values_of

    collate = collator_of(model)
    written = 0
    for row in rows:
        try:
            record = source[row]
        except BrokenRecordError:
            continue
        batch = collate([record], [sample_rng(0, 0, 0)])
        if not len(batch):
            continue
        for name, shares in model.attention(batch.to(model.device)).items():
            values = values_of(model, record, name)
            square = math.isqrt(shares.shape[1]) ** 2 == shares.shape[1]
            if not values or not square or not bool(shares.any()):
                continue
            try:
                origin = str(record["origin"])
                image = show_value(model, name, values[0], origin)
            except (ValueError, TypeError):
                continue  # not an image
            if not isinstance(image, np.ndarray):
                continue
            plain = "".join(c if c.isalnum() else "_" for c in str(record["id"]))[-60:]
            save_attention(folder / f"{plain}.png", image, shares[0].cpu(), str(record["id"]))
            written += 1
    return written


class _SourceWithIds:
    """A source that keeps the ids of the records it has given, by their key."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.inputs = source.name, source.inputs
        self.ids: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        from amodal.data.batch import key64

        record = self.source[index]
        self.ids[key64(str(record["id"]))] = str(record["id"])
        return record
