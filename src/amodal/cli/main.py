"""The `amodal` command."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from amodal.cli import (
    data,
    evaluate,
    generation,
    prediction,
    quickstart,
    search,
    serve,
    text_to_image,
    train,
)
from amodal.cli.console import errors
from amodal.data.record import BrokenRecordError, DataError
from amodal.training.recipes.error import RecipeError
from amodal.training.run import RunError
from amodal.training.trainer import TrainingError

# Failures that a user can act on: their message is the whole output, without a traceback.
EXPECTED = (
    DataError,
    BrokenRecordError,
    RecipeError,
    RunError,
    TrainingError,
    ValueError,
    OSError,
    ImportError,  # an extra that is not installed
)

app = typer.Typer(
    name="amodal",
    help="One representation for data that comes in several modalities.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(quickstart.quickstart)
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(prediction.predict)
app.command()(generation.caption)
app.command()(generation.ask)
app.command()(generation.chat)
app.command()(text_to_image.draw)
app.command()(search.embed)
app.command()(search.index)
app.command()(search.search)
app.command()(serve.serve)


def main() -> None:
    """Run the command line; exit code 0 success, 1 the work failed, 2 wrong usage."""
    _quiet()
    try:
        app()
    except EXPECTED as error:
        if os.environ.get("AMODAL_TRACEBACK"):
            raise
        errors.print(f"[red]error[/] {_plain(error)}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(1)


def _plain(error: BaseException) -> str:
    return str(error).replace("[", r"\[") or type(error).__name__


def _quiet() -> None:
    """Leave out what libraries say about themselves."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|transformers|accelerate")
    for name in ("transformers", "accelerate", "datasets", "PIL"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
