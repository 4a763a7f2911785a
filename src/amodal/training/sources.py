"""The sources of a recipe, and sources that are read as those of a run were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.cache import CachedSource, Decoder
from amodal.data.holdout import hold_out, share_of
from amodal.data.near_duplicates import Fingerprints
from amodal.data.record import BrokenRecordError, DataError, Record, Source, StreamingSource
from amodal.data.sources.columns import RUN_REMEDY, Reading
from amodal.data.sources.concat import single_sources
from amodal.data.sources.specification import (
    SourceConfig,
    open_random_access,
    open_source,
    parse_source,
)
from amodal.modalities.registry import modality
from amodal.models.inputs import check_columns, reading_of
from amodal.models.run_location import found_folder
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe, load_recipe

SUMMARIZED = 256  # items


def open_sources(
    recipe: Recipe, callbacks: ProgressCallbacks | None = None
) -> tuple[Source, Source | None]:
    """The training and the validation source of a recipe, in memory where it says so.

    Without `data.validation`, a share of the training items is the validation source.

    Raises:
        DataError: a source cannot be read, is empty, or only streams.
    """
    callbacks = callbacks or ProgressCallbacks()
    train = open_training_source(recipe)
    validation: Source | None = None
    if recipe.data.validation is not None:
        validation = open_random_access(
            recipe.data.validation, "data.validation", _recipe_reading(recipe)
        )
        check_columns(recipe.model.encoders, validation)
    else:
        train, validation = _held_out(recipe, train, callbacks)
    if recipe.data.train_share < 1:
        train = share_of(train, recipe.data.train_share)
    if not recipe.data.cache:
        return train, validation
    decoders = decoders_of(recipe)
    kept = None if validation is None else _cached(validation, "validation", decoders, callbacks)
    return _cached(train, "train", decoders, callbacks), kept


def open_training_source(recipe: Recipe) -> Source:
    """The training source of a recipe, held-out items among the rest.

    Raises:
        DataError: it cannot be read, is empty, or only streams.
    """
    return open_random_access(recipe.data.train, "data.train", _recipe_reading(recipe))


def _recipe_reading(recipe: Recipe) -> Reading:
    target = getattr(recipe.model, "target", None)
    return reading_of(recipe.model.types, recipe.model.encoders, target)


def _held_out(
    recipe: Recipe, source: Source, callbacks: ProgressCallbacks
) -> tuple[Source, Source | None]:
    """A source without its held-out items, and these."""
    types = {name: modality(kind) for name, kind in recipe.model.types.items()}

    def fingerprints(record: Record) -> Fingerprints:
        return {name: kind.fingerprints(name, record) for name, kind in types.items()}

    together = recipe.data.keeps_together(len(source))
    if together and recipe.data.holdout:
        callbacks.stage("comparing items", len(source))
    split = hold_out(
        source,
        recipe.data.holdout,
        fingerprints if together else None,
        progress=callbacks.advance if together else None,
    )
    grouped = (
        f"; {split.groups} groups of near-duplicates ({split.grouped} items) stay on one side, "
        "see data.near_duplicates"
        if split.groups
        else ""
    )
    if split.held_out is not None:
        callbacks.warn(
            f"no data.validation: {len(split.held_out)} of {len(source)} items are held out; set "
            f"data.holdout to change the share{grouped}"
        )
    elif split.groups:
        callbacks.warn(f"nothing is held out{grouped}")
    return split.train, split.held_out


def summarize_source(source: Source) -> dict[str, Any]:
    """The number of items, and a digest of up to 256 of them, spread over the source.

    Other rows than before, or rows in another order, give another digest; where an image has
    changed in its file alone, it is the same.

    Examples:
        >>> from amodal.data import parse_source
        >>> one, two = (parse_source(f"scenes:size=8,seed={s}").open() for s in (0, 1))
        >>> summarize_source(one) == summarize_source(one), summarize_source(one)["items"]
        (True, 8)
        >>> summarize_source(one) == summarize_source(two)
        False
    """
    digest = hashlib.sha256()
    for row in np.unique(np.linspace(0, len(source) - 1, SUMMARIZED).astype(int)).tolist():
        try:
            record = source[row]
        except BrokenRecordError:
            record = {}
        for part in _parts({name: record[name] for name in sorted(record) if name != "origin"}):
            digest.update(len(part).to_bytes(8, "little") + part)
    return {"items": len(source), "digest": digest.hexdigest()}


def _parts(value: Any) -> Iterator[bytes]:
    """A value of a record as bytes: equal values of any process give equal ones."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _parts(item)
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, np.ndarray):
        yield str((value.shape, value.dtype)).encode() + value.tobytes()
    elif isinstance(value, str | Path | int | float | None):
        yield str(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, Sequence):
        yield str(len(value)).encode()
        for item in value:
            yield from _parts(item)
    else:  # such as a decoded image, whose text may hold an address in memory
        yield type(value).__name__.encode()


