"""Features of the values of one input with a frozen encoder: looked up, else computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from amodal.data.batch import key64
from amodal.data.content import open_content
from amodal.data.feature_store import DIGEST_BYTES, Computed, FeatureStore, cache_folder
from amodal.data.features import FeatureRows
from amodal.data.inputs import BatchContext, Effects, effects_of
from amodal.data.record import BrokenRecordError, Record
from amodal.modalities.modality import InputOptions
from amodal.modalities.registry import modality
from amodal.models.frozen_features import FrozenEncoder

MANY = 16  # values in a group; for fewer, a quicker copy of the encoder is not worth making


class HasEncoders(Protocol):
    """A model with named inputs, some of whose encoders may be frozen."""

    @property
    def types(self) -> Mapping[str, str]: ...
    @property
    def preprocessors(self) -> Mapping[str, Any]: ...
    def encoder_of(self, name: str) -> FrozenEncoder: ...


class Keyed(NamedTuple):
    """A value with the digest of its content, under which its features are kept.

    Args:
        digest: `DIGEST_BYTES` long.
        value: as a record has it, or decoded; None where its features are in the cache.
        origin: of its record.
    """

    digest: bytes
    value: Any
    origin: str


@dataclass(frozen=True)
class CachedViews:
    """Augmented views whose features are computed once.

    A view depends on the content of the value, on the steps, the seed and its number alone.

    Args:
        count: views of a value.
        steps: of augmentation.
        seed: of the run.
    """

    count: int
    steps: Sequence[Any]
    seed: int

    @property
    def effects(self) -> Effects:
        """Changes that the steps may make and the other inputs of an item follow."""
        return effects_of(self.steps)

    @cached_property
    def _steps(self) -> list[dict[str, Any]]:
        return [step.model_dump(mode="json") for step in self.steps]

    def digests(self, digest: bytes, fixed: Effects) -> list[bytes]:
        """The digests of the views of a value.

        Args:
            digest: of the value.
            fixed: effects that are not drawn.
        """
        about = json.dumps([self._steps, self.seed, fixed], sort_keys=True).encode()
        return [
            blake2b(b"%b view %d %b" % (digest, i, about), digest_size=DIGEST_BYTES).digest()
            for i in range(self.count)
        ]


class Wanted(NamedTuple):
    """Features that are wanted of a value.

    Args:
        value: with its digest.
        as_it_is: whether the features of the value itself are wanted.
        views: digests of the wanted views.
        fixed: effects of the views that are not drawn.
    """

    value: Keyed
    as_it_is: bool = True
    views: Sequence[bytes] = ()
    fixed: Effects = {}  # noqa: RUF012  # never changed


class Prepared(NamedTuple):
    """The tensors of a group of values, and why some of them have none.

    Args:
        parts: tensors of R values or views each, with the R digests and whether they are truncated.
        unusable: digest of a value -> why it cannot be decoded.
    """

    parts: list[tuple[dict[str, Tensor], list[bytes], list[bool]]]
    unusable: dict[bytes, str]


class FeatureCache:
    """Features of one input, of every run with the same encoder and preprocessing.

    Args:
        model: with a frozen encoder for the input.
        name: of the input.
        views: augmented views whose features are kept as well.
        keep: keep what is computed, for later runs.

    Attributes:
        store: of the features that are known.
        encoder: that computes the others.
        is_folded: whether that is a copy with batch normalization folded into convolutions.
    """

    def __init__(
        self,
        model: HasEncoders,
        name: str,
        *,
        views: CachedViews | None = None,
        keep: bool = True,
    ) -> None:
        self.name, self.views, self.keep = name, views, keep
        self.kind = modality(model.types[name])
        self.prepare = model.preprocessors[name]
        self.encoder, self.is_folded = model.encoder_of(name), False
        self.folder = cache_folder() / "features" / self.encoder.fingerprint(self.prepare)
        options = InputOptions(captions=1, steps=views.steps if views is not None else None)
        self.augmented = self.kind.input(name, self.prepare, options)
        self.reload()

    def reload(self) -> None:
        """Read what every process has kept so far."""
        self.store = FeatureStore(self.folder, self.encoder.about(), keep=self.keep)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self.store

    def values(self, record: Record) -> list[Any]:
        """All texts of a record, or the first value of another type, which is what a step takes."""
        values = self.kind.values(self.name, self.prepare, record)
        return values if self.kind.is_text else values[:1]

    def digest(self, value: Any, origin: str) -> bytes:
        """A hash of the content of a value: of the file for a path.

        Raises:
            BrokenRecordError: the value cannot be read.
        """
        if self.kind.column_style == "media" and isinstance(value, str | Path | bytes):
            stream: Any = open_content(value, origin, self.kind.name)[0]
            with stream:
                return file_digest(stream, partial(blake2b, digest_size=DIGEST_BYTES)).digest()
        if isinstance(value, str):
            content = value.encode("utf-8", "surrogatepass")
        else:
            array = np.asarray(self.kind.decode(value, origin, self.prepare))
            content = f"{array.shape} {array.dtype} ".encode() + array.tobytes()
        return blake2b(content, digest_size=DIGEST_BYTES).digest()

    def keyed(self, value: Any, origin: str) -> Keyed:
        """A value with its digest.

        Raises:
            BrokenRecordError: the value cannot be read.
        """
        return Keyed(self.digest(value, origin), value, origin)

    def find(self, record: Record) -> FeatureRows | None:
        """The features of the values of a record; None unless all of them are known."""
        values = self.values(record)
        try:
            digests = [self.digest(value, record["origin"]) for value in values]
        except BrokenRecordError:
            return None  # raised again by whoever reads the value
        if not all(digest in self.store for digest in digests):
            return None
        content = np.array([key64(v) for v in values], np.int64) if self.kind.is_text else None
        return FeatureRows(self.store.table, self.store.rows(digests)[:, None], content)

    def tensors(self, values: Sequence[Keyed]) -> dict[str, Tensor]:
        """The features of some values as tensors of a batch; those that are not known are computed.

        Raises:
            BrokenRecordError: a value cannot be decoded.
        """
        missing = {value.digest: value for value in values if value.digest not in self.store}
        if missing:
            prepared = self.prepared([Wanted(value) for value in missing.values()])
            for digest, reason in prepared.unusable.items():
                raise BrokenRecordError(missing[digest].origin, reason)
            self.store.add(self.computed(prepared))
        found = self.store.table.gather(self.store.rows([value.digest for value in values]))
        if self.store.is_flush_due:
            self.store.flush()
        return found

    def prepared(self, wanted: Iterable[Wanted]) -> Prepared:
        """Values and their views as tensors of the encoder."""
        decoded: list[tuple[Wanted, Any]] = []
        unusable: dict[bytes, str] = {}
        for one in wanted:
            value, origin = one.value.value, one.value.origin
            try:
                decoded.append((one, self.kind.decode(value, origin, self.prepare)))
            except BrokenRecordError as error:
                unusable[one.value.digest] = error.reason
        count = getattr(self.prepare, "count_truncated", None)
        is_cut = [count is not None and count([value]) > 0 for _, value in decoded]
        parts = []
        plain = [
            (value, one.value.digest, cut)
            for (one, value), cut in zip(decoded, is_cut, strict=True)
            if one.as_it_is
        ]
        if plain:
            values, digests, truncated = map(list, zip(*plain, strict=True))
            parts.append((self.prepare(values), digests, truncated))
        views = [
            (value, view, one.fixed, cut)
            for (one, value), cut in zip(decoded, is_cut, strict=True)
            for view in one.views
        ]
        if views:
            values, digests, fixed, truncated = map(list, zip(*views, strict=True))
            parts.append((self._augmented(values, digests, fixed), digests, truncated))
        return Prepared(parts, unusable)

    def computed(self, prepared: Prepared) -> list[Computed]:
        """The features of prepared values and views."""
        found: list[Computed] = []
        for tensors, digests, truncated in prepared.parts:
            if len(digests) >= MANY and not self.is_folded:
                self.encoder, self.is_folded = self.encoder.quicker(tensors), True
            features = self.encoder.features(tensors)
            found += map(Computed, digests, features, truncated)
        return found

    def _augmented(
        self, values: Sequence[Any], digests: Sequence[bytes], fixed: Sequence[Effects]
    ) -> dict[str, Tensor]:
        """The tensors of one view of each value, drawn by the digest of the view."""
        assert self.augmented is not None
        rngs = [np.random.default_rng(int.from_bytes(digest, "big")) for digest in digests]
        read = [self.augmented.read({self.name: v, "origin": self.name}) for v in values]
        return self.augmented.batch(read, BatchContext(rngs, [dict(e) for e in fixed])).tensors


def read_feature_caches(
    model: Any, names: Iterable[str], *, keep: bool, warn: Callable[[str], None]
) -> None:
    """Let a model take the features of some inputs from the cache where it embeds or predicts.

    Args:
        model: with frozen encoders for these inputs; its weights must not change from now on.
        names: of the inputs.
        keep: keep the features of values that are not in the cache.
        warn: called with a message where a file of the cache cannot be read.
    """
    model.feature_caches = {name: FeatureCache(model, name, keep=keep) for name in names}
    warn_of_damage(model.feature_caches.values(), warn)


def warn_of_damage(caches: Iterable[FeatureCache], warn: Callable[[str], None]) -> None:
    """Name the files of caches that cannot be read."""
    for cache in caches:
        for file in cache.store.damaged:
            warn(f"{file}: cannot be read; its features are computed anew")


@contextmanager
def kept_features(model: Any) -> Iterator[None]:
    """Write the features that are computed in the block at its end, whatever happens."""
    try:
        yield
    finally:
        for cache in feature_caches(model).values():
            cache.store.flush()


def feature_caches(model: Any) -> Mapping[str, FeatureCache]:
    """Input -> its cache, for the inputs that `read_feature_caches` named."""
    found: Mapping[str, FeatureCache] = getattr(model, "feature_caches", {})
    return found
