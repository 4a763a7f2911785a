"""The named inputs of a model: their encoders, preprocessors and collator."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from amodal.data.answer_vocabulary import AnswerVocabulary
from amodal.data.collate import Collator, DropInputs, TargetInput
from amodal.data.conversation import Task
from amodal.data.features import FeatureChoice
from amodal.data.inputs import Input
from amodal.data.record import DataError, Source, StreamingSource, readable_records
from amodal.data.sources.columns import Reading, Style
from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.encoders.pooling import build_pooling
from amodal.modalities.conversation import CONVERSATION, ConversationInput
from amodal.modalities.modality import InputOptions, Records
from amodal.modalities.registry import modality
from amodal.models.feature_cache import feature_caches

LOOKED_AT = 10_000  # records whose keys are looked at


class HasInputs(Protocol):
    """A model with named inputs.

    Args:
        types: input -> its modality type.
        preprocessors: input -> what turns decoded values into the tensors of its encoder.
    """

    @property
    def types(self) -> Mapping[str, str]: ...
    @property
    def preprocessors(self) -> Mapping[str, Any]: ...


def fit_preprocessors(
    encoders: Mapping[str, Any],
    records: Records | None,
    fitted: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The preprocessor of every encoder, fitted on training records where it needs that.

    Args:
        encoders: input -> configuration of its encoder.
        records: a function that starts reading the training records; None where there are none.
        fitted: input -> its preprocessor, where it is known already.

    Raises:
        DataError: no record has what is fitted; names the input.
    """
    found = dict(fitted or {})
    for name, config in encoders.items():
        if name in found:
            continue
        try:
            found[name] = modality(config.type).fit(config, name, records)
        except ValueError as error:
            raise DataError(f"model.encoders.{name}: {error}") from None
    return found


def build_encoder(
    config: Any, prepare: Any | None, *, pretrained: bool
) -> tuple[Any, nn.Module, nn.Module]:
    """An encoder with what a recipe asks for in fine-tuning and pooling.

    Args:
        config: of the encoder.
        prepare: its preprocessor, which may know sizes that the configuration lacks.
        pretrained: load its pretrained weights.

    Returns:
        The resolved configuration, the encoder, and its pooling.
    """
    if prepare is not None:
        config = config.for_preprocessor(prepare)
    encoder = config.build(pretrained=pretrained)
    resolved = encoder.config
    adapted = apply_fine_tuning(encoder)
    return resolved, adapted, build_pooling(config.pooling or encoder.pooling, encoder.width)


def collator_of(
    model: HasInputs,
    *,
    captions: int | None = 1,
    views: int = 1,
    steps: Mapping[str, Sequence[Any]] | None = None,
    target: TargetInput | None = None,
    drop: DropInputs | None = None,
    tasks: Mapping[Task, int | None] | None = None,
    answers: AnswerVocabulary | None = None,
    cached: bool = True,
) -> Collator:
    """The collator of a model's inputs.

    Args:
        captions: texts per item; None: all that the items of a batch have.
        views: augmented views of a media value per item.
        steps: input -> augmentation steps, in training; None outside training.
        target: what is to be predicted, or None.
        drop: takes values away in training.
        tasks: of a multimodal Transformer, with the most conversations of each per item and step;
            None leaves out the text of conversations.
        answers: answer vocabulary that answers to questions are classified into, or None.
        cached: outside training, batches have the features of values instead of their tensors
            where the model has a cache that knows them, see `models.feature_cache`.

    Examples:
        >>> from amodal.data.record import sample_rng
        >>> from amodal.encoders import SmallTransformerConfig
        >>> from amodal.models import collator_of
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> text = SmallTransformerConfig(width=16, layers=1, heads=2)
        >>> records = [
        ...     {"id": "a", "origin": "row 1", "text": ["a dog"]},
        ...     {"id": "b", "origin": "row 2", "text": ["a red star"]},
        ... ]
        >>> architecture = Architecture(encoders={"text": text}, projection=LinearConfig(dim=8))
        >>> model = build_joint_embedding(architecture, lambda: iter(records))
        >>> batch = collator_of(model)(records, [sample_rng(0, 0, i) for i in range(2)])
        >>> batch.present["text"].tolist(), sorted(batch.tensors["text"])
        ([[True], [True]], ['attention_mask', 'input_ids'])
    """
    inputs: list[Input] = []
    choices: dict[str, FeatureChoice] = {}
    for name, kind in model.types.items():
        own = tuple(steps.get(name, ())) if steps is not None else None
        options = InputOptions(captions=captions, views=views, steps=own)
        found = modality(kind).input(name, model.preprocessors[name], options)
        if found is not None:
            inputs.append(found)
            most, copies = (captions, 1) if modality(kind).is_text else (1, views)
            choices[name] = FeatureChoice(most, copies, shuffled=steps is not None)
    if tasks:
        template = model.preprocessors[CONVERSATION]
        training = steps is not None
        inputs.append(ConversationInput(CONVERSATION, template, tasks, answers, training))
    caches = feature_caches(model) if cached and steps is None else {}
    find = {name: cache.find for name, cache in caches.items()}
    return Collator(inputs, target=target, drop=drop, choices=choices, find=find)


