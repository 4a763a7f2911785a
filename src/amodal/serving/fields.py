"""Form fields of the inputs of a model: a file or a text each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from amodal.modalities.registry import modality
from amodal.search.embed import EmbeddingModel
from amodal.search.query import input_of_type, parsed_value

MAX_UPLOAD = 20 << 20  # bytes of an uploaded file
Field = str | bytes


def form_fields(types: Mapping[str, str]) -> list[dict[str, Any]]:
    """Form fields of a page, one per input: its name, its type, and how a value is given."""
    found = []
    for name, type_ in types.items():
        kind = modality(type_)
        field_type = "text" if kind.is_text else "file" if kind.file_suffixes else "value"
        accept = [f".{suffix}" for suffix in kind.file_suffixes]
        found.append({"name": name, "type": type_, "field_type": field_type, "accept": accept})
    return found


async def query_fields(
    request: Request, types: Mapping[str, str], by_type: Mapping[str, UploadFile | str | None]
) -> dict[str, Field]:
    """The fields of a form that hold a value of an input, by the name of the input.

    Args:
        types: input -> modality type.
        by_type: modality type -> the field that stands for the input of that type.

    Raises:
        HTTPException: 422 where a type stands for no input or for several, or where a file is
            written as text; 413 where a file is too large.
    """
    form = await request.form()
    given: dict[str, UploadFile | str] = {}
    for name in types:
        field = form.get(name)
        if field is not None:
            given[name] = field
    for type_, alias in by_type.items():
        if alias is not None and type_ not in types:
            given[input_of_type(_Types(types), type_)] = alias
    found: dict[str, Field] = {}
    for name, value in given.items():
        if isinstance(value, UploadFile):
            data = await value.read(MAX_UPLOAD + 1)
            if len(data) > MAX_UPLOAD:
                raise HTTPException(413, f"{name}: larger than {MAX_UPLOAD >> 20} MiB")
            if data:
                found[name] = data
        elif value.strip():
            found[name] = value.strip()
    for name, read in found.items():
        kind = modality(types[name])
        if isinstance(read, str) and kind.file_suffixes:
            raise HTTPException(422, f"{name}: upload a file; paths are not accepted")
        if isinstance(read, bytes) and not kind.file_suffixes:
            raise HTTPException(422, f"{name}: write the value; files are not accepted")
    return found


def read_values(model: EmbeddingModel, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The decoded value of every field.

    Raises:
        BrokenRecordError: a value cannot be decoded.
        StoreError: a text is no value of its input.
        HTTPException: 422 where a path was written for a value.
    """
    found = {}
    for name, field in fields.items():
        kind, prepare = modality(model.types[name]), model.preprocessors.get(name)
        value: Any = field
        if isinstance(field, str):
            value = parsed_value(name, model.types[name], field)
            if isinstance(value, str | Path) and not kind.is_text:
                raise HTTPException(422, f"{name}: expected a value, a path is not read")
        found[name] = kind.decode(value, f"the {name}", prepare)
    return found


class _Types:
    """The types of a model without the model."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self.types = types
