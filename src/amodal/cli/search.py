"""`amodal embed`, `amodal index` and `amodal search`."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.console import console, escape, note, progress_callbacks, size_of
from amodal.cli.options import UseFeatureCache
from amodal.models.run_location import found_folder
from amodal.search.limits import MAX_K
from amodal.training.kinds import kind_of_run, open_run

if TYPE_CHECKING:
    from amodal.models.joint_embedding import JointEmbedding
    from amodal.search.match import SearchResult

SHOWN_BROKEN = 5
IF_FULL = "what was written is kept: free some space, and the same command continues"

Run = Annotated[Path, typer.Argument(help="Run folder of a joint embedding.")]
SourceText = Annotated[
    str, typer.Argument(metavar="SOURCE", help="What to embed, such as photos.csv or scenes.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Batch size for encoding.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME",
        help="Embed only this input of the model; may be repeated. All by default.",
        show_default=False,
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="A table column that the model reads may be absent."),
]
File = Path | None


def embed(
    run: Run,
    source: SourceText,
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files.")],
    batch_size: BatchSize = 64,
    input_: Inputs = None,
    allow_missing: AllowMissing = False,
    feature_cache: UseFeatureCache = True,
) -> None:
    """Write the embeddings of a source as Parquet; run again to continue."""
    kind_of_run(run)  # a mistyped run is answered before the slow imports
    from amodal.data.atomic import full_disk_as_data_error
    from amodal.search.embed import embed_source
    from amodal.search.parquet import write_parquet, written_keys
    from amodal.training.features import use_feature_caches
    from amodal.training.sources import stream_for_run

    model = open_model(run)
    if feature_cache:
        use_feature_caches(run, model, warn=note)
    opened = stream_for_run(run, model, source, allow_missing=allow_missing)
    fingerprint = model.fingerprint()
    done = written_keys(out, fingerprint)
    with full_disk_as_data_error(out, IF_FULL), progress_callbacks() as callbacks:
        callbacks.stage(f"embedding {opened.name}", size_of(opened))
        rows = embed_source(
            model,
            opened,
            batch_size=batch_size,
            inputs=input_,
            skip=done,
            progress=_Total(callbacks.advance),
        )
        try:
            summary = write_parquet(rows, out, dim=model.dim, fingerprint=fingerprint)
        except KeyboardInterrupt:
            _print_kept(len(written_keys(out, fingerprint)), out)
            raise
    _print_rows(summary.items, summary.rows, len(done))
    _print_broken([(b["origin"], b["reason"]) for b in summary.broken], out / "embeddings.json")
    console.print(f"the embeddings are in {escape(str(out))}", soft_wrap=True)


def index(
    run: Run,
    source: SourceText,
    out: Annotated[Path, typer.Option(help="Index folder.")],
    batch_size: BatchSize = 64,
    input_: Inputs = None,
    thumbnails: Annotated[bool, typer.Option(help="Store a thumbnail of every image.")] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Re-embed rows already in the index.")
    ] = False,
    allow_missing: AllowMissing = False,
    feature_cache: UseFeatureCache = True,
) -> None:
    """Build a search index from a source; run again to continue, or to add to the index."""
    kind_of_run(run)  # a mistyped run is answered before the slow imports
    from amodal.data.atomic import full_disk_as_data_error
    from amodal.search.embed import embed_source
    from amodal.search.indexing import add_to_index
    from amodal.search.store import VectorStore
    from amodal.training.features import use_feature_caches
    from amodal.training.sources import stream_for_run

    model = open_model(run)
    if feature_cache:
        use_feature_caches(run, model, keep=True, warn=note)
    opened = stream_for_run(run, model, source, allow_missing=allow_missing)
    with full_disk_as_data_error(out, IF_FULL), progress_callbacks() as callbacks:
        store = VectorStore.create(
            out,
            model.dim,
            fingerprint=model.fingerprint(),
            model_path=found_folder(run),
            exist_ok=True,
        )
        done = set() if replace else store.row_keys()
        callbacks.stage(f"indexing {opened.name}", size_of(opened))
        rows = embed_source(
            model,
            opened,
            batch_size=batch_size,
            inputs=input_,
            skip=done,
            thumbnails=thumbnails,
            progress=_Total(callbacks.advance),
        )
        try:
            summary = add_to_index(store, rows)
        except KeyboardInterrupt:
            _print_kept(store.count(), out)
            raise
        store.optimize()
        store.build_index()
    _print_rows(len({key[0] for key in store.row_keys()}), store.counts(), len(done))
    _print_broken([(error.origin, error.reason) for error in summary.broken], out / "broken.json")
    console.print(f'search it with: amodal search {escape(str(out))} "TEXT"', soft_wrap=True)


def search(
    index: Annotated[Path, typer.Argument(help="Index folder, made by `amodal index`.")],
    text: Annotated[str | None, typer.Argument(help="Query text.")] = None,
    image: Annotated[File, typer.Option(exists=True, dir_okay=False, help="Query image.")] = None,
    audio: Annotated[
        File, typer.Option(exists=True, dir_okay=False, help="Query audio file.")
    ] = None,
    video: Annotated[
        File, typer.Option(exists=True, dir_okay=False, help="Query video file.")
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="Query value for the model input NAME; may be repeated.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=MAX_K, help="Number of results.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Filter of the results: \"label = 'dog' AND width > 200\"; also OR, NOT, IN, "
            "BETWEEN, LIKE, IS NULL, brackets, arithmetic, lower(), length().",
        ),
    ] = None,
    return_: Annotated[
        str | None,
        typer.Option(
            "--return",
            metavar="INPUT|all",
            help="Rows to return: of one input, or of all; images by default, captions where the "
            "query is one image.",
            show_default=False,
        ),
    ] = None,
    min_precision: Annotated[
        float | None,
        typer.Option(
            help="Leave out hits below the score from which on this share of the hits are matches, "
            "such as 0.9; needs a run that was calibrated on held-out data.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder, if it has moved since indexing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search an index with a text, an image or any other input; several parts are combined."""
    by_type, by_name = query_parts(
        {"text": text, "image": image, "audio": audio, "video": video}, input_
    )
    if min_precision is not None and not 0 < min_precision < 1:
        raise typer.BadParameter(f"--min-precision {min_precision}: expected a share below 1")
    with _without_collecting():
        result = _search(
            index,
            by_type,
            by_name,
            run,
            k=k,
            where=where,
            returned=return_,
            min_precision=min_precision,
        )
    if as_json:
        _print_json(index, {**by_type, **by_name}, result)
    else:
        _print_table(result)


