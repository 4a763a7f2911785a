"""Description of a data set and its faults."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np
from pydantic import BaseModel

from amodal.data.notes import Note, Notes, notes_of
from amodal.data.record import BrokenRecordError, Source, StreamingSource
from amodal.data.record_facts import RecordFacts, facts_in_order

LISTED = 20  # broken rows, groups of duplicates, sizes and labels that are listed by name
NO_END = "Ogg files without the mark of their end: recorded from a stream, or cut off"
REFERENCE_BATCH = 1024  # items, for which collisions of captions are predicted


class Broken(BaseModel):
    """One row that cannot be used."""

    origin: str
    reason: str


class Noted(BaseModel):
    """A note of the source: rows left out or merged; see `notes.Note`."""

    what: str
    count: int
    examples: list[str]

    def __str__(self) -> str:
        return str(Note(self.what, self.count, tuple(self.examples)))


class Lengths(BaseModel):
    """How long captions are, or how large images.

    Args:
        histogram: (from, to, count), upper ends excluded but for the last.
    """

    count: int
    mean: float
    minimum: int
    median: float
    p95: float
    maximum: int
    histogram: list[tuple[int, int, int]]


class Duplicates(BaseModel):
    """Values that occur in more than one item.

    Args:
        values: different values that do.
        items: items that have one of them.
        examples: a caption or none, with the items that share the value.
    """

    values: int = 0
    items: int = 0
    examples: list[tuple[str, list[str]]] = []


class Inspection(BaseModel):
    """The description of a source.

    Args:
        items: records that can be used, their media decoded.
        complete: False if reading was limited or stopped.
        stopped: Ctrl-C or SIGTERM came before the end.
        rows: modality -> values; images count one each, captions each on its own.
        captions_per_item: number of captions -> items.
        broken: number of rows and records that cannot be used.
        broken_by_reason: reason -> count.
        broken_rows: the first ones.
        notes: what the source left out or put together, and files that may lack their end.
        repeated_ids: same identity; such records are one item.
        duplicate_images: same content, byte for byte.
        duplicate_captions: same words. In contrastive training another item with the same
            caption is a false negative where it is not known to be a positive.
        expected_caption_collisions: pairs of items with a common caption that are expected in a
            random batch of 1024.
        caption_words, caption_characters: Chinese has no spaces, there characters tell more.
        image_side: shorter side in pixels.
        audio_milliseconds: length of the audio.
        video_milliseconds: length of the videos; arrays of frames have none.
        video_formats: size, frame rate and whether there is sound -> count, the most frequent ones.
        audio_formats: "rate Hz x channels" -> count, the most frequent ones.
        image_sizes: "width x height" -> count, the most frequent ones.
        labels: class -> count, the most frequent ones.
    """

    name: str
    items: int
    complete: bool
    stopped: bool
    rows: dict[str, int]
    captions_per_item: dict[int, int]
    broken: int
    broken_by_reason: dict[str, int]
    broken_rows: list[Broken]
    notes: list[Noted]
    repeated_ids: Duplicates
    duplicate_images: Duplicates
    duplicate_captions: Duplicates
    expected_caption_collisions: float
    caption_words: Lengths | None
    caption_characters: Lengths | None
    image_side: Lengths | None
    audio_milliseconds: Lengths | None
    audio_formats: dict[str, int]
    video_milliseconds: Lengths | None = None
    video_formats: dict[str, int] = {}
    image_sizes: dict[str, int]
    labels: dict[str, int]
    label_count: int


def inspect(
    source: Source | StreamingSource,
    limit: int | None = None,
    workers: int = 4,
    progress: Callable[[int], None] | None = None,
    each: Callable[[RecordFacts], None] | None = None,
) -> Inspection:
    """Read and decode everything once, and describe it. Ctrl-C ends it with what was read.

    Args:
        source: what to describe.
        limit: read this many records only.
        workers: threads that decode.
        progress: called with the number of records read so far.
        each: called with the facts of every record that can be used.

    Examples:
        >>> from amodal.data import inspect, parse_source
        >>> found = inspect(parse_source("scenes:size=8").open())
        >>> found.rows, found.image_sizes, found.broken
        ({'image': 8, 'text': 40}, {'64 x 64': 8}, 0)
    """
    found = _Findings()
    for error in getattr(source, "broken_rows", ()):
        found.add_broken(error)
    try:
        with ThreadPoolExecutor(workers) as pool:
            for number, facts in enumerate(facts_in_order(source, limit, pool, workers), start=1):
                found.add(facts)
                if each is not None and not isinstance(facts, BrokenRecordError):
                    each(facts)
                if progress is not None:
                    progress(number)
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    length = len(source) if isinstance(source, Source) else None
    cut = limit is not None and (length is None or limit < length)
    return found.described(source.name, notes_of(source), stopped=stopped, cut=cut)


class _Findings:
    """Counts that grow record by record; of contents only 8-byte keys are kept."""

    def __init__(self) -> None:
        self.items = 0
        self.rows: Counter[str] = Counter()
        self.captions_per_item: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.broken_rows: list[Broken] = []
        self.notes = Notes()
        self.ids = _Sharing()
        self.images = _Sharing()
        self.captions = _Sharing()
        self.words: Counter[int] = Counter()
        self.characters: Counter[int] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.milliseconds: Counter[int] = Counter()
        self.formats: Counter[str] = Counter()
        self.video_milliseconds: Counter[int] = Counter()
        self.video_formats: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()

    def add_broken(self, error: BrokenRecordError) -> None:
        self.reasons[error.reason.split(": ", 1)[0]] += 1
        if len(self.broken_rows) < LISTED:
            self.broken_rows.append(Broken(origin=error.origin, reason=error.reason))

    def add(self, facts: RecordFacts | BrokenRecordError) -> None:
        if isinstance(facts, BrokenRecordError):
            self.add_broken(facts)
            return
        self.items += 1
        key = blake2b(facts.id.encode("utf-8", "backslashreplace"), digest_size=8).digest()
        self.ids.add(key, facts.id, facts.origin)
        for image in facts.images:
            self.rows["image"] += 1
            self.sizes[image.size] += 1
        for content in dict.fromkeys(image.content for image in facts.images):
            self.images.add(content, "", facts.origin)
        if facts.without_end:
            self.notes.add(NO_END, facts.origin)
        if facts.audio is not None:
            samples, channels, rate = facts.audio
            self.rows["audio"] += 1
            self.milliseconds[round(1000 * samples / rate)] += 1
            self.formats[f"{rate} Hz x {channels}"] += 1
        for video in facts.videos:
            self.rows["video"] += 1
            self.video_formats[str(video)] += 1
            if video.seconds:
                self.video_milliseconds[round(1000 * video.seconds)] += 1
        self.captions_per_item[len(facts.captions)] += 1
        for caption in facts.captions:
            self.rows["text"] += 1
            self.words[len(caption.split())] += 1
            self.characters[len(caption)] += 1
        for caption in set(facts.captions):
            key = blake2b(caption.encode(), digest_size=8).digest()
            self.captions.add(key, caption, facts.origin)
        if facts.label is not None:
            several = facts.label if isinstance(facts.label, list) else [facts.label]
            self.labels.update(map(str, several))

    def described(
        self, name: str, notes: Sequence[Note], *, stopped: bool, cut: bool
    ) -> Inspection:
        sides: Counter[int] = Counter()
        for size, count in self.sizes.items():
            sides[min(size)] += count
        pairs = self.items * (self.items - 1) / 2
        batch = REFERENCE_BATCH * (REFERENCE_BATCH - 1) / 2
        return Inspection(
            name=name,
            items=self.items,
            complete=not stopped and not cut,
            stopped=stopped,
            rows=dict(self.rows),
            captions_per_item=dict(sorted(self.captions_per_item.items())),
            broken=self.reasons.total(),
            broken_by_reason=dict(self.reasons.most_common()),
            broken_rows=self.broken_rows,
            notes=[
                Noted(what=n.what, count=n.count, examples=list(n.examples))
                for n in (*notes, *self.notes.found())
            ],
            repeated_ids=self.ids.repeated(),
            duplicate_images=self.images.repeated(),
            duplicate_captions=self.captions.repeated(),
            expected_caption_collisions=self.captions.pairs() / pairs * batch if pairs else 0.0,
            caption_words=_lengths(self.words),
            caption_characters=_lengths(self.characters),
            image_side=_lengths(sides),
            audio_milliseconds=_lengths(self.milliseconds),
            audio_formats=dict(self.formats.most_common(LISTED)),
            video_milliseconds=_lengths(self.video_milliseconds),
            video_formats=dict(self.video_formats.most_common(LISTED)),
            image_sizes={f"{w} x {h}": n for (w, h), n in self.sizes.most_common(LISTED)},
            labels=dict(self.labels.most_common(LISTED)),
            label_count=len(self.labels),
        )


class _Sharing:
    """Which values occur in more than one item."""

    def __init__(self) -> None:
        self.first: dict[bytes, str] = {}
        self.count: Counter[bytes] = Counter()  # of values that occur twice or more
        self.origins: defaultdict[bytes, list[str]] = defaultdict(list)
        self.texts: dict[bytes, str] = {}

    def add(self, key: bytes, text: str, origin: str) -> None:
        if key not in self.first:
            self.first[key] = origin
            return
        self.count[key] += 1
        self.texts[key] = text
        if len(self.origins[key]) < LISTED:
            self.origins[key].append(origin)

    def repeated(self) -> Duplicates:
        return Duplicates(
            values=len(self.count),
            items=self.count.total() + len(self.count),
            examples=[
                (self.texts[key], [self.first[key], *self.origins[key]])
                for key, _ in self.count.most_common(LISTED)
            ],
        )

    def pairs(self) -> int:
        """Pairs of items with the same value."""
        return sum((n + 1) * n // 2 for n in self.count.values())


def _lengths(counts: Counter[int]) -> Lengths | None:
    if not counts:
        return None
    values = np.array(sorted(counts))
    weights = np.array([counts[int(v)] for v in values])
    upto = np.cumsum(weights)

    def quantile(q: float) -> float:
        return float(values[np.searchsorted(upto, q * upto[-1])])

    low, high = int(values[0]), int(values[-1])
    step = max(1, -(-(high - low + 1) // 10))  # ten bins at most, of whole numbers
    edges = list(range(low, high + step + 1, step))
    bins, _ = np.histogram(values, bins=edges, weights=weights)
    return Lengths(
        count=int(upto[-1]),
        mean=float(values @ weights / upto[-1]),
        minimum=low,
        median=quantile(0.5),
        p95=quantile(0.95),
        maximum=high,
        histogram=[(a, b, int(n)) for a, b, n in zip(edges, edges[1:], bins, strict=False)],
    )
