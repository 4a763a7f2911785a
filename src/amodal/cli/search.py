"""`amodal embed`, `amodal index` and `amodal search`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from amodal.cli.console import console, errors
from amodal.data.record import Source, StreamingSource
from amodal.data.sources.specification import open_source, parse_source
from amodal.models.inputs import column_styles
from amodal.models.joint_embedding import JointEmbedding
from amodal.search.description import StoreError
from amodal.search.embed import embed_source
from amodal.search.indexing import fill_index
from amodal.search.parquet import write_parquet, written_keys
from amodal.search.query import named_values, query_vector, returned_input
from amodal.search.store import Hit, VectorStore
from amodal.training.kinds import open_run

SHOWN_BROKEN = 5

Run = Annotated[Path, typer.Argument(help="Run folder, made by `amodal train`.")]
SourceText = Annotated[
    str, typer.Argument(metavar="SOURCE", help="What to embed, such as photos.csv or scenes.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Values encoded at once.")]
Modalities = Annotated[
    list[str] | None,
    typer.Option("--modality", help="Embed this modality only; may be repeated."),
]


def embed(
    run: Run,
    source: SourceText,
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files.")],
    batch_size: BatchSize = 64,
    modality: Modalities = None,
) -> None:
    """Write the embeddings of a source as Parquet; run again to continue."""
    model = open_model(run)
    opened = open_source(parse_source(source), column_styles(model.types))
    fingerprint = model.fingerprint()
    done = written_keys(out, fingerprint)
    with _progress("embedding", opened) as advance:
        rows = embed_source(
            model,
            opened,
            batch_size=batch_size,
            inputs=modality,
            skip=done,
            progress=advance,
        )
        try:
            summary = write_parquet(rows, out, dim=model.dim, fingerprint=fingerprint)
        except KeyboardInterrupt:
            raise _stopped(len(written_keys(out, fingerprint)), out) from None
    _print_rows(summary.items, summary.rows, len(done))
    _print_broken([(b["origin"], b["reason"]) for b in summary.broken], out / "embeddings.json")
    console.print(f"the embeddings are in {escape(str(out))}", soft_wrap=True)


def index(
    run: Run,
    source: SourceText,
    out: Annotated[Path, typer.Option(help="Index folder.")],
    batch_size: BatchSize = 64,
    modality: Modalities = None,
    thumbnails: Annotated[
        bool, typer.Option(help="Keep a small copy of every image in the index.")
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Embed what is in the index already once more.")
    ] = False,
) -> None:
    """Make a source searchable; run again to continue, or to add to the index."""
    model = open_model(run)
    opened = open_source(parse_source(source), column_styles(model.types))
    store = VectorStore.create(
        out, model.dim, fingerprint=model.fingerprint(), model_path=run, exist_ok=True
    )
    done = set() if replace else store.row_keys()
    with _progress("indexing", opened) as advance:
        rows = embed_source(
            model,
            opened,
            batch_size=batch_size,
            inputs=modality,
            skip=done,
            thumbnails=thumbnails,
            progress=advance,
        )
        try:
            summary = fill_index(store, rows)
        except KeyboardInterrupt:
            raise _stopped(store.count(), out) from None
    store.optimize()
    store.build_index()
    _print_rows(len({key[0] for key in store.row_keys()}), store.counts(), len(done))
    _print_broken([(error.origin, error.reason) for error in summary.broken], out / "broken.json")
    console.print(f'search it with: amodal search {escape(str(out))} "…"', soft_wrap=True)


def search(
    index: Annotated[Path, typer.Argument(help="Index folder, made by `amodal index`.")],
    query: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Look for what fits an image.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Keep only these: \"label = 'dog'\".")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="image|text|all",
            help="What to return: images by default, captions for an image alone.",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder, if it moved since the index was made.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search an index with words, an image, or both."""
    if query is None and image is None:
        raise typer.BadParameter("give a QUERY, or --image FILE, or both")
    if query is not None and not query.strip():
        raise typer.BadParameter("the QUERY is empty")
    store = VectorStore.open(index)
    folder = run or store.model_path
    if folder is None:
        raise StoreError(f"{index} does not say which run made it; say where it is with --run")
    model = open_model(folder)
    store.check_fingerprint(model.fingerprint())
    given = {"text": query, "image": image}
    values = named_values(model, {kind: v for kind, v in given.items() if v is not None}, {})
    vector = query_vector(model, values)
    wanted = returned_input(modality, store.counts(), model.types, values)
    hits = store.search(vector, k, where=where, input=wanted)
    if as_json:
        _print_json(index, query, image, hits)
    else:
        _print_table(hits)


def open_model(run: Path) -> JointEmbedding:
    """The model of a run, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed: Any = open_run(run, "joint_embedding")
    return placed.to(device)


def _print_json(index: Path, query: str | None, image: Path | None, hits: Sequence[Hit]) -> None:
    document = {
        "index": str(index),
        "query": query,
        "image": None if image is None else str(image),
        "hits": [{"rank": rank, **hit.as_dict()} for rank, hit in enumerate(hits, 1)],
    }
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _print_table(hits: Sequence[Hit]) -> None:
    if not hits:
        console.print("nothing found")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    for name in ("id", "text", "path"):
        table.add_column(name, overflow="fold")
    for rank, hit in enumerate(hits, 1):
        cells = (hit.id, hit.text or "", hit.path or "")
        table.add_row(str(rank), f"{hit.score:.3f}", *(escape(cell) for cell in cells))
    console.print(table)


@contextmanager
def _progress(name: str, source: Source | StreamingSource) -> Iterator[Callable[[int], None]]:
    total = len(source) if isinstance(source, Source) else None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=errors, transient=True, disable=not errors.is_terminal
    ) as progress:
        task = progress.add_task(f"{name} {escape(source.name)}", total=total)
        yield lambda done: progress.advance(task, done)


def _print_rows(items: int, rows: dict[str, int], before: int) -> None:
    parts = ", ".join(f"{count:,} {modality}" for modality, count in sorted(rows.items()))
    console.print(f"{items:,} items: {parts or 'no'} rows", highlight=False)
    if before:
        console.print(f"{before:,} of the rows were there before", highlight=False)


def _print_broken(broken: Sequence[tuple[str, str]], listed: Path) -> None:
    if not broken:
        return
    console.print(
        f"{len(broken):,} could not be used and were skipped, listed in {escape(str(listed))}:",
        soft_wrap=True,
        highlight=False,
    )
    for origin, reason in broken[:SHOWN_BROKEN]:
        console.print(f"  {escape(f'{origin}: {reason}')}", soft_wrap=True, highlight=False)
    if len(broken) > SHOWN_BROKEN:
        console.print(f"  … and {len(broken) - SHOWN_BROKEN:,} more", highlight=False)


def _stopped(kept: int, out: Path) -> typer.Exit:
    console.print(
        f"stopped: {kept:,} rows are kept in {escape(str(out))}, the same command goes on",
        soft_wrap=True,
        highlight=False,
    )
    return typer.Exit(1)
