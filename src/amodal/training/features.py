"""Features of frozen encoders: of the sources of a run, and for the model of a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from amodal.data.ahead import work_ahead
from amodal.data.batch import key64
from amodal.data.features import FeatureSource, SourceFeatures
from amodal.data.inputs import Effects
from amodal.data.record import BrokenRecordError, Record
from amodal.distributed import gather_texts, rank, world_size
from amodal.modalities.registry import modality
from amodal.models.feature_cache import (
    CachedViews,
    FeatureCache,
    HasEncoders,
    Keyed,
    Wanted,
    read_feature_caches,
    warn_of_damage,
)
from amodal.models.frozen_features import is_frozen
from amodal.models.run_location import found_folder
from amodal.training.processes import wait_for_all
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe, load_recipe

AT_ONCE = 64  # values and views that are encoded together
AHEAD = 4  # groups of values that are decoded while the encoder works


def compute_features(
    model: HasEncoders,
    names: Iterable[str],
    train: FeatureSource,
    validation: FeatureSource | None,
    callbacks: ProgressCallbacks,
    *,
    views: Mapping[str, CachedViews] | None = None,
) -> None:
    """Give the records of the sources the features of their values, each computed once.

    Features are kept in `cache_folder()`, for every run with the same encoder and preprocessing.
    Computing goes on where it was interrupted; several processes share it.

    Args:
        model: with frozen encoders for these inputs.
        names: of the inputs.
        train: training source.
        validation: held-out source, or None.
        callbacks: progress.
        views: input -> augmented views of its values in the training source.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in names:
        model.encoder_of(name).module.to(device)
        cache = FeatureCache(model, name, views=(views or {}).get(name))
        warn_of_damage([cache], callbacks.warn)
        _Features(model, cache, callbacks).compute(train, validation)


def cached_views(recipe: Recipe) -> dict[str, CachedViews]:
    """Input -> the augmented views of its values that a recipe caches."""
    count, steps = recipe.data.cached_views, recipe.steps()
    return {
        name: CachedViews(count, steps[name], recipe.train.seed)
        for name in recipe.cached_inputs()
        if count and steps[name]
    }


def use_feature_caches(
    run: str | Path, model: Any, *, keep: bool = False, warn: Callable[[str], None]
) -> None:
    """Let the model of a run take the features of its frozen encoders from the cache.

    None are taken where the recipe of the run has `data.feature_cache: false`. Tokens are kept in
    half precision, so that they are taken by a model that was trained on them alone.

    Args:
        run: its folder.
        model: of the run.
        keep: keep the features of values that are not in the cache.
        warn: called with a message where a file of the cache cannot be read.
    """
    has_encoders = hasattr(model, "encoder_of")  # an image tokenizer has none
    encoders = {name: model.encoder_of(name) for name in model.inputs} if has_encoders else {}
    frozen = {name: one for name, one in encoders.items() if is_frozen(one.config)}
    file = found_folder(run) / "recipe.yaml"
    recipe = load_recipe(file) if frozen and file.is_file() else None
    if recipe is not None and not recipe.data.feature_cache:
        return
    trained_on = recipe.cached_inputs() if recipe is not None else ()
    names = [name for name, one in frozen.items() if one.is_pooled or name in trained_on]
    read_feature_caches(model, names, keep=keep, warn=warn)


class _Value(NamedTuple):
    """A value of the sources: its features and those of its views, and where it is.

    Args:
        digest: of its content.
        source: that has it.
        record: number of the record.
        place: number among the values of the input in the record.
        size: letters of a text, 0 for another value.
        views: digests of its views.
        fixed: effects of the views that are not drawn.
    """

    digest: bytes
    source: FeatureSource
    record: int
    place: int
    size: int
    views: Sequence[bytes]
    fixed: Effects


class _Found(NamedTuple):
    """Digests of a value of a record and of its views, and its content key."""

    digests: tuple[bytes, ...]
    key: int


