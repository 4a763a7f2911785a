"""Arrow types that hold the values of several parts of one column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

MOST_FIELDS = 200  # of an object; one with more is a mapping, and is kept as JSON
MEDIA_FIELDS = {"bytes", "path"}


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both; text where there is no other.

    Examples:
        >>> import pyarrow as pa
        >>> wider(pa.int32(), pa.float64()), wider(pa.int64(), pa.string())
        (DataType(double), DataType(string))
    """
    one, other = _plain(one), _plain(other)
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if _is_number(one) and _is_number(other):
        return _wider_number(one, other)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _wider_struct(one, other)
    if _is_list(one) and _is_list(other):
        return pa.list_(wider(one.value_type, other.value_type))
    if _is_list(one) or _is_list(other):
        values, scalar = (one.value_type, other) if _is_list(one) else (other.value_type, one)
        if pa.types.is_struct(scalar) or pa.types.is_nested(values):
            return pa.string()
        return pa.list_(wider(values, scalar))
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz == other.tz:
        return pa.timestamp("us", one.tz)
    if _is_binary(one) and _is_binary(other):
        return pa.large_binary()
    if _is_media(one, other):
        return one if pa.types.is_struct(one) else other
    if pa.types.is_large_string(one) or pa.types.is_large_string(other):
        return pa.large_string()
    return pa.string()


def wider_schema(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The columns of both, each with the wider type."""
    types = {field.name: field.type for field in one}
    for field in other:
        types[field.name] = wider(types.get(field.name, pa.null()), field.type)
    return pa.schema(list(types.items()))


def widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema that `wider_schema` gave; absent ones are null."""
    columns = []
    for field in schema:
        place = table.schema.get_field_index(field.name)
        if place < 0:
            columns.append(pa.chunked_array([pa.nulls(len(table), field.type)]))
            continue
        parts = [_converted(chunk, field.type) for chunk in table.column(place).chunks]
        columns.append(pa.chunked_array(parts, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def array_of(values: Sequence[Any]) -> pa.Array:
    """Values of a JSON document as one array; text where they are of several kinds."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {str}:
        return _strings(values)
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float}:
        return _numbers(values, whole=kinds == {int})
    if kinds == {dict}:
        names = list(dict.fromkeys(name for value in values if value for name in value))
        if 0 < len(names) <= MOST_FIELDS:
            fields = [array_of([v.get(name) if v else None for v in values]) for name in names]
            fields = [pa.nulls(len(f), pa.string()) if f.type == pa.null() else f for f in fields]
            mask = pa.array([value is None for value in values])
            return pa.StructArray.from_arrays(fields, names, mask=mask)
    elif dict not in kinds and list in kinds:
        lists = [v if v is None or isinstance(v, list) else [v] for v in values]
        lengths = [0 if v is None else len(v) for v in lists]
        inner = array_of([item for v in lists if v for item in v])
        inner = pa.nulls(len(inner), pa.string()) if inner.type == pa.null() else inner
        offsets: list[int | None] = [0, *accumulate(lengths)]
        for place, value in enumerate(lists):
            if value is None:
                offsets[place] = None
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner)
    return _strings([v if v is None or isinstance(v, str) else as_json(v) for v in values])


def as_json(value: Any) -> str:
    """A value as a line of JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)


def without_surrogates(text: str) -> str:
    """The text with U+FFFD in the place of halves of a pair, which are no letters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _strings(values: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([v if v is None else without_surrogates(v) for v in values], pa.string())


def _numbers(values: Sequence[float | None], whole: bool) -> pa.Array:
    try:
        if whole:
            return pa.array(values, pa.int64())
        if not any(isinstance(v, int) and abs(v) > 1 << 53 for v in values):
            return pa.array([v if v is None else float(v) for v in values], pa.float64())
    except (OverflowError, pa.ArrowInvalid):
        pass
    return pa.array([v if v is None else str(v) for v in values], pa.string())


def _converted(array: pa.Array, to: pa.DataType) -> pa.Array:
    kind = array.type
    if kind == to:
        return array
    if pa.types.is_null(kind):
        return pa.nulls(len(array), to)
    if pa.types.is_dictionary(kind):
        return _converted(array.dictionary_decode(), to)
    if pa.types.is_struct(kind) and pa.types.is_struct(to):
        return _converted_struct(array, to)
    if _is_list(to):
        return _converted_list(array, to)
    if pa.types.is_struct(to):  # an image that is a path, or file contents, among others
        name = "bytes" if _is_binary(kind) else "path"
        inner = to.field(name).type
        fields = [
            _converted(array, inner) if f.name == name else pa.nulls(len(array), f.type) for f in to
        ]
        return pa.StructArray.from_arrays(fields, fields=list(to), mask=array.is_null())
    if pa.types.is_nested(kind) or pa.types.is_decimal(kind):
        texts = [
            None if v is None else as_json(v) if pa.types.is_nested(kind) else format(v, "f")
            for v in array.to_pylist()
        ]
        return pa.array(texts, pa.string()).cast(to)
    if _is_date(kind) and not _is_date(to):
        texts = [None if v is None else v.isoformat() for v in array.to_pylist()]
        return pa.array(texts, to)
    return array.cast(to, safe=False)


def _converted_struct(array: pa.Array, to: pa.DataType) -> pa.Array:
    names = [field.name for field in array.type]
    flat = dict(zip(names, array.flatten(), strict=True))
    fields = [
        _converted(flat[f.name], f.type) if f.name in flat else pa.nulls(len(array), f.type)
        for f in to
    ]
    return pa.StructArray.from_arrays(fields, fields=list(to), mask=array.is_null())


def _converted_list(array: pa.Array, to: pa.DataType) -> pa.Array:
    if _is_list(array.type):
        lengths = [None if v is None else v for v in array.value_lengths().to_pylist()]
        inner = array.flatten()
    else:
        lengths = [1 if there else None for there in array.is_valid().to_pylist()]
        inner = array.drop_null()
    ends = [0, *accumulate(length or 0 for length in lengths)]
    offsets = [
        None if length is None else end for length, end in zip(lengths, ends[:-1], strict=True)
    ]
    return pa.ListArray.from_arrays(
        pa.array([*offsets, ends[-1]], pa.int32()), _converted(inner, to.value_type)
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without encodings and widths that say nothing about the values."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_date(kind):
        return pa.date32()
    return kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _wider_number(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if pa.types.is_decimal(one) and pa.types.is_decimal(other):
        scale = max(one.scale, other.scale)
        whole = max(one.precision - one.scale, other.precision - other.scale)
        if whole + scale <= 38:
            return pa.decimal128(whole + scale, scale)
    return pa.float64()


def _wider_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    types = {field.name: field.type for field in one}
    for field in other:
        types[field.name] = wider(types.get(field.name, pa.null()), field.type)
    return pa.struct(list(types.items())) if len(types) <= MOST_FIELDS else pa.string()


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_date(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind))


def _is_media(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether one is {bytes, path} and the other a path or file contents."""
    for struct, scalar in ((one, other), (other, one)):
        if pa.types.is_struct(struct) and (_is_binary(scalar) or pa.types.is_string(scalar)):
            return {field.name for field in struct} == MEDIA_FIELDS
    return False
