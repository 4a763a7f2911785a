"""Every kind of source, and how one is named in a word."""

from __future__ import annotations

import codecs
import difflib
import glob
import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError

from amodal.data.media import MEDIA_SUFFIXES
from amodal.data.notes import Notes
from amodal.data.record import DataError, Source, StreamingSource
from amodal.data.scenes.motion_source import MovingScenesConfig
from amodal.data.scenes.source import ScenesConfig
from amodal.data.sources.coco_captions import CocoCaptionsConfig
from amodal.data.sources.columns import Reading
from amodal.data.sources.concat import ConcatConfig, Concatenated
from amodal.data.sources.files_below import files_below
from amodal.data.sources.folder import FolderConfig
from amodal.data.sources.huggingface import HuggingFaceConfig, is_saved
from amodal.data.sources.json_files import near, read_json
from amodal.data.sources.renamed import Renamed, RenamedStream, RenamingConfig
from amodal.data.sources.shard_index import IndexedShards
from amodal.data.sources.table import SUFFIXES as TABLES
from amodal.data.sources.table import TableConfig
from amodal.data.sources.visdial import VisDialConfig
from amodal.data.sources.vqa import VqaConfig
from amodal.data.sources.webdataset import WebDatasetConfig, WebDatasetSource
from amodal.data.yaml_document import YamlError, parse_value, read_yaml

# Every source that a recipe or a command can name; a new one is one more entry here.
AnySource = (
    ScenesConfig
    | MovingScenesConfig
    | CocoCaptionsConfig
    | TableConfig
    | WebDatasetConfig
    | HuggingFaceConfig
    | FolderConfig
    | VqaConfig
    | VisDialConfig
    | ConcatConfig
)
SourceConfig = Annotated[AnySource, Field(discriminator="kind")]
ConcatConfig.model_rebuild(_types_namespace={"SourceConfig": SourceConfig})

KINDS: dict[str, Any] = {
    config.model_fields["kind"].default: config for config in get_args(AnySource)
}
SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2")
LOOKED_AT = 1 << 16  # bytes of a JSON file, to see what it is
_LAYOUTS = {"data", "questions", "kind", "images", "annotations"}
ACCEPTED = """\
  scenes                                  built-in synthetic scenes; scenes:size=500,split=test
  moving_scenes                           clips of them in which objects move, with captions
  KIND:KEY=VALUE,...                      {kinds}
  FOLDER                                  COCO captions (captions*.json and images/), VQA
                                          (questions.json and images/), *.tar shards,
                                          `save_to_disk`, images, videos or audio in class folders
  captions.json                           COCO captions, with images/ beside it
  questions.json                          VQA v2 or easy-VQA, with images/ beside it or above
  dialogs.json                            VisDial v1.0, with images/ beside it or above
  *.csv, *.tsv, *.xlsx, *.jsonl, *.parquet
                                          a table of paths and captions
  *.tar, shard-{{000..009}}.tar             WebDataset shards, also s3:// and https://
  source.yaml                             one source as it is written in a recipe"""


