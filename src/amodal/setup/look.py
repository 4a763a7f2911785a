"""Content of a path: which source reads it, and what its columns are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from amodal.setup.columns import Column, columns_of_records, columns_of_table, media_type, sampled
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
    "moving_scenes": "built-in clips of scenes",
}
TABULAR = (TableConfig, HuggingFaceConfig)  # sources with columns of the user's choosing
NEUTRAL = Columns(image=None, text=None)  # every column is metadata
TRIED = 20  # tables of a folder that are opened
TEMPLATE = "a photo of a {label}"


@dataclass(frozen=True)
class Data:
    """Content of a path.

    Args:
        file: what is read: the path as it was given, or a table in that folder.
        config: the source, whose columns are not chosen yet where it is a table.
        columns: of the table, or keys of the records.
        chooses_columns: a recipe has to say which column is what.
        remarks: lines about what was found.
    """

    file: str
    config: Any
    columns: Sequence[Column]
    chooses_columns: bool
    remarks: tuple[str, ...] = ()

    @property
    def has_texts(self) -> bool:
        """Whether there are captions, or other texts."""
        return any(c.kind == "sentences" or c.name == TEXT for c in self.columns)


def look(path: str, choose: Choose, *, caption_classes: bool = True) -> Data:
    """Content of a path.

    Args:
        path: a folder, table, shards, annotations, or another word for a source.
        choose: asks where several tables describe the files of a folder.
        caption_classes: give files in class folders captions that name their class.

    Raises:
        DataError: it holds nothing that can be trained on; says what was expected.
    """
    if Path(path).is_dir():
        found = _of_folder(Path(path), choose)
    else:
        found = _opened(path, parse_source(path))
    if caption_classes and isinstance(found.config, FolderConfig):
        found = _with_class_captions(found)
    remark = f"{path}: {LAYOUTS.get(found.config.kind, found.config.kind)}"
    if found.file != path:
        remark += f", {found.file}"
    return replace(found, remarks=(remark, *found.remarks))


def _opened(file: str, config: Any) -> Data:
    """The columns of a source; of a table, and where the files that they name lie."""
    if isinstance(config, TABULAR) and not config.columns.model_fields_set:
        return _with_root(Data(file, config, _columns(config), chooses_columns=True))
    return Data(file, config, _keys(open_random_access(config, file)), chooses_columns=False)


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
    cell = next((name for name in opened.rows.column_names if media_type(name)), None)
    if cell is not None:
        raise DataError(
            f"{config.path}: the column name {cell!r:.60} looks like a cell; is the header "
            "missing? Write one as the first line, such as image,caption"
        )
    return columns_of_table(opened.rows)


def _with_root(data: Data) -> Data:
    """A table with the folder of the files that it names, without columns of files that are not
    there.

    Raises:
        DataError: none of the files is there.
    """
    config = data.config
    media = [column for column in data.columns if column.media is not None]
    if not media or config.root is not None:
        return data
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
    absent = [column.name for column in media if not column.share_of_files(best)]
    remarks = [f"column {name!r} is not read, as its files are not there" for name in absent]
    if best != beside:
        config = config.model_copy(update={"root": str(best)})
        remarks.insert(0, f"its files lie in {best}")
    columns = [column for column in data.columns if column.name not in absent]
    return replace(data, config=config, columns=columns, remarks=tuple(remarks))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _of_folder(folder: Path, choose: Choose) -> Data:
    """The source of a folder: a layout of its own, a table of its files, or the files."""
    files: Data | None = None
    refusals: list[str] = []
    try:
        config: Any = parse_source(str(folder))
        files = _opened(str(folder), config)
        if not isinstance(config, FolderConfig):
            return files
    except DataError as error:
        refusals.append(str(error))
    tables = _tables(folder, refusals)
    bare = [files] if files is not None else []
    for candidates in (
        [table for table in tables if table.has_texts],
        [data for data in bare if data.has_texts],
        tables,
        bare if not refusals else [],
    ):
        if candidates:
            return _one_of(candidates, choose)
    raise DataError("; ".join(refusals))


def _one_of(tables: Sequence[Data], choose: Choose) -> Data:
    names = [table.file for table in tables]
    name = names[0]
    if len(names) > 1:
        name = choose("Which table describes the files?", names, name, "PATH")
    return tables[names.index(name)]


def _tables(folder: Path, refusals: list[str]) -> list[Data]:
    """Tables and annotations in a folder that name files which are there, the largest first.

    Args:
        folder: whose files are read, but not those of folders in it.
        refusals: what is wrong with the others is added here.
    """
    candidates = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in TABLES and not file.name.startswith(".") and file.is_file()
    ]
    candidates.sort(key=lambda file: -file.stat().st_size)
    found: list[Data] = []
    for file in candidates if len(candidates) <= TRIED else ():  # more are one beside each image
        try:
            data = _opened(str(file), parse_source(str(file)))
        except DataError as error:
            refusals.append(str(error))
            continue
        if any(column.media is not None for column in data.columns):
            found.append(data)
    return found


def _with_class_captions(data: Data) -> Data:
    """Files in class folders without captions get one that names their class."""
    label = next((column for column in data.columns if column.name == "label"), None)
    if data.has_texts or label is None or label.different < 2:
        return data
    config = data.config.model_copy(update={"caption_template": TEMPLATE})
    remark = f"{label.different} class folders and no captions: each file gets {TEMPLATE!r}"
    columns = _keys(open_random_access(config, data.file))
    return replace(data, config=config, columns=columns, remarks=(*data.remarks, remark))
