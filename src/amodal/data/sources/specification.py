"""Every kind of source, and how one is named in a word."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from amodal.data.decode import SUFFIXES as IMAGES
from amodal.data.decode_audio import SUFFIXES as AUDIO
from amodal.data.record import DataError, Source, StreamingSource
from amodal.data.scenes.source import ScenesConfig
from amodal.data.sources.coco_captions import CocoCaptionsConfig
from amodal.data.sources.folder import FolderConfig
from amodal.data.sources.huggingface import HuggingFaceConfig, is_saved
from amodal.data.sources.json_files import near
from amodal.data.sources.renamed import Renamed, RenamedStream, RenamingConfig
from amodal.data.sources.rows import Style
from amodal.data.sources.shard_index import IndexedShards
from amodal.data.sources.table import SUFFIXES as TABLES
from amodal.data.sources.table import TableConfig
from amodal.data.sources.visdial import VisDialConfig
from amodal.data.sources.vqa import VqaConfig
from amodal.data.sources.webdataset import WebDatasetConfig, WebDatasetSource

# Every source that a recipe or a command can name; a new one is one more entry here.
AnySource = (
    ScenesConfig
    | CocoCaptionsConfig
    | TableConfig
    | WebDatasetConfig
    | HuggingFaceConfig
    | FolderConfig
    | VqaConfig
    | VisDialConfig
)
SourceConfig = Annotated[AnySource, Field(discriminator="kind")]

KINDS: dict[str, Any] = {
    config.model_fields["kind"].default: config for config in get_args(AnySource)
}
ACCEPTED = """\
  scenes                                  built-in synthetic scenes; scenes:size=500,split=test
  KIND:KEY=VALUE,...                      {kinds}
  FOLDER                                  COCO captions (captions*.json and images/), VQA
                                          (questions.json and images/), *.tar shards,
                                          `save_to_disk`, images or audio in class folders
  captions.json                           COCO captions, with images/ beside it
  questions.json                          VQA v2 or easy-VQA, with images/ beside it or above
  dialogs.json                            VisDial v1.0, with images/ beside it or above
  *.csv, *.tsv, *.jsonl, *.parquet        a table of paths and captions
  *.tar, shard-{{000..009}}.tar             WebDataset shards, also s3:// and https://
  source.yaml                             one source as it is written in a recipe"""


def open_source(
    config: SourceConfig, styles: Mapping[str, Style] | None = None
) -> Source | StreamingSource:
    """The source, its records filling the inputs of a model.

    Args:
        config: the source.
        styles: input -> how its cells are read, of the model that the records are for; None: there
            is no model.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(config, RenamingConfig):
        source: Source | StreamingSource = config.open()
        if not config.columns:
            return source
        random_access = isinstance(source, Source)
        return (Renamed if random_access else RenamedStream)(source, config.columns)  # type: ignore[arg-type]
    return (config if styles is None else config.with_styles(styles)).open()


def open_random_access(
    config: SourceConfig, where: str, styles: Mapping[str, Style] | None = None
) -> Source:
    """The source with its rows in any order; tar shards on disk are indexed.

    Args:
        config: the source.
        where: what named it, for errors.
        styles: see `open_source`.

    Raises:
        DataError: it cannot be read, has no rows, or can only be read in order.
    """
    source: object = open_source(config, styles)
    if isinstance(source, WebDatasetSource):
        source = IndexedShards(source)
    elif isinstance(source, RenamedStream) and isinstance(source.source, WebDatasetSource):
        source = Renamed(IndexedShards(source.source), source.columns)
    if not isinstance(source, Source):
        raise DataError(
            f"{where}: {config.kind} can only be read in order, and random access is needed; store "
            "it as a table, a folder, or tar shards on this machine"
        )
    if len(source) == 0:
        raise DataError(f"{where}: {source.name} has no rows")
    return source


def parse_source(text: str) -> SourceConfig:
    """The source that a word on the command line means.

    Raises:
        DataError: it means none; lists what is accepted.

    Examples:
        >>> from amodal.data import parse_source
        >>> source = parse_source("scenes:size=500,seed=1,split=test").open()
        >>> source.name, len(source)
        ('scenes/iid/test', 500)
    """
    kind, colon, options = text.partition(":")
    if kind in KINDS and (colon or not Path(text).exists()):
        return checked_source({"kind": kind, **_options(options, text)}, text)
    path = Path(text)
    if text and path.is_dir():
        return _in_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml", ".json") and not path.is_file():
        raise DataError(f"{text}: no such file")
    if suffix in (".yaml", ".yml"):
        return _in_file(path)
    if suffix == ".json":
        return _in_json(path)
    if text.split("?", 1)[0].lower().endswith((".tar", ".tar.gz", ".tgz")):
        return checked_source({"kind": "webdataset", "path": text}, text)
    if suffix in TABLES:
        return checked_source({"kind": "table", "path": text}, text)
    raise DataError(_refusal(text, kind))