def column_styles(types: Mapping[str, str], readers: Mapping[str, Any]) -> dict[str, Style]:
    """Input -> how a source hands over the cells of its column, for inputs that have one.

    Args:
        types: input -> modality type.
        readers: input -> its encoder's configuration or its preprocessor; one that names a column
            of its own takes that from the record.
    """
    styles = {name: modality(kind).column_style for name, kind in types.items()}
    return {
        name: style
        for name, style in styles.items()
        if style is not None and getattr(readers.get(name), "column", None) in (None, name)
    }


def reading_of(
    types: Mapping[str, str], readers: Mapping[str, Any], target: Any | None = None
) -> Reading:
    """Columns of a row that a model reads.

    Args:
        types, readers: as for `column_styles`.
        target: `TargetConfig` of a model that predicts a column, or None.
    """
    names = {c for reader in readers.values() for c in getattr(reader, "categorical", ())}
    return Reading(
        styles=column_styles(types, readers),
        as_written=frozenset({*names, target.column} if target is not None else names),
        rows_are_items=target is not None,
    )


def check_columns(
    readers: Mapping[str, Any], source: Source | StreamingSource, remedy: str = "rename it"
) -> None:
    """Refuse a source none of whose records has a column that an input reads.

    Args:
        readers: as for `column_styles`; those with columns of their own name them as `columns`, or
            one as `column`.
        source: its first records are looked at where it does not name the columns itself; one that
            only streams is not.
        remedy: what can be done, for the error.

    Raises:
        DataError: names the column and the nearest one.
    """
    wanted = [
        (name, column)
        for name, reader in readers.items()
        for column in getattr(reader, "columns", None) or (getattr(reader, "column", None),)
        if column is not None
    ]
    there = set(source.inputs)
    if isinstance(source, Source):
        for record in islice(readable_records(source), LOOKED_AT):
            if there.issuperset(column for _, column in wanted):
                return
            inner = (record.get(name) for name, _ in wanted)
            there.update(record, *(value for value in inner if isinstance(value, dict)))
    elif there.isdisjoint(column for _, column in wanted):
        return
    for name, column in wanted:
        if column not in there:
            spelled = [other for other in there if other.lower() == column.lower()]
            near = spelled or difflib.get_close_matches(column, there, n=1, cutoff=0.4)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise DataError(
                f"{source.name}: no record has a column {column!r}, which the input {name!r} "
                f"reads{hint}; {remedy}"
            )


def check_source(types: Mapping[str, str], readers: Mapping[str, Any], source: Source) -> None:
    """Refuse a source that lacks an input.

    Args:
        types, readers: as for `column_styles`.

    Raises:
        DataError: names what is missing and what the source gives.
    """
    wanted = list(column_styles(types, readers))
    missing = [name for name in wanted if name not in source.inputs]
    if missing:
        raise DataError(
            f"{source.name}: model.encoders has {' and '.join(wanted)}, but no record has "
            f"{' or '.join(missing)}; the source gives "
            f"{', '.join(sorted(source.inputs)) or 'columns alone'}"
        )


def origin_of(name: str, place: int, value: Any) -> str:
    """A name for a value that a caller gave: its file, or its place in a list."""
    return str(value) if isinstance(value, Path) or _is_path(value) else f"{name}[{place}]"


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 4096 and "\n" not in value and "." in value
