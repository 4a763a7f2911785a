"""`amodal learning-curve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.console import console, progress_callbacks

Shares = Annotated[
    list[float] | None,
    typer.Option(
        "--share",
        min=0.001,
        max=1,
        help="Share of the training items of one run; may be repeated. 0.25, 0.5 and 1 by default.",
        show_default=False,
    ),
]


def learning_curve(
    recipe: Annotated[str, typer.Argument(help="A recipe: a file, or a name such as quickstart.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe."),
    ] = None,
    share: Shares = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric from 0 to 1, as in metrics.json; the first headline by default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs; runs/RECIPE-curve by default.")
    ] = None,
) -> None:
    """Train on nested parts of the training items, and estimate what more data would give.

    Each part is a complete run. Run again to continue after a stop.
    """
    from rich.table import Table

    from amodal.training.learning_curve import CURVE, SHARES, trace_learning_curve
    from amodal.training.recipe import load_recipe

    loaded = load_recipe(Path(recipe), set_)
    folder = out or Path("runs") / f"{Path(recipe).stem}-curve"
    if share is not None and len(set(share)) < 2:
        raise typer.BadParameter("--share: a curve needs two different shares or more")
    with progress_callbacks() as callbacks:
        curve = trace_learning_curve(
            loaded, folder, shares=share or SHARES, metric=metric, callbacks=callbacks
        )
    if curve is None:
        console.print("the same command continues")
        raise KeyboardInterrupt
    table = Table("training items", curve.metric, "95 % interval", box=None, pad_edge=False)
    for items, score in zip(curve.items, curve.scores, strict=True):
        table.add_row(f"{items:,}", f"{score.value:.3f}", f"{score.low:.3f} … {score.high:.3f}")
    console.print(table)
    for sentence in curve.sentences():
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print(f"written to {folder / CURVE}", soft_wrap=True)
