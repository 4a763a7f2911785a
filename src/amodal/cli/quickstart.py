"""`amodal quickstart`: train, evaluate, index, search and report on built-in synthetic scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from amodal.cli.console import console, progress_callbacks
from amodal.cli.train import print_last_step, show_result

if TYPE_CHECKING:
    from amodal.data.record import Source
    from amodal.models.joint_embedding import JointEmbedding
    from amodal.search.store import VectorStore
    from amodal.training.recipe import Recipe
    from amodal.training.run import RunResult

EXAMPLES = (
    "a large red circle in the top left corner",
    "a small blue star at the centre left and a big green square at the bottom right",
    "a medium yellow heart with stripes in the middle on a white background",
)


def quickstart(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/quickstart"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
) -> None:
    """Train on built-in synthetic scenes, evaluate, index, search, and write report.html."""
    from amodal.reports.report import PAGE
    from amodal.training.recipe import load_recipe
    from amodal.training.recipes.packaged import packaged_recipes
    from amodal.training.run import train_run

    recipe = load_recipe(packaged_recipes()["quickstart"], set_)

    def finish(result: RunResult) -> dict[str, float]:
        return _finish(result, recipe)

    with progress_callbacks() as callbacks:
        result = train_run(recipe, out, resume=resume, callbacks=callbacks, finish=finish)
    if result.stopped_at is not None:
        print_last_step(result)
        raise KeyboardInterrupt
    page = out / PAGE
    console.print(f"\nOpen the report: [link={page.resolve().as_uri()}]{page}[/link]")
    console.print(f"  {page.resolve().as_uri()}", soft_wrap=True, highlight=False)
    console.print(f'Search on:       amodal search {out}/index "a yellow ring"', soft_wrap=True)
    console.print(f"or on a page:    amodal serve {out}/index", soft_wrap=True)


def _finish(result: RunResult, recipe: Recipe) -> dict[str, float]:
    """Show the metrics, evaluate on unseen pairs, index, search, and write the report."""
    from amodal.reports.run_report import write_run_report

    out, model = result.folder, cast("JointEmbedding", result.model)
    show_result(result, recipe)
    held_out = held_out_pairs(model, recipe)
    key = "attribute_pair/retrieval/text_to_image/recall@1"
    console.print(f"on unseen colour–shape pairs: text→image R@1 {held_out[key]:.3f}")

    assert result.validation_source is not None  # the quickstart recipe names one
    index = build_index(model, result.validation_source, out)
    for query in EXAMPLES:
        console.print(f"\n[bold]{query}[/]")
        for hit in index.search(model.encode(text=[query])[0], 3, input="image"):
            console.print(f"  {hit.score:.3f}  {hit.text}", soft_wrap=True)

    commands = [
        f'amodal search {out}/index "a yellow ring" # search the index',
        f"amodal serve {out}/index # search it on a page",
        f"amodal evaluate {out} --on scenes:generalization=count,split=test # more objects",
        "amodal data inspect YOUR_TABLE.csv # your own data",
        "amodal train own-data --set data.train.path=YOUR_TABLE.csv # train on it",
    ]
    write_run_report(result, recipe, title="amodal quickstart", commands=commands, more=held_out)
    return held_out


def held_out_pairs(model: JointEmbedding, recipe: Recipe) -> dict[str, float]:
    """Retrieval among scenes that each hold a colour–shape pair absent from training."""
    from amodal.data.scenes.source import ScenesConfig
    from amodal.evaluators.retrieval import evaluate_retrieval

    source = ScenesConfig(
        kind="scenes",
        generalization="attribute-pair",
        split="test",
        size=1000,
        image_size=getattr(recipe.data.train, "image_size", 64),
        captions_per_scene=1,
    ).open()
    metrics = evaluate_retrieval(model, source).metrics
    return {f"attribute_pair/{name}": value for name, value in metrics.items()}


def build_index(model: JointEmbedding, source: Source, out: Path) -> VectorStore:
    """A fresh index of every image and caption of `source` in OUT/index."""
    import shutil

    from amodal.search.embed import embed_source
    from amodal.search.indexing import add_to_index
    from amodal.search.store import VectorStore

    folder = out / "index"
    shutil.rmtree(folder, ignore_errors=True)
    store = VectorStore.create(folder, model.dim, fingerprint=model.fingerprint(), model_path=out)
    add_to_index(store, embed_source(model, source, thumbnails=True))
    return store
