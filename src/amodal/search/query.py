"""Queries: values of a model's inputs to one vector, and the input that a search returns."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import yaml

from amodal.modalities.registry import modality
from amodal.search.description import StoreError
from amodal.search.embed import EmbeddingModel

ALL = "all"
MAX_VALUE = 100_000  # characters of a vector or of columns, some thousands of numbers
MAX_VALUE_DEPTH = 8


class HasTypes(Protocol):
    """A model with named inputs, each of a modality type."""

    @property
    def types(self) -> Mapping[str, str]: ...


def query_vector(model: EmbeddingModel, values: Mapping[str, Any]) -> np.ndarray:
    """(E,) mean of the unit embeddings of the parts of a query.

    Args:
        model: what the index was built with.
        values: input -> the one value of it, such as `{"text": "a red circle"}`.

    Raises:
        StoreError: the model has no such input.

    Examples:
        >>> from amodal.encoders import VectorConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> from amodal.search import query_vector
        >>> encoders = {"sensor": VectorConfig(), "place": VectorConfig()}
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> values = {"sensor": [0.1, 0.9, 0.4], "place": [47.0, 8.5]}
        >>> model = build_joint_embedding(architecture, lambda: iter([values]))
        >>> query_vector(model, values).shape  # between the embeddings of both parts
        (8,)
    """
    for name in values:
        if name not in model.types:
            raise StoreError(
                f"the model has no input {name!r}; its inputs are {', '.join(model.types)}"
            )
    parts = [model.encode(**{name: [value]})[0] for name, value in values.items()]
    return np.asarray(np.mean(parts, axis=0))


def input_of_type(model: HasTypes, kind: str) -> str:
    """The input of a model that takes values of a modality type.

    Raises:
        StoreError: there is none, or there are several, which have to be named.
    """
    fitting = [name for name, own in model.types.items() if own == kind]
    shown = ", ".join(f"{name} ({own})" for name, own in model.types.items())
    if not fitting:
        raise StoreError(f"the model has no input of type {kind}; its inputs are {shown}")
    if len(fitting) > 1:
        raise StoreError(
            f"the model has several inputs of type {kind}: name one, such as "
            f"`--input {fitting[0]}=VALUE`; its inputs are {shown}"
        )
    return fitting[0]


def named_values(
    model: EmbeddingModel, by_type: Mapping[str, Any], by_name: Mapping[str, str]
) -> dict[str, Any]:
    """The parts of a query by input.

    Args:
        by_type: modality type -> value.
        by_name: input -> value as it was written.

    Raises:
        StoreError: an input that the model lacks, or one that is not clear.

    Examples:
        >>> from types import SimpleNamespace
        >>> from amodal.search import named_values
        >>> model = SimpleNamespace(types={"photo": "image", "sketch": "image", "caption": "text"})
        >>> named_values(model, {"text": "a red star"}, {"sketch": "star.png"})
        {'caption': 'a red star', 'sketch': 'star.png'}
    """
    found = {input_of_type(model, kind): value for kind, value in by_type.items()}
    for name, text in by_name.items():
        if name not in model.types:
            raise StoreError(
                f"the model has no input {name!r}; its inputs are {', '.join(model.types)}"
            )
        found[name] = parsed_value(name, model.types[name], text)
    return found


def parsed_value(name: str, type_: str, text: str) -> Any:
    """The value of an input as it was written.

    Raises:
        StoreError: the text is no value of its type.
    """
    kind = modality(type_)
    if kind.is_text or kind.file_suffixes:
        return kind.parse(text)
    if len(text) > MAX_VALUE:
        raise StoreError(
            f"{name}: {len(text):,} characters, at most {MAX_VALUE:,} are read as a value"
        )
    # Deep brackets take minutes to read, and a list that names itself grows to gigabytes.
    if _depth(text) > MAX_VALUE_DEPTH:
        raise StoreError(f"{name}: brackets inside one another more than {MAX_VALUE_DEPTH} deep")
    if _has_alias(text):
        raise StoreError(f"{name}: values with anchors and aliases are not read")
    try:
        return kind.parse(text)
    except (ValueError, yaml.YAMLError) as error:
        raise StoreError(f"{name}: {' '.join(str(error).split())}") from None


def _depth(text: str) -> int:
    steps = ((c in "[{") - (c in "]}") for c in text)
    return max(accumulate(steps, lambda depth, step: max(0, depth + step)), default=0)


def _has_alias(text: str) -> bool:
    # As flow style, in which nothing but brackets nests.
    flow = text if text.lstrip()[:1] in ("[", "{") else "{" + text + "}"
    try:
        return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(flow))
    except yaml.YAMLError:
        return False  # it will not be read, or is no YAML but a path


def text_notes(model: EmbeddingModel, values: Mapping[str, Any]) -> list[str]:
    """Sentences on the words of a query that the model does not know, and on what it cuts off.

    Args:
        model: that embeds the query.
        values: input -> the one value of it.
    """
    notes = []
    for name, value in values.items():
        prepare: Any = model.preprocessors.get(name)
        if hasattr(prepare, "unknown_words"):
            unknown, words = prepare.unknown_words(str(value))
            if unknown:
                notes.append(
                    f"{len(unknown)} of {words} words of the {name} are not in the vocabulary of "
                    f"the run: {', '.join(unknown)}"
                )
            if prepare.count_truncated([str(value)]):
                notes.append(
                    f"the {name} is truncated: the run reads {prepare.max_length} tokens of a text"
                )
    return notes


def returned_input(
    asked: str | None, counts: Mapping[str, int], types: Mapping[str, str], query: Mapping[str, Any]
) -> str | None:
    """The input that a search returns; None for all of them.

    Args:
        asked: by name, or "all"; left out, the search goes across inputs: a text finds what is no
            text, anything else finds texts, where the index has them.
        counts: input -> rows of the index.
        types: input -> modality type.
        query: input -> value of the query.
    """
    if asked is not None:
        return None if asked == ALL else asked
    # In the order of the recipe, whose first input of a type is likely to be the one meant.
    language = {name: modality(kind).is_text for name, kind in types.items() if name in counts}
    by_text = any(modality(types[name]).is_text for name in query)
    others = [name for name, is_text in language.items() if is_text != by_text]
    # Something that the query does not hold, if there is such.
    return next((n for n in others if n not in query), next(iter(others), None))
