"""The commands of `amodal`.

Only the module of the command that is run is imported, and it imports torch and other heavy
libraries inside the function of the command: help and usage errors are answered at once.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from amodal.cli.console import LIGHT_GROUP
from amodal.cli.renamed import Command

# Command → where it is, and its line in the help of `amodal`.
COMMANDS = {
    "quickstart": (
        "amodal.cli.quickstart:quickstart",
        "Train, evaluate, index and search on synthetic scenes.",
    ),
    "init": ("amodal.cli.init:init", "Look at your data and write a recipe for it."),
    "recipes": ("amodal.cli.recipes:app", "List, show and copy the recipes of the package."),
    "data": ("amodal.cli.data:app", "Make, inspect and pack data sets."),
    "train": ("amodal.cli.train:train", "Train a model from a recipe."),
    "learning-curve": (
        "amodal.cli.learning_curve:learning_curve",
        "Estimate what more training data would give.",
    ),
    "doctor": ("amodal.cli.doctor:doctor", "Say what is wrong with a run, a recipe or data."),
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
