"""A folder of images, one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from amodal.data.decode import SUFFIXES
from amodal.data.record import DataError, Record, StrictModel


class FolderConfig(StrictModel):
    """Images in folders named after their class; images that lie at the top have no label.

    Args:
        path: the folder.
        text: caption of every image, such as "a photo of a {label}", with underscores of the
            label as spaces; left out, there are no captions.
    """

    kind: Literal["folder"] = "folder"
    path: str
    text: str | None = None

    @field_validator("text")
    @classmethod
    def _has_content(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("expected a caption such as 'a photo of a {label}'")
        return text

    def open(self) -> FolderSource:
        """The source; folders are listed now.

        Raises:
            DataError: there is no such folder, or no image in it.
        """
        return FolderSource(self)


class FolderSource:
    """One record per image file, in the order of the paths.

    A record holds `id` (path below the folder), `origin`, `image` (path), `label` and, with a
    template, `text`.
    """

    def __init__(self, config: FolderConfig) -> None:
        root = Path(config.path)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        self.name = root.resolve().name
        self.modalities = frozenset({"image"} if config.text is None else {"image", "text"})
        self._root = root
        self._template = config.text
        self._files = sorted(
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, names in os.walk(root)
            for name in names
            if os.path.splitext(name)[1][1:].lower() in SUFFIXES and not name.startswith(".")
        )
        if not self._files:
            raise DataError(
                f"{root}: no image below it; expected files that end in {', '.join(SUFFIXES)}"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, asked for {index}")
        file = Path(self._files[index])
        path = str(self._root / file)
        record: Record = {"id": file.as_posix(), "origin": path, "image": path}
        label = file.parts[0] if len(file.parts) > 1 else None
        if label is not None:
            record["label"] = label
        if self._template is not None and (label is not None or "{label}" not in self._template):
            record["text"] = [self._template.replace("{label}", (label or "").replace("_", " "))]
        return record
