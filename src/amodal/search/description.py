"""`index.json`: what an index holds, and which model it was built with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from amodal.data.atomic import write_text
from amodal.data.near_folders import INDEX_FILE, did_you_mean
from amodal.data.record import StrictModel

FILE = INDEX_FILE


class StoreError(ValueError):
    """The index cannot be used as asked: says what was expected, what came, and the fix."""


class RunPath(StrictModel):
    """Where the run folder was: beside the index, and on the machine."""

    relative: str
    absolute: str


class IndexDescription(StrictModel):
    """Model and layout of an index, without which its rows cannot be compared with a query."""

    format: Literal[1] = 1
    dim: int = Field(ge=1)
    fingerprint: str
    model: RunPath | None = None

    @classmethod
    def read(cls, folder: Path) -> IndexDescription:
        """The description of the index in `folder`.

        Raises:
            StoreError: there is no index, or its description is damaged.
        """
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except OSError:
            hint = did_you_mean(folder, FILE)
            hint = hint or f"; make one with `amodal index RUN SOURCE --out {folder}`"
            if not folder.exists():
                raise StoreError(f"{folder}: no such folder{hint}") from None
            raise StoreError(f"{folder}: not an index folder, {FILE} is missing{hint}") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
            raise StoreError(f"{folder / FILE} cannot be read: {problems}") from None

    @classmethod
    def write(
        cls, folder: Path, *, dim: int, fingerprint: str, model_path: Path | str | None
    ) -> IndexDescription:
        """Write the description of a new index; the paths are those from `folder`."""
        model = None
        if model_path is not None:
            absolute = Path(model_path).resolve()
            relative = Path(os.path.relpath(absolute, folder.resolve())).as_posix()
            model = RunPath(relative=relative, absolute=str(absolute))
        description = cls(dim=dim, fingerprint=fingerprint, model=model)
        write_text(folder / FILE, description.model_dump_json(indent=2) + "\n")
        return description

    def run_folder(self, folder: Path) -> Path | None:
        """The run folder that the index in `folder` was built with, where it is now.

        Raises:
            StoreError: it is neither beside the index as it was, nor where it was.
        """
        if self.model is None:
            return None
        for path in (folder.resolve() / self.model.relative, Path(self.model.absolute)):
            if (path / "config.json").is_file():
                return path.resolve()
        raise StoreError(f"{folder}: run not found at {self.model.absolute}; pass --run RUN")
