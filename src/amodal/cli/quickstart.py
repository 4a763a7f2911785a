"""`amodal quickstart`: train, evaluate, index, search and report on built-in synthetic scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from amodal.cli.console import console, escape, progress_callbacks
from amodal.cli.train import print_last_step, show_result

if TYPE_CHECKING:
    from amodal.data.record import Source
    from amodal.models.joint_embedding import JointEmbedding
    from amodal.search.store import VectorStore
    from amodal.training.recipe import Recipe
    from amodal.training.run import RunResult

WITHOUT_MATCH = "a zebra that plays the xylophone"


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
    described = str(result.validation_source[0]["text"][0])
    show_search(index, model, f"a caption of a held-out scene: {described}", described)
    show_search(index, model, f"a caption of no scene: {WITHOUT_MATCH}", WITHOUT_MATCH)

    commands = [
        f'amodal search {out}/index "a yellow ring" # search the index',
        f"amodal serve {out}/index # search it on a page",
        f"amodal evaluate {out} --on scenes:generalization=count,split=test # more objects",
        "amodal data inspect YOUR_TABLE.csv # your own data",
        "amodal train own-data --set data.train.path=YOUR_TABLE.csv # train on it",
    ]
    write_run_report(result, recipe, title="amodal quickstart", commands=commands, more=held_out)
    return held_out


def show_search(index: VectorStore, model: JointEmbedding, title: str, query: str) -> None:
    """Print the three best hits of a text, and what their scores say about a match."""
    from amodal.evaluators.match_threshold import MatchCalibration
    from amodal.search.match import search_matches

    assert index.model_path is not None  # it was built with a run
    calibration = MatchCalibration.read(index.model_path, index.fingerprint)
    found = search_matches(index, model, calibration, {"text": query}, 3, returned="image")
    console.print(f"\n[bold]{escape(title)}[/]", soft_wrap=True, highlight=False)
    for note in found.notes:
        console.print(f"  {escape(note)}", soft_wrap=True, highlight=False)
    for hit in found.hits:
        match = f"{hit.match.label} {hit.match.probability:.2f}  " if hit.match else ""
        console.print(f"  {hit.score:.3f}  {match}{hit.text}", soft_wrap=True, highlight=False)


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