@dataclass(frozen=True)
class _Features:
    """The features of one input.

    Args:
        model: with the other inputs.
        cache: of the input.
        callbacks: progress.
    """

    model: HasEncoders
    cache: FeatureCache
    callbacks: ProgressCallbacks

    def compute(self, train: FeatureSource, validation: FeatureSource | None) -> None:
        """Compute what is missing, and attach everything to the sources."""
        values: dict[tuple[bytes, ...], _Value] = {}
        found = {train: self._look_up(train, self.cache.views, values)}
        if validation is not None:
            found[validation] = self._look_up(validation, None, values)
        unusable = self._compute(values)
        if world_size() > 1:
            wait_for_all()
            self.cache.reload()
        for source, records in found.items():
            self._attach(source, records, unusable)

    def _look_up(
        self,
        source: FeatureSource,
        views: CachedViews | None,
        values: dict[tuple[bytes, ...], _Value],
    ) -> list[list[_Found]]:
        """The values of each record of a source; `values` says where each of them is."""
        name, is_text = self.cache.name, self.cache.kind.is_text
        self.callbacks.stage(f"{source.name}: looking up {name} features", len(source))
        found: list[list[_Found]] = []
        for number in range(len(source)):
            of_record: list[_Found] = []
            try:
                record = source.source[number]
                fixed = self._fixed(record, views) if views is not None else {}
                for place, value in enumerate(self.cache.values(record)):
                    digest = self.cache.digest(value, record["origin"])
                    of_views = views.digests(digest, fixed) if views is not None else []
                    size, key = (len(value), key64(value)) if is_text else (0, 0)
                    of_record.append(_Found((digest, *of_views), key))
                    values.setdefault(
                        of_record[-1].digests,
                        _Value(digest, source, number, place, size, of_views, fixed),
                    )
            except BrokenRecordError as error:
                source.broken.setdefault(number, error)
                of_record = []
            found.append(of_record)
            self.callbacks.advance(number + 1)
        return found

    def _fixed(self, record: Record, views: CachedViews) -> Effects:
        """Effects that the views of a record must not have: another input would have to follow."""
        if not views.effects:
            return {}
        types, preprocessors = self.model.types, self.model.preprocessors
        others = [
            (modality(kind), value)
            for name, kind in types.items()
            if name != self.cache.name
            for value in modality(kind).values(name, preprocessors[name], record)
        ]
        followed = any(kind.follows(value, views.effects) for kind, value in others)
        return dict.fromkeys(views.effects, False) if followed else {}

    def _compute(self, values: Mapping[tuple[bytes, ...], _Value]) -> dict[bytes, str]:
        """Compute and keep the features that are missing; why some values cannot have any."""
        wanted: list[tuple[_Value, list[bytes]]] = []
        asked: set[bytes] = set()
        for value in values.values():
            digests = (value.digest, *value.views)
            missing = [d for d in digests if d not in self.cache and d not in asked]
            asked.update(missing)
            # By the digest, as the processes may find different values missing: the first ones to
            # come have already added some.
            if missing and value.digest[0] % world_size() == rank():
                wanted.append((value, missing))
        # Texts of similar length need little padding.
        wanted.sort(key=lambda one: (one[0].size, one[0].digest))
        views = self.cache.views
        size = max(1, AT_ONCE // (1 + (views.count if views is not None else 0)))
        groups = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        if wanted:
            self.callbacks.stage(f"computing {self.cache.name} features", len(wanted))
        given = ([self._wanted(*one) for one in group] for group in groups)
        unusable: dict[bytes, str] = {}
        store = self.cache.store
        try:
            with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
                for number, prepared in enumerate(
                    work_ahead(self.cache.prepared, given, pool, AHEAD), 1
                ):
                    unusable |= prepared.unusable
                    store.add(self.cache.computed(prepared))
                    self.callbacks.advance(min(number * size, len(wanted)))
                    if store.is_flush_due:
                        store.flush()
        finally:
            store.flush()
        if world_size() == 1:
            return unusable
        texts = gather_texts(json.dumps({digest.hex(): why for digest, why in unusable.items()}))
        return {bytes.fromhex(d): why for text in texts for d, why in json.loads(text).items()}

    def _wanted(self, value: _Value, missing: Sequence[bytes]) -> Wanted:
        """A value as its record has it, with what is missing of its features."""
        record = value.source.source[value.record]
        keyed = Keyed(value.digest, self.cache.values(record)[value.place], record["origin"])
        views = [digest for digest in missing if digest != value.digest]
        return Wanted(keyed, value.digest in missing, views, value.fixed)

    def _attach(
        self,
        source: FeatureSource,
        records: Sequence[Sequence[_Found]],
        unusable: Mapping[bytes, str],
    ) -> None:
        """Give the records of a source their features; those with an unusable value are broken."""
        for number, values in enumerate(records):
            reasons = [unusable[v.digests[0]] for v in values if v.digests[0] in unusable]
            if reasons and number not in source.broken:
                origin = source.source[number]["origin"]
                source.broken[number] = BrokenRecordError(origin, reasons[0])
        kept = [[] if number in source.broken else v for number, v in enumerate(records)]
        flat = [value for values in kept for value in values]
        rows = self.cache.store.rows([digest for value in flat for digest in value.digests])
        width = len(flat[0].digests) if flat else 1
        keys = np.array([value.key for value in flat], dtype=np.int64)
        source.features[self.cache.name] = SourceFeatures(
            self.cache.store.table,
            np.cumsum([0, *map(len, kept)]),
            rows.reshape(-1, width),
            keys if self.cache.kind.is_text else None,
        )
