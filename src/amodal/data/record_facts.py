"""Facts of records, their media decoded: what inspection and diagnosis count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from amodal.data.ahead import work_ahead
from amodal.data.decode import load_image
from amodal.data.decode_audio import lacks_end_mark, measure_audio
from amodal.data.decode_video import VideoFacts, video_facts
from amodal.data.notes import notes_of
from amodal.data.perceptual_hash import color_grid, is_flat, perceptual_hash
from amodal.data.record import (
    BrokenRecordError,
    Record,
    Source,
    StreamingSource,
    captions_of,
    images_of,
    videos_of,
)
from amodal.data.surrogates import half_pair

# Keys of a record under which facts are looked for, where a record may have several values.
VALUES_OF: dict[str, Callable[[Record], list[Any]]] = {
    "image": images_of,
    "video": videos_of,
    "text": captions_of,
}


class ImageFacts(NamedTuple):
    """Facts of one decoded image.

    Args:
        content: key of the file, byte for byte.
        size: (width, height) in pixels.
        hash: see `perceptual_hash`.
        colors: (192,) uint8, see `color_grid`.
        flat: whether it has one colour.
    """

    content: bytes
    size: tuple[int, int]
    hash: int
    colors: np.ndarray
    flat: bool


class RecordFacts:
    """Facts of one record.

    Args:
        record: of any source.

    Raises:
        BrokenRecordError: a value cannot be used.
    """

    def __init__(self, record: Record) -> None:
        self.origin = str(record["origin"])
        self.id = str(record["id"])
        self.captions = captions_of(record)
        wrong = next(filter(None, map(half_pair, self.captions)), None)
        if wrong:
            raise BrokenRecordError(self.origin, f"the caption {wrong}")
        self.label = record.get("label")
        self.images: list[ImageFacts] = []
        for value in images_of(record):
            pixels, content = load_image(value, self.origin)
            self.images.append(
                ImageFacts(
                    content=blake2b(content or pixels.tobytes(), digest_size=8).digest(),
                    size=(pixels.shape[1], pixels.shape[0]),
                    hash=perceptual_hash(pixels),
                    colors=color_grid(pixels),
                    flat=is_flat(pixels),
                )
            )
        videos = videos_of(record)
        self.videos: list[VideoFacts] = [video_facts(value, self.origin) for value in videos]
        self.audio: tuple[int, int, int] | None = None  # samples, channels, rate in Hz
        self.without_end = False
        if record.get("audio") is not None:
            self.audio = measure_audio(record["audio"], self.origin)
            self.without_end = lacks_end_mark(record["audio"], self.origin)


def facts_in_order(
    source: Source | StreamingSource, limit: int | None, pool: ThreadPoolExecutor, workers: int
) -> Iterator[RecordFacts | BrokenRecordError]:
    """Facts of the first `limit` records; errors take the place of records that cannot be used."""
    yield from in_threads(records_in_order(source, limit), RecordFacts, pool, ahead=8 * workers)


def records_in_order(
    source: Source | StreamingSource, limit: int | None
) -> Iterator[Callable[[], Record]]:
    """The records of any source as calls that return or raise, cheap to make."""
    if isinstance(source, Source):
        for index in range(len(source) if limit is None else min(limit, len(source))):
            yield lambda index=index: source[index]  # type: ignore[misc]
        return
    for number, record in enumerate(source):
        if limit is not None and number >= limit:
            return
        yield lambda record=record: _whole(record)  # type: ignore[misc]


def _whole(record: Record | BrokenRecordError) -> Record:
    if isinstance(record, BrokenRecordError):
        raise record
    return record


def in_threads(
    records: Iterator[Callable[[], Record]],
    work: Callable[[Record], Any],
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[Any]:
    """`work` of each record, in order, `ahead` of them under way; errors take their place."""

    def one(read: Callable[[], Record]) -> Any:
        try:
            return work(read())
        except BrokenRecordError as error:
            return error

    yield from work_ahead(one, records, pool, ahead - 1)


class TypedSource:
    """A source whose images and texts stand under the names of their types, whatever the input.

    Args:
        source: of the records.
        types: input -> modality type.

    Examples:
        >>> class Photos:
        ...     name, inputs = "photos", frozenset({"photo"})
        ...     def __len__(self):
        ...         return 1
        ...     def __getitem__(self, i):
        ...         return {"id": "0", "origin": "row 0", "photo": "a.jpg"}
        >>> TypedSource(Photos(), {"photo": "image"})[0]["image"]
        ['a.jpg']
    """

    def __init__(self, source: Source, types: Mapping[str, str]) -> None:
        self.source = source
        self.renamed = {n: t for n, t in types.items() if n != t and t in VALUES_OF}
        self.name, self.inputs = source.name, source.inputs
        self.broken_rows = getattr(source, "broken_rows", ())
        self.notes = notes_of(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        for name, kind in self.renamed.items():
            values_of = VALUES_OF[kind]
            values = [*values_of(record), *values_of({kind: record.get(name)})]
            record = {**record, kind: values}
        return record
