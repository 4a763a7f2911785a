"""Which column of a row holds what, and what a model reads of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from amodal.data.media import MEDIA_SUFFIXES
from amodal.data.record import DataError, StrictModel

RESERVED = ("id", "origin", "image", "text", "audio", "label")

Style = Literal["media", "texts", "value"]
LISTED = 40  # columns that an error names
RUN_REMEDY = "rename it, or take it as missing in every row with --allow-missing"

STYLES: dict[str, Style] = {"image": "media", "text": "texts", "audio": "media"}


@dataclass(frozen=True)
class Reading:
    """Columns of a row that a model reads.

    Args:
        styles: input -> how its cells are read.
        as_written: columns of names (categories, classes), which stay as they are written.
        rows_are_items: every row is an item that is predicted, and only `id` says which belong
            together; False: rows of one image are one item with many captions.
        allow_missing: a table may lack the column of an input, which is then missing in every row.
    """

    styles: Mapping[str, Style] = field(default_factory=dict)
    as_written: frozenset[str] = frozenset()
    rows_are_items: bool = False
    allow_missing: bool = False


class Columns(StrictModel):
    """Which column holds what; every other column is metadata.

    Any further key is an input of the user's choosing: `{photo: path_of_photo}`.

    Args:
        image: paths, file contents, or a Hugging Face image; None reads none.
        text: captions; several columns, or a column of lists, give several captions per row.
            `caption.raw` is the field `raw` of a column of objects.
        audio: paths, file contents, or a Hugging Face audio; an empty cell is no audio.
        id: identity of the item.
        label: class name; left out, a column called `label` is taken if there is one.
        empty_cells: of `image` or `text`: an error, as captioned images need both, or a missing
            value, which a fusion model does without.
        others: further inputs -> their columns.
        reading: what the model reads that the rows are for; None: there is none, and a further
            input is a file where its cell looks like one.
        of_run: the columns are those of a run: the label may be missing, as in rows that are to be
            predicted.
    """

    image: str | None = "image"
    text: str | tuple[str, ...] | None = "caption"
    audio: str | None = None
    id: str | None = None
    label: str | None = None
    empty_cells: Literal["error", "missing"] = "error"
    others: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    reading: Reading | None = Field(None, exclude=True)
    of_run: bool = Field(False, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _inputs_beside_the_rest(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "others" in values:
            return values
        known = {key: value for key, value in values.items() if key in cls.model_fields}
        others = {key: value for key, value in values.items() if key not in known}
        return {**known, "others": others} if others else known

    @model_serializer(mode="wrap")
    def _flat(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A default column written out would be one that somebody named when it is read again.
        whole = {key: value for key, value in dump(self).items() if key in self.model_fields_set}
        others = whole.pop("others", {})
        return {**whole, **others}

    def read_as(self, reading: Reading) -> Columns:
        """The columns that a model reads; an input without a column of its own has its name."""
        styles = reading.styles
        named = {"image": self.image, "text": self.text, "audio": self.audio, **self.others}
        more = {name: name for name in styles if named.get(name) is None and name not in STYLES}
        update: dict[str, Any] = {"others": {**self.others, **more}, "reading": reading}
        if "audio" in styles and "audio" not in self.model_fields_set:
            update["audio"] = "audio"
        return self.model_copy(update=update)

    @property
    def texts(self) -> tuple[str, ...]:
        """The caption columns."""
        return (self.text,) if isinstance(self.text, str) else self.text or ()

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Input -> its columns."""
        named = {"image": self.image, "text": self.text, "audio": self.audio, **self.others}
        return {
            name: (columns,) if isinstance(columns, str) else columns
            for name, columns in named.items()
            if columns
        }

    def style(self, name: str) -> Style | None:
        """How the cells of an input are read; None if unspecified."""
        if self.reading is not None and name in self.reading.styles:
            return self.reading.styles[name]
        return STYLES.get(name)

    def reads(self, name: str) -> bool:
        """Whether the model that the rows are for takes this input; true where there is none."""
        if self.reading is None or name in self.model_fields_set:
            return True
        return name in self.reading.styles

    @property
    def as_written(self) -> set[str]:
        """Columns of names: neither numbers nor dates are made of what they hold."""
        named = {*self.texts, *(name for name in (self.id, self.label) if name is not None)}
        return named | (set(self.reading.as_written) if self.reading is not None else set())

    @property
    def rows_are_items(self) -> bool:
        """Whether only `id` says which rows belong together."""
        if self.reading is not None:
            return self.reading.rows_are_items
        return self.empty_cells == "missing"

    def checked(self, names: Iterable[str], where: str, group_by: str | None = None) -> Columns:
        """Itself, with `label` filled in, if all the columns are among `names`.

        Where a model says what it reads, `image` and `text` columns that nobody has named are
        left out if they are not there.

        Raises:
            DataError: names the missing column, the nearest one, and how to choose it.
        """
        there = list(names)
        update: dict[str, Any] = {}
        if self.reading is not None:
            for name in ("image", "text", "audio"):
                optional = name not in self.model_fields_set and name not in self.reading.styles
                if optional and getattr(self, name) not in (None, *there):
                    update[name] = None
            if self.reading.allow_missing:
                update |= self._without_missing(there)
        if self.of_run and self.label not in there:
            update["label"] = None
        wanted = self.model_copy(update=update)
        asked: list[tuple[str, str | None]] = [
            *((f"columns.{name}", c) for name, columns in wanted.inputs.items() for c in columns),
            ("columns.id", self.id),
            ("columns.label", wanted.label),
            ("group_by", group_by),
        ]
        for option, column in asked:
            if column is not None and not _is_among(column, there):
                remedy = f"choose with `{option}`, or leave it out with null"
                if self.of_run and option.removeprefix("columns.") in wanted.inputs:
                    remedy = RUN_REMEDY
                raise DataError(
                    f"{where}: no column {column!r}, the columns are {_listed(there)}"
                    f"{_nearest(column, there)}; {remedy}"
                )
        if wanted.label is None and "label" in there and "label" not in wanted.used():
            return wanted.model_copy(update={"label": "label"})
        return wanted

    def _without_missing(self, there: Sequence[str]) -> dict[str, Any]:
        """The inputs that lose a column of theirs, each with the columns that are left."""
        left = {
            name: tuple(column for column in columns if _is_among(column, there))
            for name, columns in self.inputs.items()
        }
        changed = {n: kept or None for n, kept in left.items() if kept != self.inputs[n]}
        own = {name: kept for name, kept in changed.items() if name in STYLES}
        others = {n: c for n, c in self.others.items() if n not in changed}
        others |= {n: kept for n, kept in changed.items() if n not in STYLES and kept}
        return {**own, "others": others}

    def used(self) -> set[str]:
        """Every column that is not metadata."""
        columns = {column for columns in self.inputs.values() for column in columns}
        return {*columns, *(name for name in (self.id, self.label) if name is not None)}

    def media_column(self) -> str | None:
        """The column of the first input that is a file, whose path names the item."""
        for name, columns in self.inputs.items():
            if self.style(name) == "media" and name != "audio":
                return columns[0]
        return None


def _is_among(column: str, there: Iterable[str]) -> bool:
    """Whether a table has a column, or the column whose field it is."""
    return not {column, column.split(".")[0]}.isdisjoint(there)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name:.40}".__repr__() for name in names[:LISTED]) + (
        f" and {len(names) - LISTED} more" if len(names) > LISTED else "" if names else "none"
    )


def _nearest(column: str, there: Sequence[str]) -> str:
    """The column that was meant, as far as a name tells, or that the header is missing."""
    spelled = [name for name in there if name.lower() == column.lower()]
    near = spelled or difflib.get_close_matches(column, there, n=1, cutoff=0.3)
    files = [n for n in there if PurePath(n).suffix[1:].lower() in MEDIA_SUFFIXES]
    if files:
        return (
            f"; {files[0]!r:.60} looks like a cell, not like a name: is the header missing? Write "
            "one as the first line, such as image,caption"
        )
    return f"; the nearest is {near[0]!r}" if near else ""
