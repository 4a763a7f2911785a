"""`amodal init`, and `amodal train` of data without a recipe."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import console, escape, note, progress_callbacks
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.packaged import SUFFIXES, packaged_recipes

if TYPE_CHECKING:
    from amodal.setup.prepare import Prepared


class TaskName(StrEnum):
    """Task of a recipe."""

    search = "search"
    prediction = "prediction"
    questions = "questions"
    captions = "captions"


def init(
    path: Annotated[
        str,
        typer.Argument(
            help="A folder of images, a table (CSV, XLSX, JSONL, Parquet), shards or annotations."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Recipe file to write; PATH.yaml by default.")
    ] = None,
    task: Annotated[TaskName | None, typer.Option(help="What the model is for.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take the most plausible choice without asking.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Look at your data and write a recipe for it."""
    path = _as_written(path)
    file = out or recipe_file(path)
    if file.exists() and not overwrite:
        raise RecipeError(f"{file}: already exists; choose another --out, or add --overwrite")
    made = _write(path, file, task=task, target=target, yes=yes)
    console.print("next:", highlight=False)
    for command in made.commands:
        console.print(f"  {command}", soft_wrap=True, markup=False, highlight=False)


def is_data(text: str) -> bool:
    """Whether a word on the command line names data rather than a recipe."""
    path = Path(text)
    return path.exists() and path.suffix not in SUFFIXES and text not in packaged_recipes()


def recipe_for_data(path: str) -> Path:
    """The recipe of data: one that `amodal init` has written for it, or a new one.

    Raises:
        RecipeError: a recipe of that name is there, which was not made for this data; or there is
            none, and this is one of several processes.
    """
    path = _as_written(path)
    file = recipe_file(path)
    if not file.exists():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RecipeError(
                f"{path}: of several processes none makes a recipe; run `amodal init {path}` first"
            )
        note(f"{path} is no recipe: one is made as with `amodal init {path} --yes`")
        _write(path, file, task=None, target=None, yes=True)
        return file
    if not _was_made_for(file, path):
        raise RecipeError(
            f"{file}: already exists, and `amodal init {path}` has not made it; train it with "
            f"`amodal train {file}`, or make another: `amodal init {path} --out OTHER.yaml`"
        )
    note(f"{path} is no recipe: {file} is used, which `amodal init {path}` has made")
    return file


def recipe_file(path: str) -> Path:
    """File of the recipe for some data: in the working directory, named as the data are."""
    data = Path(os.path.abspath(path))  # a link keeps its own name
    name = re.sub(r"[^\w.-]+", "-", data.name if data.is_dir() else data.stem).strip("-.")
    return Path(f"{name or 'recipe'}.yaml")


def _was_made_for(file: Path, path: str) -> bool:
    """Whether the header of a recipe names this data."""
    text = file.read_text(encoding="utf-8", errors="replace")
    header = (line[1:] for line in text.splitlines() if line.startswith("#"))
    return " ".join(f"data {path}: ".split()) in " ".join(" ".join(header).split())


def _as_written(path: str) -> str:
    """A path without a slash at its end; another word for a source as it is."""
    return str(Path(path)) if Path(path).exists() else path


def _write(
    path: str, file: Path, *, task: TaskName | None, target: str | None, yes: bool
) -> Prepared:
    from amodal.data.atomic import write_text
    from amodal.setup.prepare import prepare

    asked = sys.stdin.isatty() and console.is_terminal and not yes
    with progress_callbacks() as callbacks:
        made = prepare(
            path,
            file,
            _ask if asked else _take,
            task=task.value if task is not None else None,
            target=target,
            callbacks=callbacks,
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, made.text)
    for title, lines in {"found": made.found, "chosen": made.chosen}.items():
        console.print(f"{title}:", highlight=False)
        for line in lines:
            console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)
    for warning in made.warnings:
        note(warning)
    console.print(f"the recipe is {escape(str(file))}", soft_wrap=True, highlight=False)
    return made


def _ask(question: str, options: Sequence[str], guess: str | None, option: str) -> str:
    """The answer of a person, a name or a number from the list."""
    for number, name in enumerate(options, start=1):
        console.print(f"  {number}  {escape(name)}", highlight=False)
    while True:
        answer = str(typer.prompt(question, default=guess))
        if answer in options:
            return answer
        if answer.isascii() and answer.isdigit() and 0 < int(answer) <= len(options):
            return options[int(answer) - 1]
        note(f"expected one of the names or 1 to {len(options)}, got {answer!r}")


def _take(question: str, options: Sequence[str], guess: str | None, option: str) -> str:
    """The guess, said.

    Raises:
        DataError: there is none.
    """
    from amodal.data.record import DataError

    listed = ", ".join(options) or "none"
    if guess is None:
        raise DataError(f"{question} Say it with {option}; possible are: {listed}")
    note(f"{question} Taken: {guess}, of {listed}")
    return guess
