"""The run folder: begun, resumed with what was fitted at its beginning, and finished."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors.torch import save_file

from amodal.data.atomic import staged_file, staged_files, write_text
from amodal.data.record import Source
from amodal.data.yaml_document import parse_yaml, read_yaml
from amodal.distributed import is_main
from amodal.models.run_location import CONFIG, WEIGHTS
from amodal.training.checkpoints import CHECKPOINTS, complete_checkpoints
from amodal.training.errors import RunError
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.sources import summarize_source
from amodal.training.trained import Trained

RECIPE = "recipe.yaml"
LOG = "train_log.jsonl"
METRICS = "metrics.json"
BROKEN = "broken_rows.json"
OBJECTIVES = "objectives.safetensors"
BEST = "best"
BEST_SCORE = "best.json"
DATA = "data.json"  # in the folder of the checkpoints


def prepare_folder(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Make a folder for a new run, or check that it holds the one to be resumed.

    Raises:
        RunError: it cannot be written, holds another run, or none.
        RecipeError: the run was started with another recipe.
    """
    saved = folder / RECIPE
    # A run that was killed as soon as it had made its folder left nothing else behind.
    empty = folder.is_dir() and not any(p.suffix != ".partial" for p in folder.iterdir())
    if resume and not saved.is_file() and not empty:
        raise RunError(f"{folder}: nothing to resume, there is no {RECIPE}; leave out --resume")
    if resume and saved.is_file():
        different = _differences(read_yaml(saved), parse_yaml(recipe.to_yaml()))
        if different:
            raise RecipeError(
                f"{saved}: the run was started with other values of {', '.join(different)}; "
                "resume with the same recipe, or start anew with another --out"
            )
        if is_finished(folder):
            return
    checkpoints = complete_checkpoints(folder)
    if not resume and (checkpoints or (folder / WEIGHTS).exists()):
        raise RunError(
            f"{folder}: already holds a run; add --resume to go on with it, or choose another --out"
        )
    if checkpoints and not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: {CONFIG} is missing, without which it cannot be resumed")
    _check_writable(folder)
    if is_main() and not checkpoints:
        for stale in (LOG, METRICS):
            (folder / stale).unlink(missing_ok=True)
        shutil.rmtree(folder / BEST, ignore_errors=True)
        write_text(saved, recipe.to_yaml())


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_test"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another --out"
        ) from None


def _differences(a: object, b: object, prefix: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        found = [_differences(a.get(k), b.get(k), f"{prefix}.{k}" if prefix else k) for k in keys]
        return [name for names in found for name in names]
    return [] if a == b else [prefix]


def keep_data_summary(
    folder: Path, train: Source, validation: Source | None, callbacks: ProgressCallbacks | None
) -> None:
    """Keep what identifies the data of a run; warn where that is not what it began with.

    Args:
        callbacks: of a resumed run; None: the run begins.
    """
    file = folder / CHECKPOINTS / DATA
    sources = {"train": train, "validation": validation}
    now = {name: summarize_source(s) for name, s in sources.items() if s is not None}
    if callbacks is not None and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name in now.keys() & before.keys():
            if now[name] != before[name]:
                had, has = before[name]["items"], now[name]["items"]
                change = f"{has} items, {had} before" if has != had else f"other values in {has}"
                callbacks.warn(
                    f"data.{name} has changed since the run began: {change}; training goes on with "
                    "the preprocessors of the run folder (tokenizer, statistics, classes)"
                )
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps(now))


def append_line(folder: Path, line: str) -> None:
    """Write one line of the log of a run."""
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def log_size(folder: Path) -> int:
    """Bytes of the log so far."""
    return (folder / LOG).stat().st_size if (folder / LOG).is_file() else 0


def cut_log(folder: Path, size: int) -> None:
    """Drop what was logged later; a resumed run logs it again."""
    if log_size(folder) > size:
        os.truncate(folder / LOG, size)


def is_finished(folder: Path) -> bool:
    """Whether a run went to its end: metrics.json is written last."""
    return (folder / METRICS).is_file() and (folder / WEIGHTS).is_file()


def write_weights(folder: Path, trained: Trained) -> None:
    """Write the weights to keep as a model, and those of the objectives beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = trained.objective_weights()
    if learned:
        tensors = {name: weights.detach().cpu().contiguous() for name, weights in learned.items()}
        with staged_file(folder / OBJECTIVES) as staged:
            save_file(tensors, staged)
    trained.evaluation_weights.save_pretrained(folder)


def keep_weights(folder: Path, last: Trained, *, best: bool) -> None:
    """The best weights so far, or the last, as the model of the run."""
    if not best or not (folder / BEST / WEIGHTS).is_file():
        write_weights(folder, last)
        return
    with staged_files(folder, last=WEIGHTS) as staged:
        shutil.copytree(folder / BEST, staged, dirs_exist_ok=True)
        (staged / BEST_SCORE).unlink()


def clean_up(folder: Path) -> None:
    """Remove what a finished run has no use for: its best weights are the model now."""
    shutil.rmtree(folder / BEST, ignore_errors=True)
