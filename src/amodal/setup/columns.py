"""Content of each column of a table, judged by its values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Literal

import datasets
import numpy as np

from amodal.data.content import embedded_content
from amodal.data.decode import suffix_of
from amodal.data.record import Record
from amodal.data.sources.cells import local_path
from amodal.modalities.registry import known_modalities

SAMPLED = 500  # rows, spread over the table
WORDS = 3.0  # mean words of a cell from which on a column holds sentences
CLASSES = 50  # different values that a column of categories has at most
REPEATED = 2.0  # mean rows of a category, at least
MOSTLY = 0.5  # share of the cells that have to be of a kind

Kind = Literal["files", "numbers", "sentences", "categories", "names", "nothing", "objects"]


@dataclass(frozen=True)
class Column:
    """The values of a column in some rows.

    Args:
        name: of the column, or key of the records.
        values: those that are not empty.
        empty: rows without a value.
        declared: the modality type of media that a source gives under a key; None: it is judged by
            the values.
    """

    name: str
    values: Sequence[Any]
    empty: int
    declared: str | None = None

    @cached_property
    def media(self) -> str | None:
        """The modality type of the files that most of its cells name or hold."""
        if self.declared is not None:
            return self.declared
        types = [media_type(value) for value in self.values]
        found = {kind: types.count(kind) for kind in types if kind is not None}
        most = max(found, key=lambda kind: found[kind], default=None)
        return most if most is not None and found[most] >= MOSTLY * len(types) else None

    @cached_property
    def kind(self) -> Kind:
        """Description of its cells."""
        if not self.values:
            return "nothing"
        if self.media is not None:
            return "files"
        if all(map(_is_number, self.values)):
            return "numbers"
        if any(isinstance(value, Mapping | bytes) for value in self.values):
            return "objects"
        if self.words >= WORDS:
            return "sentences"
        few = self.different <= CLASSES and self.different * REPEATED <= len(self.values)
        return "categories" if few else "names"

    @cached_property
    def words(self) -> float:
        """Mean number of words of a text; letters of scripts without spaces count half."""
        texts = [text for value in self.values for text in _texts(value)]
        return sum(map(_words, texts)) / len(texts) if texts else 0.0

    @cached_property
    def different(self) -> int:
        """Number of different values."""
        return len({repr(value) for value in self.values})

    def share_of_files(self, root: Path) -> float:
        """Share of the cells that are files below a folder; files inside of cells count too."""
        there = sum(_is_there(value, root) for value in self.values)
        return there / len(self.values) if self.values else 0.0

    def __str__(self) -> str:
        shown = {
            "files": f"{self.media} files",
            "numbers": "numbers",
            "sentences": f"texts of {self.words:.0f} words",
            "categories": f"{self.different} categories",
            "names": f"{self.different} different names",
            "nothing": "nothing",
            "objects": "objects",
        }[self.kind]
        return shown + (f", {self.empty} cells empty" if self.empty and self.values else "")


def columns_of_table(table: datasets.Dataset) -> list[Column]:
    """The columns of a table, read in up to 500 rows."""
    rows = sampled(len(table))
    read = table.select(rows)[:]
    return [_column(name, read[name]) for name in table.column_names]


def columns_of_records(records: Iterable[Record], inputs: Collection[str]) -> list[Column]:
    """The keys of records as columns; a list of values counts as one cell for each.

    Args:
        records: of a source.
        inputs: keys of them that feed inputs; other keys with paths name the files once more, and
            are left out.
    """
    read = list(records)
    media = {name for name, kind in known_modalities().items() if kind.file_suffixes}
    found = []
    for key in dict.fromkeys(key for record in read for key in record):
        column = _column(key, [v for record in read for v in _several(record.get(key))])
        if key in inputs and key in media:
            found.append(replace(column, declared=key))
        elif key in inputs or (key not in ("id", "origin") and column.media is None):
            found.append(column)
    return found


def sampled(length: int) -> list[int]:
    """The rows that are read of so many: all, or 500 that are spread over them."""
    spread = np.linspace(0, length - 1, min(length, SAMPLED))
    return [int(row) for row in np.unique(spread.astype(int))]


def media_type(value: Any) -> str | None:
    """The modality type of the file that a cell names or holds, by its suffix or its first bytes.

    Examples:
        >>> media_type("photos/1.JPG"), media_type("a dog on the beach"), media_type(3.5)
        ('image', None, None)
    """
    if isinstance(value, Mapping):  # an image or a recording as `datasets` stores it
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        value = embedded_content(value) or value
    if isinstance(value, bytes):
        suffix = suffix_of(value) or ""
    elif isinstance(value, str):
        suffix = PurePath(value).suffix[1:].lower()
    else:
        return None
    kinds = known_modalities().values()
    return next((kind.name for kind in kinds if suffix in kind.file_suffixes), None)


def _column(name: str, cells: Sequence[Any]) -> Column:
    values = [cell for cell in cells if not _is_empty(cell)]
    return Column(name, values, len(cells) - len(values))


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _is_empty(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, str) and not value.strip())


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _words(text: str) -> float:
    letters = sum(ord(letter) >= 0x2E80 for letter in text)  # Chinese, Japanese, Korean
    return len(text.split()) + letters / 2


def _is_there(value: Any, root: Path) -> bool:
    if not isinstance(value, str):
        return True  # its content stands in the cell
    try:
        return embedded_content(value) is not None or Path(local_path(value, root)).is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False
