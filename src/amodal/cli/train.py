"""`amodal train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import console, progress_callbacks
from amodal.cli.init import is_data, recipe_for_data
from amodal.training.kinds import kind_of_recipe

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe
    from amodal.training.run import RunResult


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe: a file, or a name such as quickstart; or data, as for `amodal init`."
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
) -> None:
    """Train a model and write a run folder."""
    from amodal.distributed import is_main
    from amodal.reports.report import PAGE
    from amodal.reports.run_report import write_run_report
    from amodal.training.recipe import load_recipe
    from amodal.training.run import train_run

    file = recipe_for_data(recipe) if is_data(recipe) else Path(recipe)
    loaded = load_recipe(file, set_)
    title = file.stem
    folder = out or Path("runs") / title

    def finish(result: RunResult) -> dict[str, float]:
        write_run_report(result, loaded, title=title)
        return {}

    with progress_callbacks() as callbacks:
        result = train_run(loaded, folder, resume=resume, callbacks=callbacks, finish=finish)
    if result.stopped_at is not None:
        print_last_step(result)
        raise KeyboardInterrupt
    if is_main():
        show_result(result, loaded)
        console.print(f"the report is {folder / PAGE}", soft_wrap=True)


def print_last_step(result: RunResult) -> None:
    """Print that a run that was stopped can be resumed."""
    from amodal.distributed import is_main

    if is_main():
        console.print(
            f"interrupted at step {result.stopped_at}, nothing is lost: continue with the same "
            "command and --resume",
            soft_wrap=True,
        )


def show_result(result: RunResult, recipe: Recipe) -> None:
    """Print the headline metrics of a run, what they mean, and its folder."""
    from amodal.evaluators.interpretation import interpret

    for name in kind_of_recipe(recipe).headline_metrics(result.metrics):
        plain = name.removeprefix("retrieval/").removeprefix("prediction/")
        console.print(f"{plain:32} {result.metrics[name]:.3f}")
    for sentence in interpret(result.metrics):
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print(
        f"{result.steps} steps in {result.train_seconds:.0f} s of training; "
        f"the run is in {result.folder}",
        soft_wrap=True,
    )
