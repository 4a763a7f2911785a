"""From a recipe to a run folder: open the data, build the model, train, evaluate, write."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from transformers import PreTrainedModel, set_seed

from amodal.data.notes import notes_of
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, Source
from amodal.distributed import barrier, is_main
from amodal.evaluators.result import EvaluationResult
from amodal.models.run_folder import WEIGHTS
from amodal.training.errors import RunError
from amodal.training.kinds import kind_of_recipe, open_run, run_class
from amodal.training.progress import ProgressCallbacks
from amodal.training.progressive import check_progressive_size
from amodal.training.recipe import Recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.sources import open_sources
from amodal.training.tasks.protocol import Run
from amodal.training.trainer import BEST, RunTrainer, complete_checkpoints


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
    train_seconds: float = 0.0
    steps: int = 0
    train_source: Source | None = None
    validation_source: Source | None = None


def train_run(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    callbacks: ProgressCallbacks | None = None,
) -> RunResult:
    """Train the model of a recipe and leave it complete in `folder`.

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
    _prepare_folder(recipe, folder, resume)
    set_seed(recipe.train.seed % (1 << 32))
    train, validation = open_sources(recipe, callbacks)
    run = run_class(kind_of_recipe(recipe))(recipe, train, validation, resume=resume)
    for name, prepare in run.model.preprocessors.items():  # type: ignore[operator,union-attr]
        prepare.save(folder / name)
    if recipe.train.progressive_size is not None:
        check_progressive_size(recipe.train.progressive_size, run.model)
    trainer = RunTrainer(
        run.trained(),
        run.task,
        BatchReader(train, run.collator, seed=recipe.train.seed),
        recipe.train,
        folder,
        workers=recipe.data.workers,
        report=callbacks.logged,
    )
    if trainer.precision_timing is not None:
        callbacks.warn(str(trainer.precision_timing))
    sources = [train] if validation is None else [train, validation]
    for told in dict.fromkeys(f"{s.name}: {note}" for s in sources for note in notes_of(s)):
        callbacks.warn(told)
    callbacks.stage("training", len(trainer.sampler))
    checkpoints = complete_checkpoints(folder) if resume else []
    with _graceful_interrupt(trainer):
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    steps = trainer.state.global_step
    for error in getattr(train, "broken_rows", ()):  # rows that never became part of an item
        trainer.broken.setdefault(error.origin, error)
    _warn_about_data(trainer, callbacks)
    if trainer.interrupted:
        return RunResult(
            folder,
            {},
            trainer.trained.best_guess,
            list(trainer.broken.values()),
            stopped_at=steps,
            train_seconds=trainer.step_seconds,
            steps=steps,
            train_source=train,
            validation_source=validation,
        )
    if is_main():
        _keep_weights(trainer, recipe, folder)
        run.complete(folder, trainer.autocast, callbacks)
    barrier()
    kept = open_run(folder)
    kept.to(trainer.args.device)  # type: ignore[arg-type]
    metrics: dict[str, float] = {}
    results: dict[str, EvaluationResult] = {}
    if validation is not None:
        callbacks.stage("evaluation", len(validation))
        metrics, results = run.evaluate(kept, trainer.autocast, callbacks)
    metrics["train/steps"] = steps
    metrics["train/seconds"] = round(trainer.step_seconds, 2)
    metrics["train/items_per_second"] = round(trainer.read_items / trainer.step_seconds, 1)
    metrics["data/broken_rows"] = len(trainer.broken)
    for name, count in trainer.truncated.items():
        metrics[f"data/truncated_{name}_rows"] = count
    if is_main():
        _write(folder / "metrics.json", json.dumps(metrics, indent=1))
        broken = [{"origin": e.origin, "reason": e.reason} for e in trainer.broken.values()]
        _write(folder / "broken_rows.json", json.dumps(broken, indent=1, ensure_ascii=False))
        _write(folder / "README.md", model_card(run, metrics))
    return RunResult(
        folder,
        metrics,
        kept,
        list(trainer.broken.values()),
        results,
        train_seconds=trainer.step_seconds,
        steps=steps,
        train_source=train,
        validation_source=validation,
    )


def _prepare_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    text = recipe.to_yaml()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_test"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another --out"
        ) from None
    saved = folder / "recipe.yaml"
    begun = bool(complete_checkpoints(folder)) or (folder / WEIGHTS).exists()
    if resume and not saved.is_file():
        raise RunError(f"{folder}: nothing to resume, there is no recipe.yaml; leave out --resume")
    if resume:
        different = _differences(yaml.safe_load(saved.read_text("utf-8")), yaml.safe_load(text))
        if different:
            raise RecipeError(
                f"{saved}: the run was started with other values of {', '.join(different)}; "
                "resume with the same recipe, or start anew with another --out"
            )
    elif begun:
        raise RunError(
            f"{folder}: already holds a run; add --resume to go on with it, or choose another --out"
        )
    if is_main() and not resume:
        for stale in (folder / "train_log.jsonl", folder / "metrics.json"):
            stale.unlink(missing_ok=True)
        shutil.rmtree(folder / BEST, ignore_errors=True)
        _write(saved, text)


def _differences(a: object, b: object, prefix: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        found = [_differences(a.get(k), b.get(k), f"{prefix}.{k}" if prefix else k) for k in keys]
        return [name for names in found for name in names]
    return [] if a == b else [prefix]


def _keep_weights(trainer: RunTrainer, recipe: Recipe, folder: Path) -> None:
    """The best weights so far, or the last, as the model of the run."""
    best = folder / BEST
    if recipe.train.keep == "best" and (best / WEIGHTS).is_file():
        for path in best.iterdir():
            if path.name == "best.json":
                continue
            if path.is_dir():
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
            else:
                shutil.copy2(path, folder / path.name)
    else:
        trainer.trained.best_guess.save_pretrained(folder)
    shutil.rmtree(best, ignore_errors=True)


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


@contextmanager
def _graceful_interrupt(trainer: RunTrainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after the current step, with a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        yield  # the main thread alone can handle signals
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
