"""`amodal recipes`: list, show and copy the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.console import LIGHT_GROUP, console, escape
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.packaged import find_recipe, packaged_recipes, read_header

app = typer.Typer(
    help="List, show and copy the recipes of the package.",
    invoke_without_command=True,
    **LIGHT_GROUP,
)
Name = Annotated[str, typer.Argument(help="A recipe, such as quickstart.", show_default=False)]


@app.callback()
def recipes(context: typer.Context) -> None:
    """List, show and copy the recipes that come with the package."""
    if context.invoked_subcommand is None:
        list_()


@app.command(name="list")
def list_() -> None:
    """List the recipes: what each is for, and the hardware that it needs."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("purpose", overflow="fold", ratio=3)
    table.add_column("hardware", overflow="fold", ratio=2)
    for name, path in packaged_recipes().items():
        header = read_header(path)
        table.add_row(name, escape(header.summary), escape(header.hardware))
    console.print(table)
    console.print("train one with: amodal train NAME", highlight=False)


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def copy(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="File to write; NAME.yaml by default.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Copy a recipe, to change it."""
    source = find_recipe(name)
    file = out or Path(source.name)
    if file.is_dir():
        file = file / source.name
    if file.exists() and not overwrite:
        raise RecipeError(f"{file}: already exists; choose another --out, or add --overwrite")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(source.read_bytes())
    console.print(f"{file}: train it with: amodal train {file}", soft_wrap=True, markup=False)
