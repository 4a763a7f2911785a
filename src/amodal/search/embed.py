"""From a source to rows of embeddings: broken values are named, a second run goes on."""

from __future__ import annotations

import io
import os
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from amodal.data.batch import key64
from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError, DataError, Record, Source, StreamingSource
from amodal.search.rows import Key, Row, plain_metadata

THUMBNAIL_SIZE = 256  # pixels of the longer side
DECODE_AHEAD = 16  # images decoded while the model works
MAX_PENDING_BYTES = 1 << 28  # decoded images that wait for the model


class EmbeddingModel(Protocol):
    """What embedding needs from a model; `JointEmbedding` is one."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def dim(self) -> int: ...

    @property
    def encode(self) -> Callable[..., Any]: ...  # encode(image=[...]) -> (N, E) unit rows
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class _Unit:
    """One value on its way to the model."""

    row: Row  # its embedding is still empty
    value: Any
    origin: str


def embed_source(
    model: EmbeddingModel,
    source: Source | StreamingSource,
    *,
    batch_size: int = 64,
    modalities: Collection[str] | None = None,
    skip: Collection[Key] = frozenset(),
    thumbnails: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Row | BrokenRecordError]:
    """Embed every value of a source; a value that cannot be used is yielded as its error.

    Rows are numbered per item and modality in the order of the source, across records with the
    same id; a value that an item already has (the same caption, the same file) is not embedded
    twice. The numbering depends on the source alone, so a run that was stopped goes on with
    `skip`.

    Args:
        model: what encodes.
        source: what to embed.
        batch_size: values encoded at once.
        modalities: embed these only; all that model and source share if None.
        skip: keys of rows that are there already; they are neither decoded nor encoded.
        thumbnails: keep a small JPEG of every image.
        progress: called with the number of records that were read since the last call.

    Raises:
        DataError: model and source share none of the modalities.
    """
    wanted = _shared_modalities(model, source, modalities)
    units = _units(source, wanted, frozenset(source.modalities), skip, progress)
    sizes = getattr(model, "preprocessors", {})
    size = getattr(sizes.get("image"), "size", None) if isinstance(sizes, Mapping) else None
    pending: dict[str, list[_Unit]] = defaultdict(list)
    pending_bytes = 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for unit in _decoded_ahead(units, pool, size, thumbnails):
            if isinstance(unit, BrokenRecordError):
                yield unit
                continue
            modality = unit.row.modality
            pending[modality].append(unit)
            pending_bytes += getattr(unit.value, "nbytes", 0)
            if len(pending[modality]) >= batch_size or pending_bytes > MAX_PENDING_BYTES:
                ready = pending.pop(modality)
                pending_bytes -= sum(getattr(u.value, "nbytes", 0) for u in ready)
                yield from _encode(model, modality, ready, batch_size)
        for modality, rest in pending.items():
            yield from _encode(model, modality, rest, batch_size)


def _shared_modalities(
    model: EmbeddingModel, source: Source | StreamingSource, asked: Collection[str] | None
) -> tuple[str, ...]:
    shared = [m for m in model.modalities if m in source.modalities]
    wanted = shared if asked is None else [m for m in shared if m in asked]
    if not wanted or (asked is not None and set(asked) - set(wanted)):
        raise DataError(
            f"{source.name}: asked to embed {', '.join(asked) if asked is not None else 'all'}; "
            f"the source has {', '.join(sorted(source.modalities)) or 'nothing'}, "
            f"the model takes {', '.join(model.modalities)}"
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
    source: Source | StreamingSource,
    wanted: Sequence[str],
    media: frozenset[str],
    skip: Collection[Key],
    progress: Callable[[int], None] | None,
) -> Iterator[_Unit | BrokenRecordError]:
    next_row: dict[int, int] = {}  # keys are hashed: a set of strings would not fit at web scale
    seen: set[int] = set()
    for number, record in enumerate(_records(source, progress)):
        if isinstance(record, BrokenRecordError):
            yield record
            continue
        item = str(record.get("id", number))
        origin = str(record.get("origin", f"{source.name} record {number}"))
        captions = record.get("text")
        captions = [captions] if isinstance(captions, str) else list(captions or ())
        metadata = plain_metadata(record, leave_out={"id", "origin", "text", *media, *wanted})
        thumbnail = record.get("image")
        usable = False
        for modality in wanted:
            value = record.get(modality)
            values = captions if modality == "text" else [] if value is None else [value]
            for value in values:
                usable = True
                of_item = key64(f"{modality}\0{item}")
                content = key64(f"{of_item}\0{_content(value)}")
                if content in seen:
                    continue
                seen.add(content)
                place = next_row[of_item] = next_row.get(of_item, -1) + 1
                if (item, modality, place) in skip:
                    continue
                file = thumbnail if modality == "text" else value
                row = Row(
                    id=item,
                    modality=modality,
                    embedding=np.empty(0, np.float32),
                    row=place,
                    text=value if modality == "text" else (captions[0] if captions else None),
                    path=str(file) if isinstance(file, str | Path) else None,
                    origin=origin,
                    metadata=metadata,
                )
                yield _Unit(row, value, origin)
        if not usable:
            yield BrokenRecordError(origin, f"expected {' or '.join(wanted)}, found none")


def _content(value: Any) -> str:
    """What two values that are the same have in common."""
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return f"{value.shape} {_digest(value.tobytes())}"
    if isinstance(value, bytes):
        return _digest(value)
    if isinstance(value, Image.Image):
        return f"{value.size} {value.mode} {_digest(value.tobytes())}"
    return f"object {id(value)}"


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _decoded_ahead(
    units: Iterator[_Unit | BrokenRecordError],
    pool: ThreadPoolExecutor,
    size: int | None,
    thumbnails: bool,
) -> Iterator[_Unit | BrokenRecordError]:
    """The same units in the same order with images decoded, a few ahead of the reader."""
    waiting: deque[Future[_Unit | BrokenRecordError] | _Unit | BrokenRecordError] = deque()

    def first() -> _Unit | BrokenRecordError:
        done = waiting.popleft()
        return done.result() if isinstance(done, Future) else done

    for unit in units:
        if isinstance(unit, _Unit) and unit.row.modality == "image":
            waiting.append(pool.submit(_decode, unit, size, thumbnails))
        else:
            waiting.append(unit)
        if len(waiting) > DECODE_AHEAD:
            yield first()
    while waiting:
        yield first()


def _decode(unit: _Unit, size: int | None, thumbnails: bool) -> _Unit | BrokenRecordError:
    try:
        # The size is the one `model.encode` asks for: the same file gives the same embedding.
        array = decode_image(unit.value, unit.origin, min_size=size)
        row = unit.row
        if thumbnails:
            large = array
            if min(array.shape[:2]) < THUMBNAIL_SIZE and not isinstance(unit.value, np.ndarray):
                large = decode_image(unit.value, unit.origin, min_size=THUMBNAIL_SIZE)
            row = replace(row, thumbnail=jpeg_thumbnail(large))
        return replace(unit, row=row, value=array)
    except BrokenRecordError as error:
        return error


def jpeg_thumbnail(image: np.ndarray, size: int = THUMBNAIL_SIZE) -> bytes:
    """A JPEG of `image`, uint8 (H, W, 3), with a longer side of at most `size` pixels."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    thumbnail.save(stream, format="JPEG", quality=85)
    return stream.getvalue()


def _encode(
    model: EmbeddingModel, modality: str, units: Sequence[_Unit], batch_size: int
) -> Iterator[Row | BrokenRecordError]:
    try:
        values = [unit.value for unit in units]
        z = model.encode(**{modality: values}, batch_size=batch_size)
    except BrokenRecordError as error:
        if len(units) == 1:
            yield BrokenRecordError(units[0].origin, error.reason)
        else:  # find the ones that are broken
            for unit in units:
                yield from _encode(model, modality, [unit], batch_size)
        return
    for unit, vector in zip(units, np.asarray(z, dtype=np.float32), strict=True):
        yield replace(unit.row, embedding=vector)
