"""Types of the columns of a data set, as far as records depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import pyarrow as pa

from amodal.data.record import DataError
from amodal.data.sources.cells import not_text
from amodal.data.sources.columns import Columns


def undecoded(dataset: Any) -> Any:
    """The dataset with images, audio and videos left as they are stored."""
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video) and feature.decode:
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def label_names(features: Mapping[str, Any] | None, column: str | None) -> list[str] | None:
    """Names of the classes of an integer label column, if the dataset knows them."""
    feature = (features or {}).get(column) if column is not None else None
    if isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def check_text_columns(columns: Columns, features: Any, where: str) -> None:
    """Refuse captions, ids and labels that are objects.

    Raises:
        DataError: names the column, its type and a field that can be chosen.
    """
    if features is None:
        return  # a stream of unknown types: found out row by row
    types = {f.name: f.type for f in features.arrow_schema}
    named = [("text", name) for name in columns.texts]
    named += [(option, getattr(columns, option)) for option in ("id", "label")]
    for option, name in named:
        if name is None:
            continue
        kind = types.get(name) or _field_type(types, name, where, option)
        example: Any = _example(kind)
        inner = example[0] if isinstance(example, list) else example
        if isinstance(inner, Mapping | list) or (option == "id" and isinstance(example, list)):
            raise DataError(f"{where}: {not_text(name, option, example)}")


def _field_type(types: Mapping[str, Any], name: str, where: str, option: str) -> Any:
    """The type of a field such as `caption.raw`; that of a list of objects is a list."""
    column, *parts = name.split(".")
    kind, listed = types[column], False
    for part in parts:
        while _is_list(kind):
            kind, listed = kind.value_type, True
        there = [field.name for field in kind] if pa.types.is_struct(kind) else []
        if part not in there:
            raise DataError(
                f"{where}: `columns.{option}: {name}` asks for the field {part!r} of column "
                f"{column!r}, which has {', '.join(map(repr, there)) or 'none'}"
            )
        kind = kind.field(part).type
    return pa.list_(kind) if listed else kind


def _example(kind: pa.DataType) -> Any:
    """A value of the shape of a type: objects and lists, with None for all else."""
    if pa.types.is_struct(kind):
        return {field.name: None for field in kind}
    if _is_list(kind):
        return [_example(kind.value_type)]
    return None


def is_string(feature: Any) -> bool:
    """Whether a column holds text."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
