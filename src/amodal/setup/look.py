"""What a path holds: which source reads it, and what its columns are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.data.sources.columns import Columns
from amodal.data.sources.folder import FolderConfig
from amodal.data.sources.huggingface import HuggingFaceConfig
from amodal.data.sources.rows import RowSource
from amodal.data.sources.specification import open_random_access, parse_source
from amodal.data.sources.table import SUFFIXES as TABLES
from amodal.data.sources.table import TableConfig
from amodal.setup.columns import Column, columns_of_records, columns_of_table, sampled
from amodal.setup.roles import TEXT, Choose

LAYOUTS = {  # kind of source -> layout in words
    "coco_captions": "COCO captions",
    "table": "a table",
    "webdataset": "WebDataset shards",
    "huggingface": "a data set of Hugging Face",
    "folder": "a folder of files",
    "vqa": "questions about images",
    "visdial": "dialogues about images",
    "scenes": "built-in scenes",
}
TABULAR = (TableConfig, HuggingFaceConfig)  # sources with columns of the user's choosing
NEUTRAL = Columns(image=None, text=None)  # every column is metadata
TEMPLATE = "a photo of a {label}"


@dataclass(frozen=True)
class Data:
    """What a path holds.

    Args:
        path: as it was given.
        config: the source, whose columns are not chosen yet where it is a table.
        columns: of the table, or keys of the records.
        chooses_columns: a recipe has to say which column is what.
        remarks: lines about what was found.
    """

    path: str
    config: Any
    columns: Sequence[Column]
    chooses_columns: bool
    remarks: list[str] = field(default_factory=list)


def look(path: str, choose: Choose) -> Data:
    """What a path holds.

    Args:
        path: a folder, table, shards, annotations, or another word for a source.
        choose: asks where several tables describe the files of a folder.

    Raises:
        DataError: it holds nothing that can be trained on; says what was expected.
    """
    config = _of_folder(Path(path), choose) if Path(path).is_dir() else parse_source(path)
    return _with_class_captions(_opened(path, config))


def _opened(path: str, config: Any) -> Data:
    """The columns of a source; of a table, and where the files that they name lie."""
    layout = LAYOUTS.get(config.kind, config.kind)
    named = config.path if isinstance(config, TABULAR) else path
    remarks = [f"{path}: {layout}" + (f", {named}" if named != path else "")]
    if not isinstance(config, TABULAR) or config.columns.model_fields_set:
        columns = _keys(open_random_access(config, path))
        return Data(path, config, columns, chooses_columns=False, remarks=remarks)
    columns = _columns(config)
    config, remark = _with_root(config, columns)
    return Data(path, config, columns, True, [*remarks, *([remark] if remark else [])])


def _keys(source: Source) -> list[Column]:
    """The keys of the records of a source that an input or a task may read."""
    records = []
    for index in sampled(len(source)):
        with suppress(BrokenRecordError):  # counted where every record is read
            records.append(source[index])
    return columns_of_records(records, source.inputs)


def _columns(config: Any) -> list[Column]:
    opened = config.model_copy(update={"columns": NEUTRAL, "group_by": None}).open()
    if not isinstance(opened, RowSource):
        raise DataError(f"{config.path}: can only be read in order; store it as a table or shards")
    return columns_of_table(opened.rows)


def _with_root(config: Any, columns: Sequence[Column]) -> tuple[Any, str]:
    """The source with the folder in which the named files lie, and what was found of them.

    Raises:
        DataError: none of the files is there.
    """
    media = [column for column in columns if column.media is not None]
    if not media or config.root is not None:
        return config, ""
    beside = Path(config.path).parent if isinstance(config.path, str) else Path()
    places = [beside, *_folders(beside), *([beside.parent] if beside != Path() else [])]
    shares = {place: max(column.share_of_files(place) for column in media) for place in places}
    best = max(places, key=lambda place: shares[place])
    if not shares[best]:
        column, where = media[0], ", ".join(str(place) for place in places[:5])
        raise DataError(
            f"{config.path}: none of the files that column {column.name!r} names is there, such as "
            f"{str(column.values[0])!r:.80}; looked below {where}. Put the table beside its files, "
            f"or name their folder: table:path={config.path},root=FOLDER"
        )
    if best == beside:
        return config, ""
    return config.model_copy(update={"root": str(best)}), f"its files lie in {best}"


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _of_folder(folder: Path, choose: Choose) -> Any:
    """The source of a folder: a layout of its own, a table of its files, or the files."""
    try:
        config: Any = parse_source(str(folder))
    except DataError as error:
        config, wrong = None, error
    if config is not None and not isinstance(config, FolderConfig):
        return config
    tables, errors = _tables(folder)
    if tables:
        names = [
            str(table.path if hasattr(table, "path") else table.annotations) for table in tables
        ]
        name = names[0]
        if len(names) > 1:
            name = choose("Which table describes the files?", names, name, "PATH")
        return tables[names.index(name)]
    if config is None:
        raise DataError("; ".join([str(wrong), *errors]))
    if errors and not _has_captions(config):
        raise DataError("; ".join(errors))
    return config


def _tables(folder: Path) -> tuple[list[Any], list[str]]:
    """Sources of the tables and annotations in a folder that name files, and what is wrong with
    those that name none which is there."""
    found: list[tuple[float, Any]] = []
    errors: list[str] = []
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in TABLES or file.name.startswith("."):
            continue
        try:
            config: Any = parse_source(str(file))
            if not isinstance(config, TABULAR):
                found.append((1.0, config))
                continue
            columns = _columns(config)
            media = [column for column in columns if column.media is not None]
            if media:
                config, _ = _with_root(config, columns)
                texts = any(column.kind == "sentences" for column in columns)
                found.append((texts, config))
        except DataError as error:
            errors.append(str(error))
    # A table with captions comes before one of names alone.
    return [config for _, config in sorted(found, key=lambda one: -one[0])], errors


def _has_captions(config: Any) -> bool:
    source = config.open()
    return TEXT in source.inputs


def _with_class_captions(data: Data) -> Data:
    """Files in class folders without captions get one that names their class."""
    if not isinstance(data.config, FolderConfig) or data.config.caption_template is not None:
        return data
    by_name = {column.name: column for column in data.columns}
    label = by_name.get("label")
    if TEXT in by_name or label is None or label.different < 2:
        return data
    config = data.config.model_copy(update={"caption_template": TEMPLATE})
    remark = f"{label.different} class folders and no captions: each file gets {TEMPLATE!r}"
    found = _opened(data.path, config)
    return Data(data.path, config, found.columns, False, [*data.remarks, remark])