def checked_source(values: Any, where: str) -> SourceConfig:
    """The source of these values.

    Raises:
        DataError: names the wrong key, the nearest right one, and what was expected.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise DataError(
            f"{where}: expected `kind` to be one of {', '.join(KINDS)}, got {kind!r}{hint}"
        )
    try:
        return TypeAdapter(SourceConfig).validate_python(values)
    except ValidationError as error:
        lines = [_line(e, KINDS[kind]) for e in error.errors()]
        raise DataError(f"{where}: {'; '.join(lines)}") from None


def _line(error: Any, config: Any) -> str:
    place = [str(part) for part in error["loc"][1:]]  # the first part is the kind
    name = ".".join(place)
    for parent in place[:-1]:
        field = config.model_fields.get(parent)
        config = getattr(field, "annotation", None)
        if not hasattr(config, "model_fields"):
            return f"{name}: {error['msg']}, got {error['input']!r}"
    keys = ", ".join(config.model_fields)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], config.model_fields, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"unknown key {name!r}{hint} (keys: {keys})"
    if error["type"] == "missing":
        return f"{name!r} is required (keys: {keys})"
    if not name:
        return str(error["msg"])
    return f"{name}: {error['msg']}, got {error['input']!r}"


def _options(text: str, where: str) -> dict[str, Any]:
    """`a=1,b.c=[x,y]` as nested values."""
    values: dict[str, Any] = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise DataError(f"{where}: expected KEY=VALUE after the colon, got {part!r}")
        *parents, last = key.strip().split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise DataError(f"{where}: {parent!r} is given both a value and keys")
        try:
            inner[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            inner[last] = value
    return values


def _split(text: str) -> list[str]:
    """Parts between commas that are outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _in_file(path: Path) -> SourceConfig:
    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {error}") from None
    return checked_source(values, str(path))


def _in_json(path: Path) -> SourceConfig:
    """COCO captions, VQA, VisDial, one source written as JSON, or a list of rows."""
    with path.open("rb") as stream:
        start = stream.read(4096).lstrip()
    if re.search(rb'"data"\s*:\s*\{', start):
        dense = near(path, "dense_annotations.json")
        values = {"kind": "visdial", "dialogs": str(path), "images": _images(path)}
        return checked_source({**values, "dense_annotations": dense and str(dense)}, str(path))
    if re.match(rb"\[\s*\[", start) or re.search(rb'"questions"\s*:\s*\[', start):
        return _vqa(path)
    if start.startswith(b"[") or (start.startswith(b"{") and b'"kind"' in start):
        if start.startswith(b"["):
            return checked_source({"kind": "table", "path": str(path)}, str(path))
        return _in_file(path)
    return _coco(path)


def _coco(annotations: Path) -> SourceConfig:
    folder = annotations.parent
    for images in (folder / "images", folder.parent / "images", folder):
        if images.is_dir():
            break
    return checked_source(
        {"kind": "coco_captions", "images": str(images), "annotations": str(annotations)},
        str(annotations),
    )


def _vqa(questions: Path) -> SourceConfig:
    """With the annotations that the names of VQA v2 lead to, where they are beside it."""
    name = questions.name.replace("questions", "annotations")
    names = (name, re.sub(r"(OpenEnded|MultipleChoice)_", "", name))
    found = [questions.with_name(n) for n in names if n != questions.name]
    annotations = next((str(file) for file in found if file.is_file()), None)
    return checked_source(
        {
            "kind": "vqa",
            "questions": str(questions),
            "images": _images(questions),
            "annotations": annotations,
        },
        str(questions),
    )


def _images(file: Path) -> str | None:
    images = near(file, "images")
    return None if images is None else str(images)


def _in_folder(folder: Path) -> SourceConfig:
    captions = sorted(folder.glob("captions*.json"))
    if captions and (folder / "images").is_dir():
        if len(captions) > 1:
            names = ", ".join(str(file) for file in captions)
            raise DataError(f"{folder}: several caption files, name one of them: {names}")
        return _coco(captions[0])
    if (folder / "questions.json").is_file() and (folder / "images").is_dir():
        return _vqa(folder / "questions.json")
    if any(folder.glob("*.tar")):
        shards = f"{glob.escape(str(folder))}/*.tar"
        return checked_source({"kind": "webdataset", "path": shards}, str(folder))
    if is_saved(folder):
        return checked_source({"kind": "huggingface", "path": str(folder)}, str(folder))
    if any(file.suffix[1:].lower() in (*IMAGES, *AUDIO) for file in folder.glob("**/*")):
        return checked_source({"kind": "folder", "path": str(folder)}, str(folder))
    raise DataError(f"{folder}: this folder holds no known data set; accepted are\n{_accepted()}")


def _accepted() -> str:
    return ACCEPTED.format(kinds=", ".join(KINDS))


def _refusal(text: str, kind: str) -> str:
    near = difflib.get_close_matches(kind, KINDS, n=1)
    hint = f" (the nearest kind is {near[0]!r})" if near else ""
    return f"{text}: not a source{hint}; accepted are\n{_accepted()}"
