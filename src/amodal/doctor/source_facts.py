"""Facts about a source, gathered by reading every record once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amodal.data.batch import key64
from amodal.data.holdout import Subset
from amodal.data.inspection import Inspection, inspect
from amodal.data.record import Source, StreamingSource
from amodal.data.record_facts import RecordFacts
from amodal.training.progress import ProgressCallbacks

PUNCTUATION = re.compile(r"[^\w]+", re.UNICODE)


@dataclass
class SourceFacts:
    """Inspection of a source, with the hashes and keys that are compared across items.

    Args:
        inspection: counts of what was read.
        total: records of the source, or None where it only streams.
        origins: of the items.
        labels: of the items, or None.
        image_item: (M,) item of each image.
        contents: (M,) int64 key of the file of each image.
        hashes: (M,) uint64 perceptual hashes.
        colors: (M, 192) uint8 grids of colours.
        flat: (M,) bool, images of one colour.
        caption_item: (C,) item of each caption.
        caption_keys: (C,) int64 key of each caption as it is written.
        plain_keys: (C,) int64 the same without case, punctuation and spaces.
        captions: (C,) the captions.
    """

    inspection: Inspection
    total: int | None
    origins: list[str]
    labels: list[Any]
    image_item: np.ndarray
    contents: np.ndarray
    hashes: np.ndarray
    colors: np.ndarray
    flat: np.ndarray
    caption_item: np.ndarray
    caption_keys: np.ndarray
    plain_keys: np.ndarray
    captions: list[str]

    @property
    def name(self) -> str:
        return self.inspection.name

    @property
    def items(self) -> int:
        """Items that were read and can be used."""
        return len(self.origins)

    @property
    def size(self) -> int:
        """Items of the whole source, as far as that is known."""
        return self.total if self.total is not None else self.items

    def image_origin(self, image: int) -> str:
        """Origin of the item of an image."""
        return self.origins[int(self.image_item[image])]


def read_facts(
    source: Source | StreamingSource,
    *,
    limit: int | None = None,
    first: int | None = None,
    workers: int = 4,
    callbacks: ProgressCallbacks | None = None,
) -> SourceFacts:
    """Read a source once and keep what checks compare.

    Args:
        source: of records.
        limit: read so many records, evenly spaced where the source has random access; None: all.
        first: read the first so many records; None: all, or as `limit` says.
        workers: threads that decode.
        callbacks: progress.
    """
    callbacks = callbacks or ProgressCallbacks()
    total = len(source) if isinstance(source, Source) else None
    read: Source | StreamingSource = source
    if limit is not None and total is not None and total > limit:
        assert isinstance(source, Source)
        rows = np.linspace(0, total - 1, limit).astype(int).tolist()
        read = Subset(source, rows, getattr(source, "broken_rows", ()))
    count = min(filter(None, (total, limit, first)), default=None)
    callbacks.stage(f"reading {source.name}", count)
    collected = _Collected()
    found = inspect(
        read,
        limit=limit if first is None else first,
        workers=workers,
        progress=callbacks.advance,
        each=collected.add,
    )
    return collected.facts(found, total)


class _Collected:
    """Lists that grow record by record."""

    def __init__(self) -> None:
        self.origins: list[str] = []
        self.labels: list[Any] = []
        self.images: list[tuple[int, int, int]] = []  # item, content, hash
        self.colors: list[np.ndarray] = []
        self.flat: list[bool] = []
        self.captions: list[tuple[int, int, int]] = []  # item, key, plain key
        self.texts: list[str] = []

    def add(self, facts: RecordFacts) -> None:
        item = len(self.origins)
        self.origins.append(facts.origin)
        self.labels.append(facts.label)
        for image in facts.images:
            content = int.from_bytes(image.content, "big", signed=True)
            self.images.append((item, content, image.hash))
            self.colors.append(image.colors)
            self.flat.append(image.flat)
        for caption in facts.captions:
            self.texts.append(caption)
            self.captions.append((item, key64(caption), key64(plain(caption))))

    def facts(self, found: Inspection, total: int | None) -> SourceFacts:
        def column(rows: Sequence[tuple[int, int, int]], place: int, kind: type) -> np.ndarray:
            return np.array([row[place] for row in rows], kind)

        return SourceFacts(
            inspection=found,
            total=total,
            origins=self.origins,
            labels=self.labels,
            image_item=column(self.images, 0, np.int64),
            contents=column(self.images, 1, np.int64),
            hashes=column(self.images, 2, np.uint64),
            colors=np.stack(self.colors) if self.colors else np.zeros((0, 192), np.uint8),
            flat=np.array(self.flat, bool),
            caption_item=column(self.captions, 0, np.int64),
            caption_keys=column(self.captions, 1, np.int64),
            plain_keys=column(self.captions, 2, np.int64),
            captions=self.texts,
        )


def plain(caption: str) -> str:
    """A caption without case, punctuation and double spaces.

    Examples:
        >>> plain("A dog, on the beach.") == plain("a dog on the Beach")
        True
    """
    return PUNCTUATION.sub(" ", caption).strip().casefold()
