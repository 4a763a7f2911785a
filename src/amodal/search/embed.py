"""Embedding of a source; failures are listed, interrupted runs resume."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from amodal.data.ahead import work_ahead
from amodal.data.batch import key64
from amodal.data.media import SUFFIXES_OF
from amodal.data.record import BrokenRecordError, DataError, Record, Source, StreamingSource
from amodal.modalities.modality import Modality, texts_of
from amodal.modalities.registry import modality
from amodal.models.feature_cache import FeatureCache, Keyed, feature_caches, kept_features
from amodal.models.inputs import column_styles
from amodal.search.rows import SPAN, Key, Row, Scalar, plain_metadata
from amodal.search.thumbnail import jpeg_thumbnail

CAPTIONS = "text"  # key of the captions in the records of every source
MEDIA = frozenset({*SUFFIXES_OF, CAPTIONS})  # keys of values, which are no metadata
DECODE_AHEAD = 16  # values decoded while the model works
MAX_PENDING_BYTES = 1 << 28  # decoded values that wait for the model


class EmbeddingModel(Protocol):
    """A model that embeds values of named inputs; `JointEmbedding` is one."""

    @property
    def types(self) -> Mapping[str, str]: ...  # input -> modality type
    @property
    def preprocessors(self) -> Mapping[str, Any]: ...
    @property
    def dim(self) -> int: ...

    @property
    def encode(self) -> Callable[..., Any]: ...  # encode(image=[...]) -> (N, E) unit-norm rows
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class _Unit:
    """One value on its way to the model.

    Args:
        row: its embedding is still empty.
        value: as the record has it, then decoded; None where its features are all that is needed.
        origin: of the record.
        kind: modality type of the input.
        prepare: preprocessor of the input.
        cache: of the features of the input, or None.
        digest: of the content of the value, where there is a cache.
    """

    row: Row
    value: Any
    origin: str
    kind: Modality
    prepare: Any
    cache: FeatureCache | None
    digest: bytes | None = None


def embed_source(
    model: EmbeddingModel,
    source: Source | StreamingSource,
    *,
    batch_size: int = 64,
    inputs: Collection[str] | None = None,
    skip: Collection[Key] = frozenset(),
    thumbnails: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Row | BrokenRecordError]:
    """Embed every value of a source; a value that cannot be used is yielded as its error.

    Rows are numbered per item and input in the order of the source, across records with the
    same id; a value that an item already has (the same caption, the same file) is not embedded
    twice. The numbering depends on the source alone, so a run that was stopped goes on with
    `skip`.

    Args:
        model: what encodes.
        source: what to embed.
        batch_size: values encoded at once.
        inputs: embed these only; all that model and source share if None.
        skip: keys of rows that are there already; they are neither decoded nor encoded.
        thumbnails: keep a small JPEG of every image.
        progress: called with the number of records that were read since the last call.

    Raises:
        DataError: model and source share none of the inputs.

    Examples:
        >>> from amodal.data import ScenesConfig
        >>> from amodal.encoders import SmallCNNConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> from amodal.search import embed_source
        >>> encoders = {"image": SmallCNNConfig(size=32, widths=(8, 16))}
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> model = build_joint_embedding(architecture)
        >>> rows = list(embed_source(model, ScenesConfig(size=2, image_size=32).open()))
        >>> [(row.input, row.row, row.embedding.shape) for row in rows]
        [('image', 0, (8,)), ('image', 0, (8,))]
    """
    wanted = _shared_inputs(model, source, inputs)
    units = _units(model, source, wanted, skip, progress)
    pending: dict[str, list[_Unit]] = defaultdict(list)
    pending_bytes = 0
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        kept_features(model),
    ):
        for unit in _decoded_ahead(units, pool, thumbnails):
            if isinstance(unit, BrokenRecordError):
                yield unit
                continue
            input = unit.row.input
            pending[input].append(unit)
            pending_bytes += getattr(unit.value, "nbytes", 0)
            if len(pending[input]) >= batch_size or pending_bytes > MAX_PENDING_BYTES:
                ready = pending.pop(input)
                pending_bytes -= sum(getattr(u.value, "nbytes", 0) for u in ready)
                yield from _encode(model, input, ready, batch_size)
        for input, rest in pending.items():
            yield from _encode(model, input, rest, batch_size)


def _shared_inputs(
    model: EmbeddingModel, source: Source | StreamingSource, asked: Collection[str] | None
) -> tuple[str, ...]:
    columns = column_styles(
        model.types, model.preprocessors
    )  # an input without a column reads several
    shared = [name for name in model.types if name in source.inputs or name not in columns]
    wanted = shared if asked is None else [m for m in shared if m in asked]
    if not wanted or (asked is not None and set(asked) - set(wanted)):
        raise DataError(
            f"{source.name}: asked to embed {', '.join(asked) if asked is not None else 'all'}; "
            f"the source has {', '.join(sorted(source.inputs)) or 'nothing'}, "
            f"the model takes {', '.join(model.types)}"
        )
    return tuple(wanted)


def _records(
    source: Source | StreamingSource, progress: Callable[[int], None] | None
) -> Iterator[Record | BrokenRecordError]:
    if isinstance(source, Source):
        for index in range(len(source)):
            try:
                record: Record | BrokenRecordError = source[index]
            except BrokenRecordError as error:
                record = error
            yield record
            if progress is not None:
                progress(1)
    else:
        for record in source:
            yield record
            if progress is not None:
                progress(1)


def _units(
    model: EmbeddingModel,
    source: Source | StreamingSource,
    wanted: Sequence[str],
    skip: Collection[Key],
    progress: Callable[[int], None] | None,
) -> Iterator[_Unit | BrokenRecordError]:
    kinds = {name: modality(kind) for name, kind in model.types.items()}
    caches = feature_caches(model)
    media = MEDIA | set(kinds)
    next_row: dict[int, int] = {}  # keys are hashed: a set of strings would not fit at web scale
    seen: set[int] = set()
    for number, record in enumerate(_records(source, progress)):
        if isinstance(record, BrokenRecordError):
            yield record
            continue
        item = str(record.get("id", number))
        origin = str(record.get("origin", f"{source.name} record {number}"))
        values: dict[str, list[Any]] = {}
        broken = False
        for name, kind in kinds.items():
            try:
                values[name] = kind.values(name, model.preprocessors.get(name), record)
            except BrokenRecordError as error:  # a file without a length, say
                yield error
                values[name], broken = [], True
        caption, path = _caption(kinds, values, record), _path(kinds, values, record)
        metadata = plain_metadata(record, leave_out={"id", "origin", *media})
        for name in wanted:
            for value in values[name]:
                of_item = key64(f"{name}\0{item}")
                content = key64(f"{of_item}\0{kinds[name].content_key(value)}")
                if content in seen:
                    continue
                seen.add(content)
                place = next_row[of_item] = next_row.get(of_item, -1) + 1
                if (item, name, place) in skip:
                    continue
                shown = kinds[name].preview(value)
                row = Row(
                    id=item,
                    input=name,
                    embedding=np.empty(0, np.float32),
                    row=place,
                    text=shown.text if shown.text is not None else caption,
                    path=shown.path if shown.path is not None else path,
                    origin=origin,
                    metadata=metadata if shown.span is None else metadata | _columns(shown.span),
                )
                prepare = model.preprocessors.get(name)
                yield _Unit(row, value, origin, kinds[name], prepare, caches.get(name))
        if not broken and not any(values[name] for name in wanted):
            yield BrokenRecordError(origin, f"expected {' or '.join(wanted)}, found none")


def _columns(span: tuple[float, float]) -> dict[str, Scalar]:
    """The part of a file that a value is, as columns of the index."""
    return dict(zip(SPAN, span, strict=True))


def _caption(
    kinds: Mapping[str, Modality], values: Mapping[str, Sequence[Any]], record: Record
) -> str | None:
    """The first text of an item: of the model's own inputs, else of the record."""
    for name, kind in kinds.items():
        if kind.is_text and values[name]:
            return kind.preview(values[name][0]).text
    return next(iter(texts_of(record, CAPTIONS)), None)


