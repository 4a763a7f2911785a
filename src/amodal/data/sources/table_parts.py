"""Several tables as one: columns get the type that holds the values of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from amodal.data.notes import LISTED, Note
from amodal.data.record import DataError
from amodal.data.sources.arrow_types import widened, wider_schema
from amodal.data.sources.places import Places
from amodal.data.sources.table_cache import FileFacts, cached_table

BATCH = 1024  # rows whose types are changed at once


def joined(
    files: Sequence[Path], parts: Sequence[datasets.Dataset]
) -> tuple[datasets.Dataset, list[Note]]:
    """The rows of all parts, one after the other, and what had to be said about their columns.

    Raises:
        DataError: two parts number their classes differently.
    """
    if len(parts) == 1:
        return parts[0], []
    schema = reduce(wider_schema, (_schema(part) for part in parts))
    notes = []
    for file, part in zip(files, parts, strict=True):
        absent = [name for name in schema.names if name not in part.column_names]
        if absent:
            what = f"columns that are not in {file}, read as empty there"
            notes.append(Note(what, len(absent), tuple(absent[:LISTED])))
    features = datasets.Features.from_arrow_schema(schema)
    for name in schema.names:
        features[name] = _feature(name, features[name], files, parts)
    aligned = [
        part if part.features == features else _aligned(file, part, schema, features)
        for file, part in zip(files, parts, strict=True)
    ]
    return datasets.concatenate_datasets(aligned), notes


def places_of(
    files: Sequence[Path],
    lengths: Sequence[int],
    facts: Sequence[FileFacts],
    *,
    roots: Sequence[Path | None],
    notes: Sequence[Note],
) -> Places:
    """Where the rows of all parts come from, with what was found in each file."""
    starts = [0, *np.cumsum(lengths).tolist()]
    objects: dict[str, list[list[int]]] = {}
    said = list(notes)
    for file, start, found in zip(files, starts, facts, strict=False):
        for column, ranges in found.objects.items():
            objects.setdefault(column, []).extend([start + a, start + b] for a, b in ranges)
        for what, (count, rows) in found.notes.items():
            listed = [f"{file} row {row + 1}" for row in rows]
            said.append(Note(what, count, (*listed, *(["..."] if count > len(rows) else []))))
    return Places(
        files=tuple(map(str, files)),
        starts=tuple(starts[:-1]),
        roots=tuple(roots),
        unreadable={
            start + row: reason
            for start, found in zip(starts, facts, strict=False)
            for row, reason in found.unreadable.items()
        },
        objects={column: np.array(ranges) for column, ranges in objects.items()},
        notes=tuple(said),
    )


def _schema(part: datasets.Dataset) -> pa.Schema:
    return pa.schema([(field.name, field.type) for field in part.features.arrow_schema])


def _feature(
    name: str, plain: object, files: Sequence[Path], parts: Sequence[datasets.Dataset]
) -> object:
    """The type of a column, as far as all parts say so: an image, a class, or its plain type.

    Raises:
        DataError: two parts number their classes differently.
    """
    told = [(f, p.features[name]) for f, p in zip(files, parts, strict=True) if name in p.features]
    classes = [(f, feature) for f, feature in told if isinstance(feature, datasets.ClassLabel)]
    for file, feature in classes[1:]:
        if feature.names != classes[0][1].names:
            raise DataError(
                f"{file}: column {name!r} numbers other classes than in {classes[0][0]}: "
                f"{feature.names[:5]}, {classes[0][1].names[:5]}; store their names as text"
            )
    same = all(feature == told[0][1] for _, feature in told)
    return told[0][1] if same else plain


def _aligned(
    file: Path, part: datasets.Dataset, schema: pa.Schema, features: datasets.Features
) -> datasets.Dataset:
    def tables() -> Iterator[pa.Table]:
        rows = part.with_format("arrow")
        for start in range(0, len(part), BATCH):
            yield widened(rows[start : start + BATCH], schema)

    options = ("aligned", str(part.features), schema.to_string())
    dataset, _ = cached_table(file, options, lambda: (tables(), FileFacts()))
    return datasets.Dataset(dataset.data, info=datasets.DatasetInfo(features=features))
