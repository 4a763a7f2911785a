"""Data sets of Hugging Face `datasets`: from the hub, a local folder, or `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import datasets
from pydantic import model_validator

from amodal.data.record import BrokenRecordError, DataError, Record, StrictModel
from amodal.data.sources.columns import Columns, Reading
from amodal.data.sources.places import Places
from amodal.data.sources.row_record import row_record
from amodal.data.sources.row_types import check_text_columns, label_names, undecoded
from amodal.data.sources.rows import RowSource
from amodal.data.sources.table import SUFFIXES, TableConfig

TEXT_FORMATS = ("csv", "json")  # builders of `datasets` that guess the types of columns
SAVED = ("state.json", "dataset_dict.json")  # one of them marks a folder of `save_to_disk`


class HuggingFaceConfig(StrictModel):
    """A data set that `datasets.load_dataset` or `load_from_disk` opens; its code is never run.

    Local CSV and JSON files without declared features are read as by `table`: `datasets` would
    guess their types, and turn texts such as 2024-05-01 into dates and 007 into 7.

    Args:
        path: name on the hub, or a local folder.
        config: configuration of the data set, where it has several.
        split: which part.
        revision: version on the hub.
        streaming: read in order without downloading first.
        columns, group_by: as for `table`.
        root: folder of relative media paths.
    """

    kind: Literal["huggingface"] = "huggingface"
    path: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    columns: Columns = Columns()
    group_by: str | None = None
    root: str | None = None

    @model_validator(mode="after")
    def _groups_need_the_whole(self) -> HuggingFaceConfig:
        if self.streaming and self.group_by is not None:
            raise ValueError("group_by needs all the rows, it cannot be used with streaming")
        return self

    def read_like(self, other: HuggingFaceConfig) -> HuggingFaceConfig:
        """The same source read as another of its kind, where it does not say otherwise."""
        update = {
            key: getattr(other, key)
            for key in ("columns", "group_by")
            if key not in self.model_fields_set
        }
        if "columns" in update:
            update["columns"] = other.columns.model_copy(update={"of_run": True})
        return self.model_copy(update=update)

    def read_as(self, reading: Reading) -> HuggingFaceConfig:
        """The same source for a model that reads these inputs."""
        return self.model_copy(update={"columns": self.columns.read_as(reading)})

    def open(self) -> RowSource | StreamSource:
        """The source; without `streaming` the data set is downloaded and prepared now.

        Raises:
            DataError: no such data set, configuration, split or column.
        """
        name = f"{self.path}/{self.split}"
        if is_saved(Path(self.path)):
            if self.streaming:
                raise DataError(f"{self.path}: written by `save_to_disk`, which needs no streaming")
            dataset = self._saved()
        else:
            tables = self._text_tables()
            if tables is not None:
                return tables.open()
            dataset = self._loaded()
        if isinstance(dataset, datasets.IterableDataset):
            return StreamSource(name, dataset, self.columns, self._root())
        places = Places(files=(name,), starts=(0,), roots=(self._root(),))
        return RowSource(name, dataset, self.columns, places, self.group_by)

    def _root(self) -> Path | None:
        return None if self.root is None else Path(self.root)

    def _text_tables(self) -> TableConfig | None:
        """The local CSV or JSON files of the split; None where `datasets` has not to guess types.

        Raises:
            DataError: no such split, or files that the table reader does not take.
        """
        if not Path(self.path).is_dir():
            return None
        with self._loading():
            builder = datasets.load_dataset_builder(self.path, name=self.config)
        if builder.name not in TEXT_FORMATS or builder.info.features is not None:
            return None
        splits = builder.config.data_files or {}
        if self.split not in splits:
            there = ", ".join(map(str, splits))
            raise DataError(f"{self.path}: expected a split of {there}, got {self.split!r}")
        files = [Path(file) for file in splits[self.split]]
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(
                    f"{file}: expected a file that ends in {', '.join(SUFFIXES)}; decompress it, "
                    "or save the data set with `save_to_disk`"
                )
        separator = getattr(builder.config, "sep", None)
        return TableConfig(
            path=tuple(map(str, files)),
            columns=self.columns,
            group_by=self.group_by,
            root=self.root,
            delimiter=separator if separator not in (",", "\t") else None,
        )

    def _loaded(self) -> Any:
        with self._loading():
            return datasets.load_dataset(
                self.path,
                name=self.config,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
            )

    @contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # connections, builders and file formats fail in many ways
            raise DataError(
                f"{self.path} (split {self.split}) cannot be loaded: {error}"
            ) from error

    def _saved(self) -> datasets.Dataset:
        try:
            dataset = datasets.load_from_disk(self.path)
        except Exception as error:  # damaged Arrow files fail in many ways
            raise DataError(f"{self.path} cannot be loaded: {error}") from error
        if isinstance(dataset, datasets.DatasetDict):
            if self.split not in dataset:
                raise DataError(
                    f"{self.path}: no split {self.split!r}, there are {', '.join(dataset)}"
                )
            return dataset[self.split]
        return dataset


class StreamSource:
    """The rows of a streamed data set, one record each."""

    def __init__(
        self, name: str, dataset: datasets.IterableDataset, columns: Columns, root: Path | None
    ) -> None:
        self.name = name
        names = dataset.column_names
        if names is None:
            try:
                names = list(next(iter(dataset), {}))
            except Exception as error:  # as in HuggingFaceConfig
                raise DataError(f"{name} cannot be read: {error}") from error
        self._columns = columns.checked(names, name)
        self.inputs = frozenset({*self._columns.inputs, *(set(names) - self._columns.used())})
        self._dataset = undecoded(dataset)
        check_text_columns(self._columns, self._dataset.features, name)
        self._label_names = label_names(dataset.features, self._columns.label)
        self._root = root

    def __iter__(self) -> Iterator[Record | BrokenRecordError]:
        rows = iter(self._dataset)
        number = 0
        while True:
            try:
                row = next(islice(rows, 1), None)
            except Exception as error:  # as in HuggingFaceConfig
                raise DataError(
                    f"{self.name}: reading stopped after row {number}: {error}"
                ) from error
            if row is None:
                return
            number += 1
            try:
                yield row_record(
                    [row],
                    self._columns,
                    origin=f"{self.name} row {number}",
                    root=self._root,
                    label_names=self._label_names,
                )
            except BrokenRecordError as error:
                yield error


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in SAVED)
