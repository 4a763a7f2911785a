"""Inputs of a joint embedding that a search, a classifier or a report compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from amodal.data.record import DataError
from amodal.modalities.registry import modality


class HasTypes(Protocol):
    """A model with named inputs, each of a modality type."""

    @property
    def types(self) -> Mapping[str, str]: ...


def query_and_gallery(model: HasTypes) -> tuple[str, str] | None:
    """A text input and the first other input; the first two inputs where none is text.

    None for a model of a single input.
    """
    texts = text_inputs(model)
    others = [name for name in model.types if name not in texts]
    if texts and others:
        return texts[0], others[0]
    names = tuple(model.types)
    return (names[0], names[1]) if len(names) > 1 else None


def text_inputs(model: HasTypes) -> list[str]:
    """The text inputs."""
    return [name for name, kind in model.types.items() if modality(kind).is_text]


def classified_input(model: HasTypes) -> str:
    """The input whose embeddings a classifier takes: the first that is not text.

    Raises:
        DataError: the model reads text alone.
    """
    texts = text_inputs(model)
    others = [name for name in model.types if name not in texts]
    if not others:
        raise DataError("the model reads text alone; this task classifies another input")
    return others[0]
