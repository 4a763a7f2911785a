"""A folder of images or audio files, one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from amodal.data.decode import SUFFIXES as IMAGES
from amodal.data.decode_audio import SUFFIXES as AUDIO
from amodal.data.record import DataError, Record
from amodal.data.sources.renamed import RenamingConfig


class FolderConfig(RenamingConfig):
    """Images in folders named after their class; images that lie at the top have no label.

    Where there is no image, audio files: WAV, FLAC, OGG or MP3.

    Args:
        path: the folder.
        caption_template: caption of every file, such as "a photo of a {label}", with underscores
            of the label as spaces; left out, there are no captions.
    """

    kind: Literal["folder"] = "folder"
    path: str
    caption_template: str | None = None

    @field_validator("caption_template")
    @classmethod
    def _has_content(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("expected a caption such as 'a photo of a {label}'")
        return text

    def open(self) -> FolderSource:
        """The source; folders are listed now.

        Raises:
            DataError: there is no such folder, or neither image nor audio file in it.
        """
        return FolderSource(self)


class FolderSource:
    """One record per file, in the order of the paths.

    A record holds `id` (path below the folder), `origin`, `image` or `audio` (path), `label` and,
    with a template, `text`.
    """

    def __init__(self, config: FolderConfig) -> None:
        root = Path(config.path)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        self.name = root.resolve().name
        self._root = root
        self._template = config.caption_template
        found: dict[str, list[str]] = {"image": [], "audio": []}
        for folder, _, names in os.walk(root):
            for name in names:
                suffix = os.path.splitext(name)[1][1:].lower()
                if suffix in (*IMAGES, *AUDIO) and not name.startswith("."):
                    path = os.path.relpath(os.path.join(folder, name), root)
                    found["image" if suffix in IMAGES else "audio"].append(path)
        self._modality = "image" if found["image"] else "audio"
        self._files = sorted(found[self._modality])
        self.inputs = frozenset(
            {self._modality, *(() if config.caption_template is None else ("text",))}
        )
        if not self._files:
            raise DataError(
                f"{root}: no image or audio file below it; expected files that end in "
                f"{', '.join((*IMAGES, *AUDIO))}"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} files, asked for {index}")
        file = Path(self._files[index])
        path = str(self._root / file)
        record: Record = {"id": file.as_posix(), "origin": path, self._modality: path}
        label = file.parts[0] if len(file.parts) > 1 else None
        if label is not None:
            record["label"] = label
        if self._template is not None and (label is not None or "{label}" not in self._template):
            record["text"] = [self._template.replace("{label}", (label or "").replace("_", " "))]
        return record
