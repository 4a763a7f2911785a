"""Encoders that a recipe can name: a union per modality type, and the mapping of named inputs."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
)

from amodal.encoders.config import EncoderConfig
from amodal.encoders.dual.open_clip import OpenClipDualConfig
from amodal.encoders.dual.sentence_transformers import SentenceTransformersDualConfig
from amodal.encoders.dual.transformers import TransformersDualConfig
from amodal.modalities.registry import ENCODERS_OF
from amodal.plugins import load_plugins

GROUP = "amodal.encoders"  # of entry points: NAME = "package.module:ConfigClass"
# Keys of a record and files of a run folder, which an input cannot be named after.
RESERVED = frozenset(
    [
        "id",
        "origin",
        "label",
        "best",
        "checkpoints",
        "evaluation",
        "index",
        "normalization",
        "plots",
        "conversation",
    ]
)


def _tag(config: type[EncoderConfig], field: str) -> str:
    (tag,) = get_args(config.model_fields[field].annotation)
    return str(tag)


def _by_type() -> dict[str, dict[str, type[EncoderConfig]]]:
    found: dict[str, dict[str, type[EncoderConfig]]] = {}
    built_in = [config for configs in ENCODERS_OF.values() for config in configs]
    for config in (*built_in, *load_plugins(GROUP)):
        found.setdefault(_tag(config, "type"), {}).setdefault(_tag(config, "kind"), config)
    return found


# Modality type -> kind -> configuration of the encoder.
ENCODERS = _by_type()


def _type_of(value: Any) -> Any:
    return value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)


def _union(kinds: Mapping[str, type[EncoderConfig]]) -> Any:
    options = tuple(kinds.values())
    if len(options) == 1:
        return options[0]
    return Annotated[Union[options], Field(discriminator="kind")]  # noqa: UP007


EncoderSpecification: Any = Annotated[
    Union[tuple(Annotated[_union(kinds), Tag(name)] for name, kinds in ENCODERS.items())],  # noqa: UP007
    Discriminator(_type_of),
]


def _with_types(encoders: Any) -> Any:
    """The mapping with the type of every input inferred from its name or kind.

    An input whose encoder is null is left out, so that a recipe can be changed to do without it.
    """
    if not isinstance(encoders, Mapping):
        return encoders
    named = {name: value for name, value in encoders.items() if value is not None}
    return {name: _with_type(str(name), value) for name, value in named.items()}


def _with_type(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping) or value.get("type") is not None:
        return value
    if name in ENCODERS:
        return {**value, "type": name}
    kind = value.get("kind")
    fitting = [type_ for type_, kinds in ENCODERS.items() if kind in kinds]
    if len(fitting) != 1:
        types = fitting or list(ENCODERS)
        raise ValueError(
            f"encoders.{name}: set its modality type with `type: …`, such as {types[0]} "
            f"(types: {', '.join(types)})"
        )
    return {**value, "type": fitting[0]}


def _named(encoders: dict[str, Any]) -> dict[str, Any]:
    for name in encoders:
        if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED:
            raise ValueError(
                f"encoders.{name}: an input needs a name of letters, digits and underscores other "
                f"than {', '.join(sorted(RESERVED))}"
            )
    return encoders


def _from_pairs(encoders: Any) -> Any:
    return dict(encoders) if isinstance(encoders, list) else encoders


def _to_pairs(encoders: Mapping[str, Any]) -> list[list[Any]]:
    return [[name, config.model_dump(mode="json")] for name, config in encoders.items()]


# Input -> encoder; names are of the user's choosing, and several inputs may have one type.
if TYPE_CHECKING:  # the union is made at run time
    NamedEncoders = dict[str, Any]
    SavedEncoders = dict[str, Any]
else:
    NamedEncoders = Annotated[
        dict[str, EncoderSpecification], BeforeValidator(_with_types), AfterValidator(_named)
    ]
    # The same for config.json, which is written with sorted keys: the order of inputs matters.
    SavedEncoders = Annotated[
        NamedEncoders, BeforeValidator(_from_pairs), PlainSerializer(_to_pairs)
    ]
DualEncoderConfig = Annotated[
    TransformersDualConfig | OpenClipDualConfig | SentenceTransformersDualConfig,
    Field(discriminator="kind"),
]
