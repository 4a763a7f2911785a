"""The `amodal` command.

Only the module of the command that is run is imported, and it imports torch and other heavy
libraries inside the function of the command: help and usage errors are answered at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from amodal.cli.console import LIGHT_GROUP, errors, escape
from amodal.cli.renamed import Command
from amodal.training.errors import RunError, TrainingError

# Command → where it is, and its line in the help of `amodal`.
COMMANDS = {
    "quickstart": (
        "amodal.cli.quickstart:quickstart",
        "Train, evaluate, index and search on synthetic scenes.",
    ),
    "recipes": ("amodal.cli.recipes:app", "List, show and copy the recipes of the package."),
    "data": ("amodal.cli.data:app", "Make, inspect and pack data sets."),
    "train": ("amodal.cli.train:train", "Train a model from a recipe."),
    "learning-curve": (
        "amodal.cli.learning_curve:learning_curve",
        "Estimate what more training data would give.",
    ),
    "evaluate": ("amodal.cli.evaluate:evaluate", "Evaluate a run on a source."),
    "predict": ("amodal.cli.prediction:predict", "Predict every item of a source."),
    "caption": ("amodal.cli.generation:caption", "Describe images."),
    "ask": ("amodal.cli.generation:ask", "Answer a question about an image."),
    "chat": ("amodal.cli.generation:chat", "Hold a conversation about an image."),
    "draw": ("amodal.cli.text_to_image:draw", "Generate an image from a text."),
    "embed": ("amodal.cli.search:embed", "Write the embeddings of a source as Parquet."),
    "index": ("amodal.cli.search:index", "Build a search index from a source."),
    "search": ("amodal.cli.search:search", "Search an index."),
    "serve": ("amodal.cli.serve:serve", "Serve a web page and a REST API."),
}

# Failures that a user can act on: their message is the whole output, without a traceback.
# DataError, RecipeError and StoreError are ValueErrors; an ImportError names a missing extra.
EXPECTED = (RunError, TrainingError, ValueError, OSError, ImportError)


class Commands(TyperGroup):
    """Commands that are imported when they are run; until then only their help line exists."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name is not None else None, rest


def load_command(name: str) -> Any:
    """The command of this name, its module imported."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(**LIGHT_GROUP)
    single.command(name, cls=Command)(found)
    return typer.main.get_command(single)


app = typer.Typer(
    name="amodal",
    cls=Commands,
    help="One representation for data that comes in several modalities.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    **LIGHT_GROUP,
)
for _name, (_, _help) in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)  # stands for the command in the list of all


def main() -> None:
    """Run the command line; exit code 0 success, 1 the work failed, 2 wrong usage."""
    _quiet()
    try:
        with _sigterm_as_ctrl_c():
            app()
    except EXPECTED as error:
        if os.environ.get("AMODAL_TRACEBACK"):
            raise
        message = escape(str(error) or type(error).__name__)
        errors.print(f"[red]error:[/] {message}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(1)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM interrupts a command as Ctrl-C does: what it has done so far is kept."""
    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)  # a forked worker, which its parent ends
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # the main thread alone can handle signals
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _quiet() -> None:
    """Silence what libraries log about themselves."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|transformers|accelerate")
    for name in ("transformers", "accelerate", "datasets", "PIL"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
