"""Features of frozen encoders: computed once for each value of the sources of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from amodal.data.ahead import work_ahead
from amodal.data.batch import key64
from amodal.data.content import open_content
from amodal.data.feature_store import DIGEST_BYTES, Computed, FeatureStore, cache_folder
from amodal.data.features import FeatureSource, SourceFeatures
from amodal.data.record import BrokenRecordError, Record
from amodal.distributed import gather_texts, rank, world_size
from amodal.modalities.modality import Modality
from amodal.modalities.registry import modality
from amodal.models.frozen_features import FrozenEncoder
from amodal.training.processes import wait_for_all
from amodal.training.progress import ProgressCallbacks

AT_ONCE = 64  # values that are encoded together
AHEAD = 4  # groups of values that are decoded while the encoder works
FILE_VALUES = 4096  # of one file of the store: an interrupted run loses at most these,
FILE_SECONDS = 60.0  # or what was computed in this time


class HasEncoders(Protocol):
    """A model with named inputs, some of whose encoders may be frozen."""

    @property
    def types(self) -> Mapping[str, str]: ...
    @property
    def preprocessors(self) -> Mapping[str, Any]: ...
    def encoder_of(self, name: str) -> FrozenEncoder: ...


def compute_features(
    model: HasEncoders,
    names: Iterable[str],
    sources: Sequence[FeatureSource],
    callbacks: ProgressCallbacks,
) -> None:
    """Give the records of the sources the features of their values, each computed once.

    Features are kept in `cache_folder()`, for every run with the same encoder and preprocessing.
    Computing goes on where it was interrupted; several processes share it.

    Args:
        model: with frozen encoders for these inputs.
        names: of the inputs.
        sources: those of the run.
        callbacks: progress.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in names:
        encoder = model.encoder_of(name)
        encoder.module.to(device)
        features = _Features(
            name, modality(model.types[name]), model.preprocessors[name], encoder, callbacks
        )
        features.compute(sources)


class _Place(NamedTuple):
    """Place of a value: source, number of the record, and number among its values of an input.

    Args:
        size: letters of a text, 0 for another value.
    """

    source: FeatureSource
    record: int
    place: int
    size: int


class _Prepared(NamedTuple):
    """The tensors of a group of values, and why some of them have none."""

    digests: list[bytes]
    tensors: dict[str, Tensor]
    truncated: list[bool]
    unusable: dict[bytes, str]