def validation_source(run: Path) -> Source:
    """The validation source of the recipe that a run was trained with.

    Raises:
        DataError: nothing was held out, or the source cannot be read.
    """
    recipe = load_recipe(run / "recipe.yaml")
    found = open_sources(recipe.model_copy(update={"data": _uncached(recipe)}))[1]
    if found is None:
        raise DataError(f"{run}: nothing was held out in training; name a source with --on")
    return found


def training_source(run: Path) -> Source:
    """The training source of the recipe that a run was trained with.

    Raises:
        DataError: the source cannot be read.
    """
    recipe = load_recipe(run / "recipe.yaml")
    return open_sources(recipe.model_copy(update={"data": _uncached(recipe)}))[0]


def source_for_run(run: Path, text: str) -> SourceConfig:
    """The source that a text on the command line means, read as the training source of a run was.

    Where the text names no columns of its own, those of the recipe count.

    Raises:
        DataError: it means no source.
    """
    config = parse_source(text)
    file = found_folder(run) / "recipe.yaml"
    if not file.is_file():
        return config
    trained: Any = load_recipe(file).data.train
    alike = (one for one in (trained, *single_sources(trained)) if one.kind == config.kind)
    like = next(alike, None)
    return config if like is None else config.read_like(like)


def open_for_run(run: Path, model: Any, text: str, *, allow_missing: bool = False) -> Source:
    """A source with its rows in any order, for the inputs of the model of a run.

    Args:
        run: its folder.
        model: of the run.
        text: what names the source.
        allow_missing: a column of a table that the model reads may be missing in every row.

    Raises:
        DataError: it cannot be read, or only in order, or lacks a column.
    """
    reading = _reading(model, allow_missing=allow_missing)
    source = open_random_access(source_for_run(run, text), text, reading)
    if not allow_missing:
        check_columns(model.preprocessors, source, RUN_REMEDY)
    return source


def stream_for_run(
    run: Path, model: Any, text: str, *, allow_missing: bool = False
) -> Source | StreamingSource:
    """The same, where rows may also come in order only.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    reading = _reading(model, allow_missing=allow_missing)
    source = open_source(source_for_run(run, text), reading)
    if not allow_missing:
        check_columns(model.preprocessors, source, RUN_REMEDY)
    return source


def _reading(model: Any, *, allow_missing: bool) -> Reading:
    found = reading_of(model.types, model.preprocessors, getattr(model, "target", None))
    return replace(found, allow_missing=allow_missing)


def _uncached(recipe: Recipe) -> Any:
    return recipe.data.model_copy(update={"cache": False})


def _cached(
    source: Source, name: str, decoders: Mapping[str, Decoder], callbacks: ProgressCallbacks
) -> Source:
    if not decoders:
        return source
    cached = CachedSource(source, decoders)
    callbacks.stage(f"reading {name}", len(cached))
    cached.fill(callbacks.advance, processes=_cores())
    return cached


def decoders_of(recipe: Recipe) -> dict[str, Decoder]:
    """Input -> decoder of the values that are kept in memory; none where features are kept."""
    encoders: Mapping[str, Any] = recipe.model.encoders
    featured = recipe.cached_inputs()
    found = {
        name: modality(config.type).cache_decoder(config)
        for name, config in encoders.items()
        if name not in featured
    }
    return {name: decode for name, decode in found.items() if decode is not None}


def _cores() -> int:
    """Cores that this process may use: in many containers fewer than the machine has."""
    available = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(available(0)) if available is not None else os.cpu_count() or 1
