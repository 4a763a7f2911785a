"""`amodal evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Column, Table

import amodal.metrics.zero_shot as zero_shot_figures
from amodal.cli import geometry, prediction
from amodal.cli.console import console, progress_callbacks
from amodal.cli.search import open_model
from amodal.data.conversation import Task as What
from amodal.data.record import DataError, Source
from amodal.data.sources.specification import open_random_access, parse_source
from amodal.evaluators.generation_metrics import GenerationResult, generation_metrics
from amodal.evaluators.retrieval import EmbeddedSource, embed_items, retrieval_metrics
from amodal.evaluators.text_to_image import TextToImageResult, text_to_image_metrics
from amodal.metrics.probe import linear_probe
from amodal.models.fusion_model import FusionModel
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.image_generation import GUIDANCE, TEMPERATURE
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.opening import RunModel, open_run
from amodal.training.contrastive_captioning import embed_captioned
from amodal.training.recipe import load_recipe


class Task(StrEnum):
    """What is measured."""

    retrieval = "retrieval"
    zero_shot = "zero-shot"
    probe = "probe"
    geometry = "geometry"
    prediction = "prediction"
    robustness = "robustness"
    vqa = "vqa"
    caption = "caption"
    dialogue = "dialogue"
    single_turn = "single-turn"
    text_to_image = "text-to-image"


OF_FUSIONS = (Task.prediction, Task.robustness)
OF_TRANSFORMERS = (Task.vqa, Task.caption, Task.dialogue, Task.single_turn)
OF_DRAWING = (Task.text_to_image,)
NAMES: dict[Task, What] = {
    Task.vqa: "vqa",
    Task.caption: "caption",
    Task.dialogue: "dialogue",
    Task.single_turn: "single_turn",
}
WITHOUT_ON = (
    Task.geometry,
    *OF_FUSIONS,
    *OF_TRANSFORMERS,
    *OF_DRAWING,
)  # they fall back on the run's validation data


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    on: Annotated[
        str | None,
        typer.Option(
            help="Source to measure on; by default the run's validation data, but for retrieval, "
            "zero-shot and probe."
        ),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            help="What to measure; retrieval by default, prediction for a fusion, what it was "
            "trained to say for a multimodal Transformer.",
            show_default=False,
        ),
    ] = None,
    train_on: Annotated[
        str | None, typer.Option(help="probe: source on which the linear classifier is fitted.")
    ] = None,
    captions: Annotated[
        int | None, typer.Option(help="Captions per item, the first ones; all by default.")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="retrieval: mean over so many parts; 5 is COCO's 1K protocol.")
    ] = 1,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many items.")] = None,
    guidance: Annotated[float, typer.Option(min=0, help="draw: see `amodal draw`.")] = GUIDANCE,
    temperature: Annotated[
        float, typer.Option(min=0, help="draw: see `amodal draw`.")
    ] = TEMPERATURE,
    candidates: Annotated[
        int, typer.Option(min=1, help="draw: drawn for each caption; --judge chooses the best.")
    ] = 1,
    reranker: Annotated[
        Path | None, typer.Option(help="draw: run of a joint embedding that chooses.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the result file.")] = None,
) -> None:
    """Measure a run on a source; prints a table and writes RUN/evaluation/NAME.json.

    geometry and robustness also draw plots, in RUN/evaluation/NAME/.
    """
    model = open_run(run)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    kind, tasks = _tasks_of(model)
    if task is None:
        task = _first_task(run, tasks)
    if task not in tasks:
        raise typer.BadParameter(
            f"{run} holds {kind}; --task can be {', '.join(t.value for t in tasks)}"
        )
    if on is None and task not in WITHOUT_ON:
        raise typer.BadParameter(f"--task {task.value} needs --on SOURCE")
    source = (
        open_random_access(parse_source(on), on)
        if on is not None
        else geometry.validation_source(run)
    )
    where = on if on is not None else "its validation data"
    if candidates > 1 and reranker is None:
        raise typer.BadParameter("--candidates needs --judge RUN, a joint embedding")
    file = run / "evaluation" / f"{name or _file_name(task.value, on)}.json"
    metrics: dict[str, float]
    if isinstance(model, FusionModel):
        metrics = _of_fusion(model, source, task, limit, file, f"{task.value} of {run} on {where}")
        return _write(file, where, task, metrics)
    if isinstance(model, MultimodalTransformer) and task is not Task.retrieval:
        if task is Task.text_to_image:
            metrics = _of_drawing(
                model,
                source,
                run,
                limit,
                guidance=guidance,
                temperature=temperature,
                candidates=candidates,
                reranker=open_model(reranker) if reranker is not None else None,
            )
        else:
            metrics = _of_transformer(model, source, task, limit)
        _show(metrics, f"{task.value} of {run} on {where}")
        return _write(file, where, task, metrics)
    assert isinstance(model, JointEmbedding | MultimodalTransformer)
    embedded = _embed(model, source, captions, limit)
    if task is Task.retrieval:
        if len(embedded.rows) < 2:
            raise DataError(f"{on}: retrieval needs two modalities, it has {list(embedded.rows)}")
        metrics = retrieval_metrics(embedded.rows, bootstrap=1000, folds=folds)
    elif task is Task.zero_shot:
        assert isinstance(model, JointEmbedding)  # the tasks of a Transformer have no such
        metrics = _zero_shot(model, source, embedded)
    elif task is Task.geometry:
        metrics = geometry.measure(embedded.rows, file.with_suffix(""))
    else:
        if train_on is None:
            raise typer.BadParameter("--task probe needs --train-on SOURCE")
        fitted = _embed(
            model, open_random_access(parse_source(train_on), train_on), captions, limit
        )
        metrics = _probe(
            fitted, open_random_access(parse_source(train_on), train_on), embedded, source
        )
    metrics["data/items"] = len(embedded.rows[next(iter(embedded.rows))].item.unique())
    metrics["data/broken_rows"] = len(embedded.broken)
    show = geometry.show if task is Task.geometry else _show
    show(metrics, f"{task.value} of {run} on {where}")
    for error in embedded.broken[:5]:
        console.print(f"[yellow]skipped[/] {error}", soft_wrap=True)
    return _write(file, where, task, metrics)


def _tasks_of(model: RunModel) -> tuple[str, Sequence[Task]]:
    if isinstance(model, FusionModel):
        return "a fusion", OF_FUSIONS
    if isinstance(model, MultimodalTransformer) and model.generates_images:
        return "a Transformer that draws", OF_DRAWING
    if isinstance(model, MultimodalTransformer):
        embeds = (Task.retrieval,) if model.contrast is not None else ()
        return "a multimodal Transformer", (*OF_TRANSFORMERS, *embeds)
    if isinstance(model, ImageTokenizer):
        raise DataError("an image tokenizer is measured as it is trained: see metrics.json")
    others = (*OF_FUSIONS, *OF_TRANSFORMERS, *OF_DRAWING)
    return "a joint embedding", [task for task in Task if task not in others]


def _first_task(run: Path, tasks: Sequence[Task]) -> Task:
    """The task that a run is measured on where none is named."""
    trained = getattr(load_recipe(run / "recipe.yaml").model, "tasks", ())
    return Task(trained[0]) if trained else tasks[0]


def _of_transformer(
    model: MultimodalTransformer, source: Source, task: Task, limit: int | None
) -> dict[str, float]:
    count = min(limit or len(source), len(source))
    with progress_callbacks() as callbacks:
        callbacks.stage("asking", count)
        generated = GenerationResult.of(
            model, source, NAMES[task], items=range(count), tick=callbacks.advance
        )
    metrics = generation_metrics(generated)
    metrics["data/items"] = len(generated.truth)
    return metrics


def _of_drawing(
    model: MultimodalTransformer, source: Source, run: Path, limit: int | None, **how: Any
) -> dict[str, float]:
    count = min(limit or len(source), len(source))
    train = open_random_access(load_recipe(run / "recipe.yaml").data.train, "data.train")
    with progress_callbacks() as callbacks:
        callbacks.stage("drawing", count)
        drawn = TextToImageResult.of(
            model, source, items=range(count), tick=callbacks.advance, **how
        )
    return text_to_image_metrics(drawn, train)


def _of_fusion(
    model: FusionModel, source: Source, task: Task, limit: int | None, file: Path, title: str
) -> dict[str, float]:
    if task is Task.robustness:
        return prediction.robustness(model, source, limit, file.with_suffix(""))
    metrics, broken = prediction.prediction(model, source, limit)
    _show(metrics, title)
    for error in broken[:5]:
        console.print(f"[yellow]skipped[/] {error}", soft_wrap=True)
    return metrics


def _write(file: Path, where: str, task: Task, metrics: dict[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"on": where, "task": task.value, **metrics}, indent=1), "utf-8")
    console.print(f"written to {file}", soft_wrap=True)


def _embed(
    model: JointEmbedding | MultimodalTransformer,
    source: Source,
    captions: int | None,
    limit: int | None,
) -> EmbeddedSource:
    count = min(limit or len(source), len(source))
    rows = range(count)
    with progress_callbacks() as callbacks:
        callbacks.stage("embedding", count)
        tick = callbacks.advance
        if isinstance(model, MultimodalTransformer):
            return embed_captioned(model, source, items=rows, captions=captions, tick=tick)
        return embed_items(model, source, items=rows, captions=captions, tick=tick)


def _labels(source: Source, embedded: EmbeddedSource) -> list[str]:
    from amodal.data.batch import key64

    by_item = {}
    for i in range(len(source)):
        try:
            record = source[i]
        except ValueError:
            continue
        if record.get("label") is not None:
            by_item[key64(str(record["id"]))] = str(record["label"])
    labels = [by_item.get(int(key)) for key in embedded.rows["image"].item]
    if any(label is None for label in labels):
        raise DataError(f"{source.name}: every record needs a `label` for this task")
    return [str(label) for label in labels]


def _zero_shot(model: JointEmbedding, source: Source, embedded: EmbeddedSource) -> dict[str, float]:
    labels = _labels(source, embedded)
    classes = sorted(set(labels))
    templates = zero_shot_figures.TEMPLATES["en"]
    prompts = [template.format(label) for label in classes for template in templates]
    z = model.encode(text=prompts, output="torch").view(len(classes), len(templates), -1)
    result = zero_shot_figures.zero_shot_metrics(
        embedded.rows["image"].z,
        zero_shot_figures.class_embeddings(z),
        torch.tensor([classes.index(label) for label in labels]),
    )
    return {f"zero_shot/{name}": value for name, value in result.to_dict().items()}


def _probe(
    fitted: EmbeddedSource, fitted_source: Source, embedded: EmbeddedSource, source: Source
) -> dict[str, float]:
    train_labels, test_labels = _labels(fitted_source, fitted), _labels(source, embedded)
    classes = {label: i for i, label in enumerate(sorted({*train_labels, *test_labels}))}
    result = linear_probe(
        fitted.rows["image"].z,
        torch.tensor([classes[label] for label in train_labels]),
        embedded.rows["image"].z,
        torch.tensor([classes[label] for label in test_labels]),
    )
    return {f"probe/{name}": value for name, value in result.to_dict().items()}


def _show(metrics: dict[str, float], title: str) -> None:
    table = Table(Column("metric", overflow="fold"), "value", "95 % interval", title=title)
    for name, value in metrics.items():
        if name.endswith(("/low", "/high")):
            continue
        low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
        interval = f"{low:.4f} … {high:.4f}" if low is not None and high is not None else ""
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value), interval)
    console.print(table)


def _file_name(task: str, on: str | None) -> str:
    if on is None:
        return task
    plain = "".join(c if c.isalnum() else "_" for c in on).strip("_")
    return f"{task}_{plain[-60:]}"
