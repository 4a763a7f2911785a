"""The interface of a modality type: everything that depends on the kind of value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from amodal.data.inputs import Input
from amodal.data.near_duplicates import Fingerprint
from amodal.data.record import Record
from amodal.data.sources.columns import Style
from amodal.data.surrogates import half_pair

# How a source hands over the cells of a column that feeds an input: paths or file contents, lists
# of texts, or values as they are; None: no single column.
ColumnStyle = Style | None
Records = Callable[[], Iterator[Record]]


class Preprocessor(Protocol):
    """Decoded values to the tensors of an encoder; saved in the run folder."""

    def __call__(self, values: list[Any]) -> dict[str, Tensor]: ...
    def save(self, folder: str | Path) -> None: ...


@dataclass(frozen=True)
class InputOptions:
    """How the values of an item become rows of a batch.

    Args:
        captions: texts per item; where an item has fewer, the rest is absent. None takes all.
        views: augmented views of a media value per item.
        steps: augmentation steps of the recipe in training; None outside training, where values
            stay as they are and the first ones of an item are taken instead of random ones.
    """

    captions: int | None = None
    views: int = 1
    steps: Sequence[Any] | None = None


class Preview(NamedTuple):
    """Preview of a value.

    Args:
        text: the value in words, or None.
        path: its file, or None.
        image: uint8 (H, W, 3) that stands for the value, or None.
        span: where in its file the value is, (start, end) in seconds; None: it is the whole file.
    """

    text: str | None = None
    path: str | None = None
    image: np.ndarray | None = None
    span: tuple[float, float] | None = None


class Modality(Protocol):
    """A modality type.

    Args:
        name: of the type, as `type` in a recipe names it.
        column_style: how sources hand over its values.
        is_text: values are texts; queries and labels go to such an input.
        augmentations: augmentation steps that a recipe may name for it.
        file_suffixes: of files that hold one value each; empty where values are no files.
    """

    name: ClassVar[str]
    column_style: ClassVar[ColumnStyle]
    is_text: ClassVar[bool]
    augmentations: ClassVar[tuple[type, ...]]
    file_suffixes: ClassVar[tuple[str, ...]]

    def fit(self, config: Any, name: str, records: Records | None) -> Any:
        """The preprocessor of an encoder.

        Args:
            config: of the encoder.
            name: of the input.
            records: training records, read where something is fitted on them.

        Raises:
            ValueError: the records lack what is fitted.
        """
        ...

    def load(self, folder: Path) -> Any:
        """The preprocessor that `Preprocessor.save` wrote."""
        ...

    def input(self, name: str, prepare: Any, options: InputOptions) -> Input | None:
        """An input of this type for the collator; None where a task builds it."""
        ...

    def values(self, name: str, prepare: Any, record: Record) -> list[Any]:
        """The undecoded values of a record, each to be embedded on its own; empty: absent."""
        ...

    def decode(self, value: Any, origin: str, prepare: Any) -> Any:
        """A value as the preprocessor takes it; what is decoded already is returned as it is.

        Raises:
            BrokenRecordError: it cannot be decoded.
        """
        ...

    def content_key(self, value: Any) -> str:
        """A key that equal values share."""
        ...

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        """Fingerprints that near-duplicates share, one per value; empty: values are not compared.

        Raises:
            BrokenRecordError: a value cannot be decoded.
        """
        ...

    def preview(self, value: Any, decoded: Any | None = None) -> Preview:
        """Preview of a value; `decoded` is None where no image is wanted."""
        ...

    def parse(self, text: str) -> Any:
        """The value that a text on the command line or in a form stands for."""
        ...

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """Set weights of a new encoder from the training records, where its configuration asks."""
        ...

    def cache_decoder(self, config: Any) -> Callable[[Any, str], Any] | None:
        """A decoder (value, origin) → array for values worth keeping in memory, or None."""
        ...


def texts_of(record: Record, name: str) -> list[str]:
    """The texts under a key of a record: a string is a list of one."""
    value = record.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(text) for text in value]


def all_texts(records: Iterable[Record], name: str) -> Iterator[str]:
    """Every text under a key of the records; what is fitted on them takes no half of an emoji."""
    for record in records:
        yield from (text for text in texts_of(record, name) if half_pair(text) is None)
