"""A value of a record as a report shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amodal.data.batch import key64
from amodal.data.record import BrokenRecordError, Record, Source
from amodal.modalities.registry import modality
from amodal.reports.report import Shown


def show_value(model: Any, name: str, value: Any, origin: str = "") -> Shown:
    """The text or the image that stands for a value of one input of a model.

    Args:
        model: with named inputs.
        name: of the input.
        value: as in a record.
        origin: where the value comes from, for errors.

    Raises:
        BrokenRecordError: the value cannot be decoded.
    """
    kind = modality(model.types[name])
    decoded = kind.decode(value, origin or name, model.preprocessors[name])
    shown = kind.preview(value, decoded)
    if shown.image is not None:
        return shown.image
    return shown.text or shown.path or kind.name


class ShownItems:
    """Values of a source by the key of their item, decoded when they are shown."""

    def __init__(self, model: Any, source: Source) -> None:
        self.model, self.source = model, source
        self.rows: dict[int, int] = {}
        for row in range(len(source)):
            try:
                self.rows[key64(str(source[row]["id"]))] = row
            except BrokenRecordError:
                continue

    def show(self, name: str, item: int, content: int | None) -> Shown:
        """The value of an input; of several, the one with the content key, else the first."""
        record = self.source[self.rows[item]]
        values = values_of(self.model, record, name)
        chosen = next((v for v in values if key64(str(v)) == content), values[0] if values else "")
        return show_value(self.model, name, chosen, str(record["origin"]))


def values_of(model: Any, record: Record, name: str) -> Sequence[Any]:
    """The values of one input of a record."""
    return modality(model.types[name]).values(name, model.preprocessors[name], record)


def show_record(
    model: Any, record: Record, names: Sequence[str], length: int
) -> tuple[list[tuple[str, str]], Shown | None]:
    """The texts of a record as lines, and its first value that is shown as an image.

    Args:
        names: inputs to show; one that the record lacks, or that cannot be decoded, is left out.
        length: characters of a line.
    """
    lines: list[tuple[str, str]] = []
    image: Shown | None = None
    for name in names:
        values = values_of(model, record, name)
        if not values:
            continue
        try:
            shown = show_value(model, name, values[0], str(record["origin"]))
        except BrokenRecordError:
            continue  # nothing that could be shown
        if isinstance(shown, str):
            lines.append((name, shown[:length]))
        elif image is None:
            image = shown
    return lines, image
