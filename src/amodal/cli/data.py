"""`amodal data`: make, inspect, pack."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import LIGHT_GROUP, console, errors, escape, progress_callbacks, size_of
from amodal.cli.doctor import show_diagnosis

if TYPE_CHECKING:
    from amodal.data.inspection import Duplicates, Inspection, Lengths

IF_FULL = "what is there is incomplete: free some space and make it again"
app = typer.Typer(help="Make, inspect and pack data sets.", no_args_is_help=True, **LIGHT_GROUP)

SourceText = Annotated[
    str, typer.Argument(help="A folder, a file, scenes:size=500, or a source.yaml.")
]


@app.command()
def make(
    scenes: Annotated[
        str, typer.Argument(help="scenes or moving_scenes, or with options: scenes:KEY=VALUE,...")
    ],
    folder: Annotated[Path, typer.Argument(help="Where to write images and captions.")],
    size: Annotated[int | None, typer.Option(min=1, help="Number of scenes.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed.")] = None,
    generalization: Annotated[
        str | None, typer.Option(help="iid, attribute-pair, count or relation.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=16, help="Side of the image in pixels.")
    ] = None,
) -> None:
    """Write built-in synthetic scenes as files: images in COCO captions layout, or clips as MP4."""
    from amodal.data.atomic import full_disk_as_data_error
    from amodal.data.record import DataError
    from amodal.data.scenes.motion_source import MovingScenesConfig
    from amodal.data.scenes.source import ScenesConfig
    from amodal.data.sources.specification import checked_source, parse_source

    built_in = (ScenesConfig, MovingScenesConfig)
    config = parse_source(scenes)
    if not isinstance(config, built_in):
        raise DataError(f"{scenes}: only `scenes` and `moving_scenes` can be made")
    given = {
        "size": size,
        "seed": seed,
        "generalization": generalization,
        "split": split,
        "image_size": image_size,
    }
    changed = {key: value for key, value in given.items() if value is not None}
    config = checked_source(
        {**config.model_dump(exclude_unset=True), **changed, "kind": config.kind}, scenes
    )
    assert isinstance(config, built_in)
    source = config.open()
    try:
        with full_disk_as_data_error(folder, IF_FULL), progress_callbacks() as callbacks:
            callbacks.stage("writing scenes", len(source))

            def tracked(indices: Sequence[int]) -> Iterator[int]:
                for done, index in enumerate(indices, start=1):
                    yield index
                    callbacks.advance(done)

            source.write(folder, tracked)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    console.print(
        f"{len(source)} scenes in {folder}; inspect them with: amodal data inspect {folder}",
        soft_wrap=True,
        markup=False,
    )


@app.command(name="inspect")
def inspect_(
    source: SourceText,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first N records.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a data set and list what is wrong with it."""
    from amodal.data.sources.specification import open_source, parse_source
    from amodal.doctor.diagnosis import diagnose
    from amodal.doctor.source_facts import read_facts
    from amodal.doctor.subject import Subject

    opened = open_source(parse_source(source))
    with progress_callbacks() as callbacks:
        facts = read_facts(opened, first=limit, workers=workers, callbacks=callbacks)
    found = facts.inspection
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _show(found)
        show_diagnosis(diagnose(Subject(source, source=opened, facts=facts)))
        # Of what is no path, such as scenes, there are recipes already.
        command = f"init {shlex.quote(source)}" if Path(source).exists() else "recipes list"
        console.print(f"next: amodal {command}", soft_wrap=True, markup=False)
    if found.stopped:
        raise KeyboardInterrupt


