"""`amodal train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.console import console, progress_callbacks
from amodal.data.record import Source
from amodal.data.sources.specification import open_random_access
from amodal.distributed import is_main
from amodal.models.fusion_model import FusionModel
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.reports.fusion import fusion_report
from amodal.reports.generation import generation_report
from amodal.reports.image_tokenizer import tokenizer_report
from amodal.reports.joint_embedding import run_report
from amodal.reports.report import Report, write_report
from amodal.reports.text_to_image import text_to_image_report
from amodal.training.recipe import Recipe, load_recipe
from amodal.training.recipes.multimodal_transformer import MultimodalTransformerRecipe
from amodal.training.run import RunResult, train_run

SHOWN = (
    "prediction/",
    "vqa/",
    "caption/",
    "dialogue/",
    "text_to_image/",
    "reconstruction/",
)  # figures beside recall


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
    with progress_callbacks() as callbacks:
        result = train_run(loaded, folder, resume=resume, callbacks=callbacks)
    if result.stopped_at is not None:
        raise stopped(result)
    show_result(result)
    if is_main():
        page = write_report(folder, _page(result, loaded, recipe))
        console.print(f"the report is {page}", soft_wrap=True)


def _page(result: RunResult, recipe: Recipe, path: Path) -> Report:
    source = _validation(recipe)
    if isinstance(result.model, FusionModel):
        commands = [
            f"amodal evaluate {result.folder} --on SOURCE --task prediction # on other data",
            f"amodal evaluate {result.folder} --task robustness # with modalities missing or noisy",
            f"amodal predict {result.folder} SOURCE --out predictions.csv # for every row",
        ]
        return fusion_report(result, recipe, source, title=path.stem, commands=commands)
    if isinstance(result.model, MultimodalTransformer) and result.model.generates_images:
        return text_to_image_report(
            result, recipe, title=path.stem, commands=_to_say(result, recipe)
        )
    if isinstance(result.model, MultimodalTransformer):
        return generation_report(
            result, recipe, source, title=path.stem, commands=_to_say(result, recipe)
        )
    if isinstance(result.model, ImageTokenizer):
        return tokenizer_report(result, recipe, source, title=path.stem)
    commands = [
        f"amodal evaluate {result.folder} --on SOURCE # on other data",
        f"amodal index {result.folder} SOURCE --out {result.folder}/index # make it searchable",
    ]
    return run_report(result, recipe, source, title=path.stem, commands=commands)


def _to_say(result: RunResult, recipe: Recipe) -> list[str]:
    tasks = recipe.model.tasks if isinstance(recipe.model, MultimodalTransformerRecipe) else ()
    known = {
        "vqa": f'amodal ask {result.folder} PICTURE "QUESTION" # an answer, and where it looked',
        "caption": f"amodal caption {result.folder} PICTURE # describe any image",
        "single_turn": f'amodal ask {result.folder} PICTURE "QUESTION" # without a history',
        "dialogue": f"amodal chat {result.folder} PICTURE # a conversation that keeps its history",
        "text_to_image": f'amodal draw {result.folder} "TEXT" --out drawn.png # an image of any text',
    }
    return [known[task] for task in tasks] + [
        f"amodal evaluate {result.folder} --on SOURCE --task {tasks[0]} # on other data"
    ]


def _validation(recipe: Recipe) -> Source | None:
    """The validation source, for its images; nothing is read before it is shown."""
    config = recipe.data.validation
    return open_random_access(config, "data.validation") if config is not None else None


def stopped(result: RunResult) -> typer.Exit:
    """Say that Ctrl-C lost nothing; raise the result to end the command."""
    console.print(
        f"stopped at step {result.stopped_at}, nothing is lost: the same command with "
        "--resume goes on",
        soft_wrap=True,
    )
    return typer.Exit(1)


def show_result(result: RunResult) -> None:
    """Print the figures of a run and where it lies."""
    for name, value in result.metrics.items():
        shown = "recall@" in name or name.startswith(SHOWN)
        if shown and not name.endswith(("low", "high")):
            plain = name.removeprefix("retrieval/").removeprefix("prediction/")
            console.print(f"{plain:32} {value:.3f}")
    console.print(
        f"{result.steps} steps in {result.train_seconds:.0f} s of training; "
        f"the run is in {result.folder}",
        soft_wrap=True,
    )