@dataclass(frozen=True)
class _Features:
    """The features of one input.

    Args:
        name: of the input.
        kind: its modality.
        prepare: its preprocessor.
        encoder: its encoder.
        callbacks: progress.
    """

    name: str
    kind: Modality
    prepare: Any
    encoder: FrozenEncoder
    callbacks: ProgressCallbacks

    def compute(self, sources: Sequence[FeatureSource]) -> None:
        """Compute what is missing, and attach everything to the sources."""
        folder = cache_folder() / "features" / self.encoder.fingerprint(self.prepare)
        store = FeatureStore(folder, self.encoder.about())
        for file in store.damaged:
            self.callbacks.warn(f"{file}: cannot be read; its features are computed anew")
        places: dict[bytes, _Place] = {}
        digests = [self._look_up(source, places) for source in sources]
        missing = {digest: place for digest, place in places.items() if digest not in store}
        unusable = self._compute(missing, store)
        if world_size() > 1:
            wait_for_all()
            store = FeatureStore(folder, self.encoder.about())
        for source, found in zip(sources, digests, strict=True):
            self._attach(source, found, store, unusable)

    def _values(self, record: Record) -> list[Any]:
        """All texts of a record, or the first value of another type, which is what a step takes."""
        values = self.kind.values(self.name, self.prepare, record)
        return values if self.kind.is_text else values[:1]

    def _look_up(
        self, source: FeatureSource, places: dict[bytes, _Place]
    ) -> list[list[tuple[bytes, int]]]:
        """Digest and content key of the values of each record; `places` says where a value is."""
        self.callbacks.stage(f"{source.name}: looking up {self.name} features", len(source))
        found: list[list[tuple[bytes, int]]] = []
        for number in range(len(source)):
            try:
                record = source.source[number]
                values = self._values(record)
                digests = [self._digest(value, record["origin"]) for value in values]
                sizes = [len(value) if self.kind.is_text else 0 for value in values]
                for place, (digest, size) in enumerate(zip(digests, sizes, strict=True)):
                    places.setdefault(digest, _Place(source, number, place, size))
                keys = [key64(v) if self.kind.is_text else 0 for v in values]
                found.append(list(zip(digests, keys, strict=True)))
            except BrokenRecordError as error:
                source.broken.setdefault(number, error)
                found.append([])
            self.callbacks.advance(number + 1)
        return found

    def _digest(self, value: Any, origin: str) -> bytes:
        """A hash of the content of a value: of the file for a path."""
        if self.kind.column_style == "media" and isinstance(value, str | Path | bytes):
            stream, _ = open_content(value, origin, self.kind.name)
            with stream:
                return file_digest(stream, partial(blake2b, digest_size=DIGEST_BYTES)).digest()
        elif isinstance(value, str):
            content = value.encode("utf-8", "surrogatepass")
        else:
            array = np.asarray(self.kind.decode(value, origin, self.prepare))
            content = f"{array.shape} {array.dtype} ".encode() + array.tobytes()
        return blake2b(content, digest_size=DIGEST_BYTES).digest()

    def _compute(self, missing: Mapping[bytes, _Place], store: FeatureStore) -> dict[bytes, str]:
        """Compute and keep the features of some values; why others cannot have any."""
        # By the digest, as the processes may find different values missing: the first ones to come
        # have already added some.
        own = sorted(digest for digest in missing if digest[0] % world_size() == rank())
        if self.kind.is_text:  # those of similar length need little padding
            own.sort(key=lambda digest: missing[digest].size)
        groups = [own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE)]
        if own:
            self.callbacks.stage(f"computing {self.name} features", len(own))
        given = ({d: self._value(missing[d]) for d in group} for group in groups)
        unusable: dict[bytes, str] = {}
        new: list[Computed] = []
        written, done = time.monotonic(), 0
        try:
            with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
                for found in work_ahead(self._prepare, given, pool, AHEAD):
                    unusable |= found.unusable
                    if found.digests:
                        tokens = self.encoder.features(found.tensors)
                        new += map(Computed, found.digests, tokens, found.truncated)
                    done += len(found.digests) + len(found.unusable)
                    self.callbacks.advance(done)
                    if len(new) >= FILE_VALUES or time.monotonic() - written > FILE_SECONDS:
                        store.add(new)
                        new, written = [], time.monotonic()
        finally:
            store.add(new)
        if world_size() == 1:
            return unusable
        texts = gather_texts(json.dumps({digest.hex(): why for digest, why in unusable.items()}))
        return {bytes.fromhex(d): why for text in texts for d, why in json.loads(text).items()}

    def _value(self, place: _Place) -> tuple[Any, str]:
        """A value and its origin."""
        record = place.source.source[place.record]
        return self._values(record)[place.place], record["origin"]

    def _prepare(self, values: Mapping[bytes, tuple[Any, str]]) -> _Prepared:
        decoded: dict[bytes, Any] = {}
        unusable: dict[bytes, str] = {}
        for digest, (value, origin) in values.items():
            try:
                decoded[digest] = self.kind.decode(value, origin, self.prepare)
            except BrokenRecordError as error:
                unusable[digest] = error.reason
        usable = list(decoded.values())
        count = getattr(self.prepare, "count_truncated", None)
        truncated = [count is not None and count([value]) > 0 for value in usable]
        tensors = self.prepare(usable) if usable else {}
        return _Prepared(list(decoded), tensors, truncated, unusable)

    def _attach(
        self,
        source: FeatureSource,
        records: Sequence[Sequence[tuple[bytes, int]]],
        store: FeatureStore,
        unusable: Mapping[bytes, str],
    ) -> None:
        """Give the records of a source their features; those with an unusable value are broken."""
        for number, values in enumerate(records):
            reasons = [unusable[digest] for digest, _ in values if digest in unusable]
            if reasons and number not in source.broken:
                origin = source.source[number]["origin"]
                source.broken[number] = BrokenRecordError(origin, reasons[0])
        kept = [[] if number in source.broken else v for number, v in enumerate(records)]
        flat = [value for values in kept for value in values]
        row_of = {digest: row for row, digest in enumerate(dict.fromkeys(d for d, _ in flat))}
        source.features[self.name] = SourceFeatures(
            store.table(list(row_of)),
            np.cumsum([0, *map(len, kept)]),
            np.array([row_of[digest] for digest, _ in flat], dtype=np.int64),
            np.array([key for _, key in flat], dtype=np.int64) if self.kind.is_text else None,
        )
