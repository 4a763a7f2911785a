"""From a recipe to a run folder: open the data, build the model, train, evaluate, write."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from transformers import set_seed

from amodal.data.cache import CachedSource, Decoder
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, Source
from amodal.data.sources.specification import open_random_access
from amodal.distributed import barrier, is_main
from amodal.evaluators.generation_metrics import GenerationResult
from amodal.evaluators.prediction import PredictionResult
from amodal.evaluators.retrieval import EmbeddedSource
from amodal.evaluators.text_to_image import TextToImageResult
from amodal.modalities.registry import modality
from amodal.models.inputs import column_styles
from amodal.models.opening import RunModel
from amodal.models.run_folder import WEIGHTS
from amodal.training.progress import ProgressCallbacks
from amodal.training.progressive import accepts_image_size
from amodal.training.recipe import Recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.fusion import FusionRecipe
from amodal.training.recipes.image_tokenizer import ImageTokenizerRecipe
from amodal.training.recipes.multimodal_transformer import MultimodalTransformerRecipe
from amodal.training.tasks.fusion_run import FusionRun
from amodal.training.tasks.image_tokenizer_run import TokenizerRun
from amodal.training.tasks.joint_embedding_run import EmbeddingRun
from amodal.training.tasks.multimodal_transformer_run import MultimodalTransformerRun
from amodal.training.trainer import BEST, RunTrainer, complete_checkpoints

Measured = EmbeddedSource | PredictionResult | tuple[GenerationResult, ...] | TextToImageResult
AnyRun = EmbeddingRun | FusionRun | MultimodalTransformerRun | TokenizerRun


class RunError(RuntimeError):
    """The run folder cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Args:
        folder: the complete run folder.
        metrics: flat figures, as in metrics.json; empty without a validation source.
        model: the model of the folder, on the device that it was trained on.
        validation: the validation source, embedded, predicted, spoken about or drawn.
        broken: records that were skipped while training, each once.
        stopped_at: step at which Ctrl-C ended the run, or None where it went to its end.
        train_seconds: seconds in optimizer steps, over all resumes; no evaluation, no saving.
        steps: optimizer steps of the whole run.
        train_rows: rows of the training source.
    """

    folder: Path
    metrics: dict[str, float]
    model: RunModel
    broken: list[BrokenRecordError] = field(default_factory=list)
    validation: Measured | None = None
    stopped_at: int | None = None
    train_seconds: float = 0.0
    steps: int = 0
    train_rows: int = 0


def train_run(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    callbacks: ProgressCallbacks | None = None,
) -> RunResult:
    """Train what `recipe` says and leave a complete model in `folder`.

    Raises:
        RunError: the folder cannot be written, or already holds another run.
        DataError: a source cannot be used.
        TrainingError: the loss is no longer a number.
    """
    callbacks = callbacks or ProgressCallbacks()
    _prepare_folder(recipe, folder, resume)
    set_seed(recipe.train.seed % (1 << 32))
    train, validation = open_sources(recipe, callbacks)
    run = _kind_of(recipe)(recipe, train, validation, resume=resume)
    for name, prepare in run.model.preprocessors.items():
        prepare.save(folder / name)
    _check_sizes(recipe, run.model)
    trainer = RunTrainer(
        run.trained(),
        run.task,
        BatchReader(train, run.collator, seed=recipe.train.seed),
        recipe.train,
        folder,
        workers=recipe.data.workers,
        report=callbacks.logged,
    )
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
        )
    if is_main():
        _keep_weights(trainer, recipe, folder)
        run.complete(folder, trainer.autocast, callbacks)
    barrier()
    kept: Any = run.reopened(folder)
    kept.to(trainer.args.device)
    metrics: dict[str, float] = {}
    measured: Measured | None = None
    if validation is not None:
        callbacks.stage("evaluation", len(validation))
        metrics, measured = run.measured(kept, trainer.autocast, callbacks)
    metrics["train/steps"] = steps
    metrics["train/seconds"] = round(trainer.step_seconds, 2)
    metrics["train/items_per_second"] = round(trainer.seen_items / trainer.step_seconds, 1)
    metrics["data/broken_rows"] = len(trainer.broken)
    for name, count in trainer.truncated.items():
        metrics[f"data/truncated_{name}_rows_seen"] = count
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
        measured,
        train_seconds=trainer.step_seconds,
        steps=steps,
        train_rows=len(train),
    )


def _cores() -> int:
    """Cores that this process may run on: fewer than there are in many containers."""
    available = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(available(0)) if available is not None else os.cpu_count() or 1


def _kind_of(recipe: Recipe) -> type[AnyRun]:
    if isinstance(recipe.model, FusionRecipe):
        return FusionRun
    if isinstance(recipe.model, ImageTokenizerRecipe):
        return TokenizerRun
    return (
        MultimodalTransformerRun
        if isinstance(recipe.model, MultimodalTransformerRecipe)
        else EmbeddingRun
    )


def open_sources(
    recipe: Recipe, callbacks: ProgressCallbacks | None = None
) -> tuple[Source, Source | None]:
    """The training and the validation source of a recipe, in memory where it says so.

    Raises:
        DataError: a source cannot be read, is empty, or only streams.
    """
    callbacks = callbacks or ProgressCallbacks()
    types = recipe.model.types
    decoders = _decoders(recipe) if recipe.data.cache else {}
    opened: list[Source | None] = []
    for name, config in (("train", recipe.data.train), ("validation", recipe.data.validation)):
        if config is None:
            opened.append(None)
            continue
        source = open_random_access(config, f"data.{name}", column_styles(types))
        if decoders:
            cached = CachedSource(source, decoders)
            callbacks.stage(f"reading {name}", len(cached))
            cached.fill(callbacks.advance, processes=_cores())
            source = cached
        opened.append(source)
    train, validation = opened
    assert train is not None
    return train, validation


def _decoders(recipe: Recipe) -> dict[str, Decoder]:
    """Input -> decoder of the values that are kept in memory."""
    encoders: Mapping[str, Any] = getattr(recipe.model, "encoders", {})
    found = {name: modality(config.type).cached(config) for name, config in encoders.items()}
    return {name: decode for name, decode in found.items() if decode is not None}


def _check_sizes(recipe: Recipe, model: RunModel) -> None:
    growing = recipe.train.progressive_size
    if growing is None:
        return
    encoders: Any = getattr(model, "encoders", {})  # an image tokenizer has none
    sizes = {
        name: (encoder, model.preprocessors[name].size)
        for name, encoder in encoders.items()
        if hasattr(model.preprocessors[name], "size")
    }
    if not sizes:
        raise RecipeError("train.progressive_size needs an image encoder in model.encoders")
    for name, (encoder, side) in sizes.items():
        if growing.start > side:
            raise RecipeError(
                f"train.progressive_size.start: {growing.start}; model.encoders.{name} takes "
                f"{side} pixels"
            )
        if not accepts_image_size(encoder, growing.start):
            raise RecipeError(
                f"train.progressive_size: model.encoders.{name} takes images of {side} pixels "
                "only; leave it out, or choose an encoder without learned positions"
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
    for name, count in trainer.truncated.items():
        if count:
            prepare: Any = trainer.trained.network.preprocessors[name]
            encoders: Any = getattr(trainer.trained.network, "encoders", {})
            place = f"model.encoders.{name}" if name in encoders else "model"
            callbacks.warn(
                f"{count} of the {name} rows seen were truncated; raise "
                f"{place}.{prepare.length_option} if their {prepare.truncated_end} matters"
            )


@contextmanager
def _graceful_interrupt(trainer: RunTrainer) -> Iterator[None]:
    """The first Ctrl-C ends the run after the current step, with a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.interrupted = True

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: whoever runs it handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def model_card(run: AnyRun, metrics: dict[str, float]) -> str:
    """A README.md for the run folder: what it is, how to open it, what it scores."""
    rows = [
        f"| {name} | {value:.4f} |"
        for name, value in run.shown(metrics).items()
        if not name.endswith(("low", "high"))
    ]
    return "\n".join(
        [
            "---",
            "library_name: amodal",
            f"pipeline_tag: {run.pipeline}",
            "---",
            f"# {run.title} trained with amodal",
            "",
            "```python",
            "import amodal",
            'model = amodal.load("THIS FOLDER")',
            run.usage,
            "```",
            "",
            "Figures on the validation source of the recipe, chance not taken off:",
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