def _search(
    index: Path,
    by_type: Mapping[str, Any],
    by_name: Mapping[str, str],
    run: Path | None,
    *,
    where: str | None,
    **options: Any,
) -> SearchResult:
    from amodal.search.description import IndexDescription, StoreError

    IndexDescription.read(index)  # a mistyped folder is answered before the slow imports
    if run is not None:
        kind_of_run(run)
    from amodal.evaluators.match_threshold import MatchCalibration
    from amodal.search.match import search_matches
    from amodal.search.query import named_values
    from amodal.search.store import VectorStore

    store = VectorStore.open(index)
    if where is not None:
        store.check_filter(where)  # before the model is opened, which takes longer
    folder = run or store.model_path
    if folder is None:
        raise StoreError(f"{index} does not record its run; pass --run RUN")
    model = open_model(folder)
    store.check_fingerprint(*model.fingerprints())
    calibration = MatchCalibration.read(folder, store.fingerprint)
    query = named_values(model, by_type, by_name)
    return search_matches(store, model, calibration, query, where=where, **options)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """No garbage collection, which takes a tenth of the time of one query, with its imports."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def query_parts(
    by_type: Mapping[str, str | Path | None], inputs: Sequence[str] | None
) -> tuple[dict[str, str | Path], dict[str, str]]:
    """The parts of a query: those named by their modality type, and NAME=VALUE pairs.

    Raises:
        typer.BadParameter: there is no part, one is empty, or a name is given twice.
    """
    typed = {kind: value for kind, value in by_type.items() if value is not None}
    named: dict[str, str] = {}
    for pair in inputs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--input {pair}: expected NAME=VALUE")
        if name in named:
            raise typer.BadParameter(f"--input {pair}: {name} is given twice")
        named[name] = value
    if not typed and not named:
        raise typer.BadParameter(
            "give a TEXT, --image FILE, --audio FILE, --video FILE or --input NAME=VALUE"
        )
    for name, part in {**typed, **named}.items():
        if not str(part).strip():
            raise typer.BadParameter(f"the query {name} is empty")
    return typed, named


def open_model(run: Path) -> JointEmbedding:
    """The joint embedding of a run, on the GPU if there is one."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed: Any = open_run(run, "joint_embedding")
    return placed.to(device)


class _Total:
    """Sums the increments that embedding reports, and passes on how much is done in all."""

    def __init__(self, advance: Any) -> None:
        self.advance, self.done = advance, 0

    def __call__(self, more: int) -> None:
        self.done += more
        self.advance(self.done)


def _print_json(index: Path, query: Mapping[str, str | Path], result: SearchResult) -> None:
    document = {
        "index": str(index),
        "query": {name: str(value) for name, value in query.items()},
        **result.as_dict(),
        "hits": [{"rank": rank, **hit.as_dict()} for rank, hit in enumerate(result.hits, 1)],
    }
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _print_table(result: SearchResult) -> None:
    from rich.table import Table

    for sentence in result.notes:
        note(sentence)
    if not result.hits:
        left_out = f": {result.left_out:,} hits were left out" if result.left_out else ""
        console.print(f"nothing found{left_out}")
        return
    calibrated = any(hit.match is not None for hit in result.hits)
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    for name in (*(("match",) if calibrated else ()), "id", "text", "path"):
        table.add_column(name, overflow="fold")
    for rank, hit in enumerate(result.hits, 1):
        match = f"{hit.match.label} {hit.match.probability:.2f}" if hit.match is not None else ""
        path = f"{hit.path or ''}{_shown_span(hit.span)}"
        cells = (*((match,) if calibrated else ()), hit.id, hit.text or "", path)
        table.add_row(str(rank), f"{hit.score:.3f}", *(escape(cell) for cell in cells))
    console.print(table)


def _shown_span(span: tuple[float, float] | None) -> str:
    if span is None:
        return ""
    start, end = (f"{int(seconds) // 60}:{seconds % 60:04.1f}" for seconds in span)
    return f" {start} - {end}"


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


def _print_kept(kept: int, out: Path) -> None:
    console.print(
        f"{kept:,} rows are kept in {escape(str(out))}; the same command continues",
        soft_wrap=True,
        highlight=False,
    )