@app.command(name="pack")
def pack_(
    source: SourceText,
    folder: Annotated[Path, typer.Argument(help="Where to write shards and index.json.")],
    shard_mib: Annotated[int, typer.Option(min=1, help="Size of a shard in MiB.")] = 256,
    records_per_shard: Annotated[int, typer.Option(min=1, help="Records in a shard.")] = 10_000,
    overwrite: Annotated[bool, typer.Option(help="Delete existing shards first.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Reading and decoding threads.")] = 4,
) -> None:
    """Write a data set as WebDataset shards."""
    from amodal.data.pack import pack
    from amodal.data.sources.specification import open_source, parse_source

    opened = open_source(parse_source(source))
    with progress_callbacks() as callbacks:
        callbacks.stage(f"packing {opened.name}", size_of(opened))
        index = pack(
            opened,
            folder,
            shard_size_bytes=shard_mib << 20,
            records_per_shard=records_per_shard,
            overwrite=overwrite,
            workers=workers,
            progress=callbacks.advance,
            tell=callbacks.warn,
        )
    size = sum(shard.bytes for shard in index.shards)
    counts = [f"{index.images} images", f"{index.captions} captions"]
    media = {"audio": index.audio, "videos": index.videos}
    counts[1:1] = [f"{count} {name}" for name, count in media.items() if count]
    console.print(
        f"{index.records} records ({', '.join(counts)}) in "
        f"{len(index.shards)} shards, {size / 2**20:.1f} MiB, in {folder}",
        soft_wrap=True,
        markup=False,
    )
    for note in index.notes:
        errors.print(f"note: {note}", soft_wrap=True, markup=False)
    for name, count in index.left_out.items():
        errors.print(
            f"note: {count:,} records have a value of {name!r} that shards cannot hold; it is not "
            "packed",
            soft_wrap=True,
            markup=False,
        )
    for row in index.broken_rows[:5]:
        errors.print(f"skipped {row.origin}: {row.reason}", soft_wrap=True, markup=False)
    if index.broken > 5:
        errors.print(f"skipped {index.broken} in all; index.json lists the first ones")


def _show(found: Inspection) -> None:
    from rich.table import Table

    summary = Table(title=escape(found.name), show_header=False, title_justify="left")
    summary.add_row("items", f"{found.items:,}" + ("" if found.complete else " (partial)"))
    for name, count in sorted(found.rows.items()):
        summary.add_row(f"{name} rows", f"{count:,}")
    if found.caption_words is not None:
        each = ", ".join(f"{n}: {items:,}" for n, items in found.captions_per_item.items())
        summary.add_row("captions: items", each)
    summary.add_row("broken", f"{found.broken:,}")
    if found.repeated_ids.values:
        summary.add_row("ids that several records share", _repeats(found.repeated_ids))
    if found.image_side is not None:
        summary.add_row("duplicate images", _repeats(found.duplicate_images))
    if found.caption_words is not None:
        summary.add_row("duplicate captions", _repeats(found.duplicate_captions))
        summary.add_row(
            "expected false-negative pairs in a batch of 1,024",
            f"{found.expected_caption_collisions:.2f}",
        )
    console.print(summary)
    lengths = Table("length", "min", "median", "mean", "95 %", "max", "histogram")
    named = {
        "caption, words": found.caption_words,
        "caption, characters": found.caption_characters,
        "image, shorter side (px)": found.image_side,
        "audio (ms)": found.audio_milliseconds,
        "video (ms)": found.video_milliseconds,
    }
    for name, value in named.items():
        if value is not None:
            numbers = (value.minimum, value.median, value.mean, value.p95, value.maximum)
            lengths.add_row(name, *(f"{number:.4g}" for number in numbers), _sketch(value))
    if lengths.row_count:
        console.print(lengths)
    tables = {
        "image size": found.image_sizes,
        "audio format": found.audio_formats,
        "video format": found.video_formats,
        "label": found.labels,
    }
    for title, counts in tables.items():
        if counts:
            table = Table(title, "count")
            for name, count in list(counts.items())[:10]:
                table.add_row(escape(name), f"{count:,}")
            console.print(table)
    if found.label_count > 10:
        console.print(f"{found.label_count} labels in all")
    _show_examples("identical captions, for example", found.duplicate_captions)
    _show_examples("identical images, for example", found.duplicate_images)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)
    if found.broken:
        table = Table("reason", "count")
        for reason, count in found.broken_by_reason.items():
            table.add_row(escape(reason), f"{count:,}")
        console.print(table)
        for row in found.broken_rows:
            console.print(f"{row.origin}: {row.reason}", soft_wrap=True, markup=False)
        if found.broken > len(found.broken_rows):
            console.print(f"... and {found.broken - len(found.broken_rows):,} more")


def _repeats(repeated: Duplicates) -> str:
    return f"{repeated.values:,}, in {repeated.items:,} items" if repeated.values else "none"


def _show_examples(title: str, repeated: Duplicates) -> None:
    if not repeated.examples:
        return
    console.print(title + ":")
    for text, origins in repeated.examples[:3]:
        shown = "; ".join(origins[:3]) + (" ..." if len(origins) > 3 else "")
        console.print(f"  {text + ': ' if text else ''}{shown}", soft_wrap=True, markup=False)


def _sketch(lengths: Lengths) -> str:
    """The histogram as one line of blocks."""
    most = max(count for *_, count in lengths.histogram)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(
        blocks[-(-7 * count // most)] if count else " " for *_, count in lengths.histogram
    )
