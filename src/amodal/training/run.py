"""From a recipe to a run folder: open the data, build the model, train, evaluate, write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, set_seed

from amodal.data.atomic import is_failed_write, is_full_disk, write_text
from amodal.data.features import FeatureSource
from amodal.data.notes import notes_of
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, Source
from amodal.distributed import any_process, is_main
from amodal.evaluators.result import EvaluationResult
from amodal.evaluators.vocabulary import count_unknown_tokens
from amodal.models.run_folder import write_definition
from amodal.training.balance import rows_by_inputs
from amodal.training.checkpoints import complete_checkpoints, load_weights
from amodal.training.errors import RunError
from amodal.training.features import cached_views, compute_features
from amodal.training.folder import (
    BROKEN,
    METRICS,
    clean_up,
    is_finished,
    keep_data_summary,
    keep_weights,
    prepare_folder,
)
from amodal.training.interruption import graceful_interrupt
from amodal.training.kinds import kind_of_recipe, open_run, resolve, run_class
from amodal.training.processes import check_same_data, together, wait_for_all
from amodal.training.progress import ProgressCallbacks
from amodal.training.progressive import check_progressive_resizing
from amodal.training.recipe import Recipe
from amodal.training.sources import open_sources
from amodal.training.tasks.protocol import Run
from amodal.training.trainer import RunTrainer


@dataclass(frozen=True)
class RunResult:
    """A finished or stopped run.

    Args:
        folder: the run folder; complete unless the run was stopped.
        metrics: flat metrics, as in metrics.json; none of the model without a validation source.
        model: the model of the folder, on the device that it was trained on.
        broken: records that were skipped while training, each once.
        results: evaluation of the validation source by task, such as `retrieval`.
        stopped_at: step at which Ctrl-C ended the run, or None where it went to its end.
        finished_before: the run was finished already and nothing was done; there are no `results`
            and sources, and the model is on the CPU.
        train_seconds: seconds in optimizer steps, over all resumes; no evaluation, no saving.
        steps: optimizer steps of the whole run.
        train_source: the training source.
        validation_source: the validation source, or None.
    """

    folder: Path
    metrics: dict[str, float]
    model: PreTrainedModel
    broken: list[BrokenRecordError] = field(default_factory=list)
    results: dict[str, EvaluationResult] = field(default_factory=dict)
    stopped_at: int | None = None
    finished_before: bool = False
    train_seconds: float = 0.0
    steps: int = 0
    train_source: Source | None = None
    validation_source: Source | None = None


Finish = Callable[[RunResult], Mapping[str, float]]


@together()
def train_run(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    callbacks: ProgressCallbacks | None = None,
    finish: Finish = lambda result: {},
) -> RunResult:
    """Train the model of a recipe and write the run folder.

    However a run was cut off, `resume` leads to the weights and metrics that it would have had.

    Args:
        recipe: what to train, on what.
        folder: the run folder.
        resume: go on from the last checkpoint; a finished run is left as it is.
        callbacks: progress.
        finish: called with the result while it does not yet count as finished, so that a resumed
            run calls it again: writes what else belongs to the folder, returns further metrics.

    Raises:
        RunError: the folder cannot be written, or already holds another run.
        DataError: a source cannot be used.
        TrainingError: the loss is no longer a number.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from amodal.training import parse_recipe, train_run
        >>> text = {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2}
        >>> encoders = {"image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]}, "text": text}
        >>> scenes = {"kind": "scenes", "size": 8, "image_size": 32}
        >>> train = {"epochs": 1, "batch_size": 8, "precision": "fp32"}
        >>> values = {"data": {"train": scenes}, "model": {"encoders": encoders}, "train": train}
        >>> recipe = parse_recipe(values, "example")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train_run(recipe, Path(folder))
        ...     print(result.steps, (Path(folder) / "model.safetensors").exists())
        1 True
    """
    callbacks = callbacks or ProgressCallbacks()
    with failed_writes_as_run_errors(folder):
        if is_main():
            prepare_folder(recipe, folder, resume=resume)
        wait_for_all()
        if resume and is_finished(folder):
            if is_main():
                clean_up(folder)
            callbacks.warn(f"{folder}: the run is finished; nothing was changed")
            return _finished(folder)
        return _train(recipe, folder, callbacks, finish, resume=resume)


def _train(
    recipe: Recipe, folder: Path, callbacks: ProgressCallbacks, finish: Finish, *, resume: bool
) -> RunResult:
    checkpoints = complete_checkpoints(folder)
    if resume and not checkpoints:
        callbacks.warn(f"{folder}: there is no checkpoint yet; training begins anew")
    set_seed(recipe.train.seed % (1 << 32))
    train, validation = open_sources(recipe, callbacks)
    saved = folder if checkpoints else None
    # Only what trains and measures reads features: a report shows the values themselves.
    learned = FeatureSource(train)
    measured = FeatureSource(validation) if validation is not None else None
    run = run_class(kind_of_recipe(recipe))(recipe, learned, measured, saved=saved)
    for told in run.notes:
        callbacks.warn(told)
    trained = run.trained()
    check_same_data(len(train), run.model, run.model.preprocessors)  # type: ignore[arg-type]
    if recipe.train.progressive_resizing is not None:
        check_progressive_resizing(recipe.train.progressive_resizing, run.model)
    unknown = count_unknown_tokens(run.collator, train, validation, callbacks.warn)
    if is_main():
        keep_data_summary(folder, train, validation, callbacks if checkpoints else None)
        if not checkpoints:
            preprocessors: Any = run.model.preprocessors
            write_definition(run.model, preprocessors, folder)
    cached = recipe.cached_inputs()
    if cached:
        if checkpoints:  # the model has its frozen weights from there
            load_weights(trained, checkpoints[-1])
        model: Any = run.model
        views = cached_views(recipe)
        compute_features(model, cached, learned, measured, callbacks, views=views)
    balance, groups = recipe.data.balance, None
    if balance is not None:
        groups = rows_by_inputs(run.model, train)  # type: ignore[arg-type]
        counts = ", ".join(f"{' + '.join(i) or 'none'}: {len(r):,}" for i, r in groups.items())
        callbacks.warn(f"items by their inputs: {counts}")
    trainer = RunTrainer(
        trained,
        run.task,
        BatchReader(run.train, run.collator, seed=recipe.train.seed),
        recipe.train,
        folder,
        workers=recipe.data.workers,
        groups=None if groups is None else list(groups.values()),
        balance=1.0 if balance is None else balance,
        callbacks=callbacks,
    )
    if trainer.precision_timing is not None:
        callbacks.warn(str(trainer.precision_timing))
    sources = [train] if validation is None else [train, validation]
    for told in dict.fromkeys(f"{s.name}: {note}" for s in sources for note in notes_of(s)):
        callbacks.warn(told)
    callbacks.stage("training", len(trainer.sampler))
    with graceful_interrupt(trainer, callbacks.warn):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
        except KeyboardInterrupt:
            if not trainer.evaluation_due:
                raise
    for error in getattr(train, "broken_rows", ()):  # rows that never became part of an item
        trainer.broken.setdefault(error.origin, error)
    trainer.merge_counts()
    _warn_about_data(trainer, callbacks)
    result = RunResult(
        folder,
        unknown,
        trainer.trained.evaluation_weights,
        list(trainer.broken.values()),
        train_seconds=trainer.step_seconds,
        steps=trainer.state.global_step,
        train_source=train,
        validation_source=validation,
    )
    stopped = replace(result, stopped_at=trainer.state.global_step)
    if any_process(trainer.interrupted):
        return stopped
    try:
        return _complete(run, trainer, result, callbacks, finish)
    except KeyboardInterrupt:
        return stopped  # a resumed run begins this part again


def _complete(
    run: Run,
    trainer: RunTrainer,
    result: RunResult,
    callbacks: ProgressCallbacks,
    finish: Finish,
) -> RunResult:
    """Weights, metrics and model card of a run whose training is over.

    Every part can be repeated. metrics.json comes last: the sign of a finished run.
    """
    recipe, folder = run.recipe, result.folder
    set_seed(recipe.train.seed % (1 << 32))  # as well where the last step was in another process
    if is_main():
        keep_weights(folder, trainer.trained, best=recipe.train.checkpoint == "best")
        run.complete(folder, trainer.autocast, callbacks)
    wait_for_all()
    kept = open_run(folder)
    kept.to(trainer.args.device)  # type: ignore[arg-type]
    metrics: dict[str, float] = {}
    results: dict[str, EvaluationResult] = {}
    if result.validation_source is not None:
        callbacks.stage("evaluation", len(result.validation_source))
        metrics, results = run.evaluate(kept, trainer.autocast, callbacks)
    metrics["train/steps"] = result.steps
    metrics["train/seconds"] = round(trainer.step_seconds, 2)
    metrics["train/data_seconds"] = round(trainer.data_seconds, 2)
    metrics["train/items_per_second"] = round(trainer.read_items / trainer.step_seconds, 1)
    metrics["data/broken_rows"] = len(trainer.broken)
    if result.train_source is not None:
        metrics["data/train_items"] = len(result.train_source)
    for name, count in trainer.truncated.items():
        metrics[f"data/truncated_{name}_rows"] = count
    metrics |= result.metrics
    result = replace(result, metrics=metrics, model=kept, results=results)
    if is_main():
        broken = [{"origin": e.origin, "reason": e.reason} for e in result.broken]
        write_text(folder / BROKEN, json.dumps(broken, indent=1, ensure_ascii=False))
        write_text(folder / "README.md", model_card(run, metrics))
        _calibrate(recipe, result, callbacks)
        more = finish(result)
        write_text(folder / METRICS, json.dumps({**metrics, **more}, indent=1))
        clean_up(folder)
    return result


def _calibrate(recipe: Recipe, result: RunResult, callbacks: ProgressCallbacks) -> None:
    """Fit what needs held-out data into the run folder, such as the match threshold of search."""
    if result.validation_source is None:
        return
    evaluators = kind_of_recipe(recipe).evaluators
    for task, found in result.results.items():
        if task in evaluators and evaluators[task].calibration:
            calibrate = resolve(evaluators[task].calibration)
            done = calibrate(found, result.model, result.validation_source.name, result.folder)
            if done:
                callbacks.warn(done)


def _finished(folder: Path) -> RunResult:
    """The result of a run that was finished before."""
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    file = folder / BROKEN
    broken = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return RunResult(
        folder,
        metrics,
        open_run(folder),
        [BrokenRecordError(row["origin"], row["reason"]) for row in broken],
        finished_before=True,
        train_seconds=metrics["train/seconds"],
        steps=metrics["train/steps"],
    )


@contextmanager
def failed_writes_as_run_errors(folder: Path) -> Iterator[None]:
    """A full disk as one line that says what is kept and how to go on.

    Raises:
        RunError: instead of the error of whichever library was writing.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = is_full_disk(error)
        if not full and not is_failed_write(error):
            raise
        free = shutil.disk_usage(folder).free / 1e6 if folder.exists() else 0.0
        reason = "the disk is full" if full else f"writing failed ({free:,.0f} MB are free)"
        kept = complete_checkpoints(folder)
        state = f"the last checkpoint, {kept[-1]}, is whole" if kept else "there is no checkpoint"
        raise RunError(
            f"{folder}: {reason}; {state}. Free some space and continue with --resume"
        ) from error


def _warn_about_data(trainer: RunTrainer, callbacks: ProgressCallbacks) -> None:
    if trainer.broken:
        first = next(iter(trainer.broken.values()))
        callbacks.warn(
            f"{len(trainer.broken)} broken rows were skipped, listed in broken_rows.json; "
            f"the first: {first}"
        )
    encoders: Any = getattr(trainer.trained.network, "encoders", {})
    preprocessors: Any = trainer.trained.network.preprocessors
    for name, count in trainer.truncated.items():
        if count:
            key = f"model.encoders.{name}" if name in encoders else "model"
            prepare = preprocessors[name]
            callbacks.warn(
                f"{count} of the {name} rows read were truncated; raise "
                f"{key}.{prepare.length_option} if their {prepare.truncated_end} matters"
            )


def model_card(run: Run, metrics: dict[str, float]) -> str:
    """A README.md for the run folder: what it is, how to open it, its metrics."""
    card = run.card(metrics)
    rows = [
        f"| {name} | {value:.4f} |"
        for name, value in card.metrics.items()
        if not name.endswith(("low", "high"))
    ]
    return "\n".join(
        [
            "---",
            "library_name: amodal",
            f"pipeline_tag: {card.pipeline_tag}",
            "---",
            f"# {card.title} trained with amodal",
            "",
            "```python",
            "import amodal",
            'model = amodal.load("THIS FOLDER")',
            card.usage,
            "```",
            "",
            "Metrics on the validation source of the recipe, not corrected for chance:",
            "",
            "| metric | value |",
            "|---|---|",
            *rows,
            "",
            "Recipe:",
            "",
            "```yaml",
            run.recipe.to_yaml().rstrip(),
            "```",
            "",
        ]
    )
