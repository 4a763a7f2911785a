"""`amodal train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.console import console, progress_watcher
from amodal.training.recipe import load_recipe
from amodal.training.run import RunResult, train_run


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/quickstart.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a model; the run folder is then complete."""
    loaded = load_recipe(recipe, set_)
    folder = out or Path("runs") / recipe.stem
    with progress_watcher() as watch:
        result = train_run(loaded, folder, resume=resume, watch=watch)
    if result.stopped_at is not None:
        console.print(
            f"stopped at step {result.stopped_at}, nothing is lost: the same command with "
            "--resume goes on",
            soft_wrap=True,
        )
        raise typer.Exit(1)
    show_result(result)


def show_result(result: RunResult) -> None:
    """Print the figures of a run and where it lies."""
    for name, value in result.metrics.items():
        if "recall@" in name and not name.endswith(("low", "high")):
            console.print(f"{name.removeprefix('retrieval/'):32} {value:.3f}")
    console.print(
        f"{result.steps} steps in {result.train_seconds:.0f} s of training; "
        f"the run is in {result.folder}",
        soft_wrap=True,
    )