def _path(
    kinds: Mapping[str, Modality], values: Mapping[str, Sequence[Any]], record: Record
) -> str | None:
    """The first file of an item: of the model's own inputs, else of the record."""
    for name, kind in kinds.items():
        path = kind.preview(values[name][0]).path if values[name] else None
        if path is not None:
            return path
    files = (record.get(name) for name in sorted(MEDIA - {CAPTIONS}))
    return next((str(f) for f in files if isinstance(f, str | Path)), None)


def _decoded_ahead(
    units: Iterator[_Unit | BrokenRecordError],
    pool: ThreadPoolExecutor,
    thumbnails: bool,
) -> Iterator[_Unit | BrokenRecordError]:
    """The same units in the same order with values decoded, a few ahead of the reader."""

    def decoded(unit: _Unit | BrokenRecordError) -> _Unit | BrokenRecordError:
        return unit if isinstance(unit, BrokenRecordError) else _decode(unit, thumbnails)

    return work_ahead(decoded, units, pool, DECODE_AHEAD)


def _decode(unit: _Unit, thumbnails: bool) -> _Unit | BrokenRecordError:
    try:
        digest, is_cached = None, False
        if unit.cache is not None:
            digest = unit.cache.digest(unit.value, unit.origin)
            is_cached = digest in unit.cache
        row, decoded = unit.row, None
        if thumbnails or not is_cached:
            # Decoded as `model.encode` would: the same file gives the same embedding.
            decoded = unit.kind.decode(unit.value, unit.origin, unit.prepare)
        if thumbnails:
            image = unit.kind.preview(unit.value, decoded).image
            row = replace(row, thumbnail=jpeg_thumbnail(image) if image is not None else None)
        return replace(unit, row=row, value=decoded, digest=digest)
    except BrokenRecordError as error:
        return error


def _encode(
    model: EmbeddingModel, input: str, units: Sequence[_Unit], batch_size: int
) -> Iterator[Row | BrokenRecordError]:
    try:
        values = [
            unit.value if unit.digest is None else Keyed(unit.digest, unit.value, unit.origin)
            for unit in units
        ]
        z = model.encode(**{input: values}, batch_size=batch_size)
    except BrokenRecordError as error:
        if len(units) == 1:
            yield BrokenRecordError(units[0].origin, error.reason)
        else:  # find the ones that are broken
            for unit in units:
                yield from _encode(model, input, [unit], batch_size)
        return
    for unit, vector in zip(units, np.asarray(z, dtype=np.float32), strict=True):
        yield replace(unit.row, embedding=vector)