def open_source(config: SourceConfig, reading: Reading | None = None) -> Source | StreamingSource:
    """The source, its records filling the inputs of a model.

    Args:
        config: the source.
        reading: what the model reads that the records are for; None: there is no model.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(config, ConcatConfig):
        parts = [open_random_access(one, one.kind, reading) for one in config.sources]
        return Concatenated(parts, config.shared_ids)
    if isinstance(config, RenamingConfig):
        source: Source | StreamingSource = config.open()
        if not config.columns:
            return source
        random_access = isinstance(source, Source)
        return (Renamed if random_access else RenamedStream)(source, config.columns)  # type: ignore[arg-type]
    return (config if reading is None else config.read_as(reading)).open()


def open_random_access(config: SourceConfig, where: str, reading: Reading | None = None) -> Source:
    """The source with its rows in any order; tar shards on disk are indexed.

    Args:
        config: the source.
        where: what named it, for errors.
        reading: see `open_source`.

    Raises:
        DataError: it cannot be read, has no rows, or can only be read in order.
    """
    source: object = open_source(config, reading)
    if isinstance(source, WebDatasetSource):
        source = IndexedShards(source.name, source.shards)
    elif isinstance(source, RenamedStream) and isinstance(source.source, WebDatasetSource):
        shards = IndexedShards(source.source.name, source.source.shards)
        source = Renamed(shards, source.columns)
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
    if text.split("?", 1)[0].lower().endswith(SHARDS):
        return checked_source({"kind": "webdataset", "path": text}, text)
    if suffix in TABLES:
        return checked_source({"kind": "table", "path": text}, text)
    raise DataError(_refusal(text, kind))


def source_values(value: Any) -> Any:
    """A source as a recipe may write it: a mapping, a word, or a list of such.

    Raises:
        DataError: a word means no source.
    """
    if isinstance(value, str):
        return parse_source(value)
    if isinstance(value, list):
        return {"kind": "concat", "sources": [source_values(one) for one in value]}
    return value


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
            inner[last] = parse_value(value)
        except YamlError as error:
            raise DataError(f"{where}: {error}") from None
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
        values = read_yaml(path)
    except YamlError as error:
        raise DataError(str(error)) from None
    return checked_source(values, str(path))


def _in_json(path: Path) -> SourceConfig:
    """COCO captions, VQA, VisDial, one source written as JSON, or a list or lines of rows."""
    try:
        with path.open("rb") as stream:
            start = stream.read(LOOKED_AT).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if re.match(rb"\[\s*\[", start):
        return _vqa(path)
    if start.startswith(b"[") or _is_lines(start):
        return checked_source({"kind": "table", "path": str(path)}, str(path))
    keys = _top_keys(start)
    if not keys & _LAYOUTS and len(start) >= LOOKED_AT // 2:
        # What tells the layout stands behind a long beginning.
        document = read_json(path, "JSON of a data set")
        keys = set(document) if isinstance(document, dict) else set()
    if "data" in keys and not re.search(rb'"data"\s*:\s*\[', start):
        dense = near(path, "dense_annotations.json")
        values = {"kind": "visdial", "dialogs": str(path), "images": _images(path)}
        return checked_source({**values, "dense_annotations": dense and str(dense)}, str(path))
    if "questions" in keys:
        return _vqa(path)
    if "kind" in keys:
        return _in_file(path)
    if keys & {"images", "annotations"}:
        return _coco(path)
    if not start.startswith(b"{"):
        raise DataError(f"{path}: not JSON, it begins with {start[:16]!r}")
    document = read_json(path, "JSON of a data set")
    have = ", ".join(map(repr, list(document)[:10])) or "nothing"
    raise DataError(
        f"{path}: an object with {have}, which is the layout of no known data set; expected "
        "`images` and `annotations` (COCO captions), `questions` (VQA), `data` (VisDial), `kind` "
        "(a source), or a list of rows (a table)"
    )


def _top_keys(start: bytes) -> set[str]:
    """The keys of an object, as far as its beginning shows them."""
    keys: set[str] = set()
    depth = 0
    for found in re.finditer(rb'"((?:[^"\\]|\\.)*)"\s*(:?)|[\[{]|[\]}]', start):
        text = found[0]
        if text[:1] in b"[{":
            depth += 1
        elif text[:1] in b"]}":
            depth -= 1
        elif depth == 1 and found[2]:
            keys.add(found[1].decode("utf-8", "replace"))
    return keys


def _is_lines(start: bytes) -> bool:
    """Whether an object ends where its line does, and another one follows: JSON Lines."""
    line, newline, rest = start.partition(b"\n")
    if not newline or not rest.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _coco(annotations: Path) -> SourceConfig:
    """With its images: in images/, in a folder named as the file is, or where the first one is."""
    folder = annotations.parent
    _, _, split = annotations.stem.partition("_")  # captions_val2017
    names = ("images", "Images", *([split] if split else []))
    around = [place / name for place in (folder, folder.parent) for name in names]
    around += [place / "images" / split for place in (folder, folder.parent) if split]
    found = [place for place in around if place.is_dir()]
    first = _first_file(annotations) if len(found) != 1 else None
    if first is not None:
        holding = [p for p in (*found, folder, folder.parent) if (p / first).is_file()]
        found = holding or found
    return checked_source(
        {
            "kind": "coco_captions",
            "images": str(found[0] if found else folder),
            "annotations": str(annotations),
        },
        str(annotations),
    )


def _first_file(annotations: Path) -> str | None:
    """The first `file_name`, as it is written near the beginning."""
    with annotations.open("rb") as stream:
        start = stream.read(1 << 20)
    found = re.search(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', start)
    try:
        return str(json.loads(found[1])).replace("\\", "/") if found else None
    except ValueError:
        return None


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
    beside = sorted(folder.glob("captions*.json"))
    official = sorted(folder.glob("annotations/captions*.json"))  # beside val2017/
    captions = [*(beside if (folder / "images").is_dir() else []), *official]
    if captions:
        if len(captions) > 1:
            names = ", ".join(str(file) for file in captions)
            raise DataError(f"{folder}: several caption files, name one of them: {names}")
        return _coco(captions[0])
    if (folder / "questions.json").is_file() and (folder / "images").is_dir():
        return _vqa(folder / "questions.json")
    shards = [f"*{suffix}" for suffix in SHARDS if any(folder.glob(f"*{suffix}"))]
    if shards:
        patterns = tuple(f"{glob.escape(str(folder))}/{shard}" for shard in shards)
        path = patterns[0] if len(patterns) == 1 else patterns
        return checked_source({"kind": "webdataset", "path": path}, str(folder))
    if is_saved(folder):
        return checked_source({"kind": "huggingface", "path": str(folder)}, str(folder))
    there = Counter(path.rpartition(".")[2].lower() for path in files_below(folder, Notes()))
    if MEDIA_SUFFIXES & there.keys():
        return checked_source({"kind": "folder", "path": str(folder)}, str(folder))
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES]
    hint = f"; it holds tables: {', '.join(map(str, tables[:5]))}" if tables else ""
    raise DataError(
        f"{folder}: this folder holds no known data set{hint}; accepted are\n{_accepted()}"
    )


def _accepted() -> str:
    return ACCEPTED.format(kinds=", ".join(KINDS))


def _refusal(text: str, kind: str) -> str:
    near = difflib.get_close_matches(kind, KINDS, n=1)
    hint = f" (the nearest kind is {near[0]!r})" if near else ""
    return f"{text}: not a source{hint}; accepted are\n{_accepted()}"
