"""`amodal evaluate`."""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from amodal.cli.console import console, note, progress_callbacks
from amodal.cli.options import UseFeatureCache
from amodal.cli.renamed import RENAMED_TASKS
from amodal.models.run_location import found_folder, results_folder
from amodal.training.kinds import EVALUATION_TASKS, Evaluator, kind_of_run, open_run, resolve

SHOWN_BROKEN = 5


def _known_task(task: str | None) -> str | None:
    if task is not None and task not in EVALUATION_TASKS:
        near = difflib.get_close_matches(task, EVALUATION_TASKS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        if task in RENAMED_TASKS:
            hint = f"it is now called {RENAMED_TASKS[task]}; "
        raise typer.BadParameter(f"no task {task!r}; {hint}tasks: {', '.join(EVALUATION_TASKS)}")
    return task


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or hub:OWNER/NAME.")],
    on: Annotated[
        str | None,
        typer.Option(
            help="Source to evaluate on; by default the run's validation data, except for "
            "zero-shot and probe."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            callback=_known_task,
            metavar="|".join(EVALUATION_TASKS),
            help="What to evaluate; by default the first task that the run was trained for.",
            show_default=False,
        ),
    ] = None,
    train_on: Annotated[
        str | None, typer.Option(help="probe: source on which the linear classifier is fit.")
    ] = None,
    captions: Annotated[
        int | None,
        typer.Option(min=1, help="retrieval, geometry, …: use the first N captions of each item."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=1, help="retrieval: average over N folds; 5 = COCO 1K protocol."),
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="vqa, caption, …: width of the beam search.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N items.")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="text-to-image: see `amodal draw`.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="text-to-image: see `amodal draw`.")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="text-to-image: images per caption; --reranker keeps the best."),
    ] = None,
    reranker: Annotated[
        Path | None, typer.Option(help="text-to-image: run of a joint embedding.")
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="A table column that the model reads may be absent."),
    ] = False,
    feature_cache: UseFeatureCache = True,
    name: Annotated[str | None, typer.Option(help="Name of the result file.")] = None,
) -> None:
    """Evaluate a run on a source; prints a table and writes RUN/evaluation/NAME.json.

    geometry and robustness also write plots, to RUN/evaluation/NAME/.
    """
    if (candidates or 1) > 1 and reranker is None:
        raise typer.BadParameter("--candidates needs --reranker RUN, a joint embedding")
    folder = found_folder(run)
    kind = kind_of_run(folder)  # a mistyped run is answered before the slow imports
    if reranker is not None:
        kind_of_run(reranker)
    from amodal.data.atomic import full_disk_as_data_error
    from amodal.data.notes import notes_of
    from amodal.evaluators.interpretation import interpret
    from amodal.evaluators.vocabulary import (
        collator_of_task,
        truncated_text_shares,
        unknown_token_notes,
        unknown_token_shares,
    )
    from amodal.training.features import use_feature_caches
    from amodal.training.sources import open_for_run, training_source, validation_source

    model = _on_device(open_run(folder))
    if feature_cache:
        use_feature_caches(folder, model, warn=note)
    evaluators = kind.available_evaluators(model)
    chosen = task or _default_task(folder, list(evaluators))
    if chosen not in evaluators:
        raise typer.BadParameter(
            f"{run} holds {kind.phrase}; --task can be {', '.join(evaluators)}"
        )
    evaluator = evaluators[chosen]
    options: dict[str, Any] = {
        "captions": captions,
        "folds": folds,
        "beams": beams,
        "guidance": guidance,
        "temperature": temperature,
        "candidates": candidates,
        "reranker": reranker,
    }
    given = {option: value for option, value in options.items() if value is not None}
    _check_usage(chosen, evaluator, given, on, train_on)
    if reranker is not None:
        given["reranker"] = _on_device(open_run(reranker, "joint_embedding"))
    reads = partial(open_for_run, folder, model, allow_missing=allow_missing)
    source = reads(on) if on is not None else validation_source(folder)
    for left_out in notes_of(source):
        note(str(left_out))
    items = range(min(limit or len(source), len(source)))
    if evaluator.training_source:
        given["training_source"] = reads(train_on) if train_on else training_source(folder)
        if limit is not None and evaluator.training_source == "given":
            given["training_items"] = range(min(limit, len(given["training_source"])))
    with progress_callbacks() as callbacks:
        callbacks.stage(chosen, len(items))
        result = resolve(evaluator.function)(
            model, source, items=items, tick=callbacks.advance, **evaluator.arguments, **given
        )
    metrics = {
        **result.metrics,
        "data/items": result.items,
        "data/broken_rows": len(result.broken),
    }
    where = on if on is not None else "its validation data"
    collator = collator_of_task(model, chosen)
    unknown = unknown_token_shares(collator, source)
    truncated = truncated_text_shares(collator, source)
    metrics |= {f"data/unknown_{name}_tokens": share for name, share in unknown.items()}
    metrics |= {f"data/truncated_{name}_share": share for name, share in truncated.items()}
    for message in unknown_token_notes(unknown, where):
        note(message)
    file = results_folder(run) / "evaluation" / f"{name or _file_name(chosen, on)}.json"
    title = f"{chosen} of {run} on {where}"
    present = resolve(evaluator.presentation)
    with full_disk_as_data_error(file.parent, "free some space and evaluate again"):
        for table in present(result, metrics, title, file.with_suffix("")):
            console.print(table)
        for sentence in interpret(metrics):
            console.print(sentence, soft_wrap=True, highlight=False)
        for error in result.broken[:SHOWN_BROKEN]:
            console.print(f"[yellow]skipped[/] {error}", soft_wrap=True)
        if evaluator.calibration and limit is None:
            calibrate = resolve(evaluator.calibration)
            done = calibrate(result, model, source.name, results_folder(run))
            if done:
                note(done)
        _write(file, {"on": where, "task": chosen, **metrics})


def _check_usage(
    task: str, evaluator: Evaluator, given: dict[str, Any], on: str | None, train_on: str | None
) -> None:
    for option in given:
        if option not in evaluator.options:
            raise typer.BadParameter(f"--task {task} has no --{option}")
    if on is None and evaluator.needs_source:
        raise typer.BadParameter(f"--task {task} needs --on SOURCE")
    if train_on is None and evaluator.training_source == "given":
        raise typer.BadParameter(f"--task {task} needs --train-on SOURCE")
    if train_on is not None and not evaluator.training_source:
        raise typer.BadParameter(f"--task {task} has no --train-on")


def _default_task(run: Path, available: list[str]) -> str:
    """The first task of the recipe that can be evaluated, else the first that the kind has."""
    from amodal.training.recipe import load_recipe

    file = run / "recipe.yaml"
    trained = getattr(load_recipe(file).model, "tasks", ()) if file.is_file() else ()
    names = [task.replace("_", "-") for task in trained]
    return next((task for task in names if task in available), available[0])


def _on_device(model: Any) -> Any:
    import torch

    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _write(file: Path, values: dict[str, Any]) -> None:
    import json

    from amodal.data.atomic import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(values, indent=1))
    console.print(f"written to {file}", soft_wrap=True)


def _file_name(task: str, on: str | None) -> str:
    if on is None:
        return task
    plain = "".join(c if c.isalnum() else "_" for c in on).strip("_")
    return f"{task}_{plain[-60:]}"
