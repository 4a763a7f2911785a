"""A folder of media files, one folder per class, perhaps with captions beside the files."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from amodal.data.media import MEDIA_SUFFIXES, SUFFIXES_OF
from amodal.data.notes import Note, Notes, printable
from amodal.data.record import BrokenRecordError, DataError, Record
from amodal.data.sources.files_below import files_below, is_utf8
from amodal.data.sources.renamed import RenamingConfig

CAPTIONS = ("txt", "caption")  # suffixes of captions beside their image
TABLES = ("csv", "tsv", "jsonl", "ndjson", "parquet", "json")
MAX_CAPTION_BYTES = 1 << 20
TRIED = 20  # files beside images that are opened to see whether they hold words
UNREAD = "files that are not read"
NO_WORDS = "text files beside their image without words, which are not read as captions"
NO_CAPTION = "files without a caption beside them"
TEMPLATE = "captions beside their image that are not read, as `text` is given"
TABLE = "tables in the folder that are not read, perhaps of captions"


class FolderConfig(RenamingConfig):
    """Images in folders named after their class; images that lie at the top have no label.

    Where there is no image, videos: MP4, MOV, WebM, MKV or AVI; where there is none of these, audio
    files: WAV, FLAC, OGG or MP3. Captions may lie beside them, one
    per line: cat/0.txt or cat/0.caption beside cat/0.jpg. Folders that begin with a dot, and those
    that systems make (@eaDir, __MACOSX), are left out; links to folders are followed.

    Args:
        path: the folder.
        caption_template: caption of every file, such as "a photo of a {label}", with underscores
            of the label as spaces; left out, captions are those beside the files.
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
            DataError: there is no such folder, or no media file in it.
        """
        return FolderSource(self)


class FolderSource:
    """One record per file, in the order of the paths.

    A record holds `id` (path below the folder), `origin`, `image`, `video` or `audio` (path),
    `label` and, with a template or captions beside the files, `text`.

    Attributes:
        broken_rows: files whose names are not UTF-8.
        notes: files and folders that are not read.
    """

    def __init__(self, config: FolderConfig) -> None:
        root = Path(config.path)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
        self.name = root.resolve().name
        self._root = root
        self._template = config.caption_template
        notes = Notes()
        paths: list[str] = []
        broken: list[BrokenRecordError] = []
        for path in files_below(root, notes):
            if is_utf8(path):
                paths.append(path)
                continue
            reason = "the file name is not UTF-8; rename it"
            broken.append(BrokenRecordError(printable(os.path.join(root, path)), reason))
        self.broken_rows = tuple(broken)
        found = {
            kind: sorted(p for p in paths if _suffix(p) in suffixes and not _hidden(p))
            for kind, suffixes in SUFFIXES_OF.items()
        }
        self._modality = next((kind for kind, files in found.items() if files), "")
        if not self._modality:
            accepted = ", ".join(suffix for kind in SUFFIXES_OF.values() for suffix in kind)
            raise DataError(
                f"{root}: no image, video or audio file below it; expected files that end in "
                f"{accepted}{_instead(paths, notes)}"
            )
        self._files = found[self._modality]
        beside = self._beside(paths)
        self._captions = self._checked(beside, notes)
        for path in sorted({*paths}.difference(self._files, beside.values())):
            self._note_unread(path, notes)
        self.notes: tuple[Note, ...] = notes.found()
        texts = ("text",) if config.caption_template is not None or self._captions else ()
        self.inputs = frozenset({self._modality, *texts})

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
        if self._template is not None:
            if label is not None or "{label}" not in self._template:
                text = self._template.replace("{label}", (label or "").replace("_", " "))
                record["text"] = [text]
        elif self._files[index] in self._captions:
            record["text"] = self._read_captions(self._captions[self._files[index]], path)
        return record

    def _beside(self, paths: list[str]) -> dict[str, str]:
        """File -> the one beside it that has its name and the suffix of captions."""
        captions = {
            os.path.splitext(path)[0]: path
            for suffix in reversed(CAPTIONS)
            for path in paths
            if _suffix(path) == suffix
        }
        stems = ((file, os.path.splitext(file)[0]) for file in self._files)
        return {file: captions[stem] for file, stem in stems if stem in captions}

    def _checked(self, beside: dict[str, str], notes: Notes) -> Mapping[str, str]:
        """The captions that are read; files of coordinates, as YOLO has them, are none."""
        if self._template is not None:
            for path in beside.values():
                notes.add(TEMPLATE, path)
            return {}
        tried = list(beside.values())[:TRIED]
        if tried and not any(self._has_words(path) for path in tried):
            for path in beside.values():
                notes.add(NO_WORDS, path)
            return {}
        if beside:
            for file in self._files:
                if file not in beside:
                    notes.add(NO_CAPTION, file)
        return beside

    def _has_words(self, path: str) -> bool:
        try:
            with (self._root / path).open(encoding="utf-8", errors="replace") as stream:
                return any(letter.isalpha() for letter in stream.read(4096))
        except OSError:
            return True  # found out, and listed, when it is read

    def _read_captions(self, path: str, origin: str) -> list[str]:
        file = self._root / path
        try:
            if file.stat().st_size > MAX_CAPTION_BYTES:
                reason = f"more than {MAX_CAPTION_BYTES:,} bytes of captions: {path}"
                raise BrokenRecordError(origin, reason)
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 at byte {error.start}: {path}"
            raise BrokenRecordError(origin, reason) from None
        except OSError as error:
            raise BrokenRecordError(origin, f"unreadable file: {path}: {error}") from None
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            raise BrokenRecordError(origin, f"the caption is empty: {path}")
        return captions

    def _note_unread(self, path: str, notes: Notes) -> None:
        suffix = _suffix(path)
        if suffix in TABLES and path.count(os.sep) < 2:
            notes.add(TABLE, f"{path}: amodal data inspect {_as_source(self._root / path)}")
        elif not _hidden(path):
            notes.add(UNREAD, path, kind=f".{suffix}" if suffix else "no suffix")
        elif suffix in MEDIA_SUFFIXES:
            notes.add(UNREAD, path, kind="hidden")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()


def _hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def _instead(paths: list[str], notes: Notes) -> str:
    """The files that are there in the place of images."""
    for path in paths:
        notes.add(UNREAD, path, kind=f".{_suffix(path)}" if _suffix(path) else "no suffix")
    found = notes.found()
    return f"; {'; '.join(map(str, found))}" if found else ""


def _as_source(table: Path) -> str:
    """The word that names a table as a source, with its columns where they are not the usual."""
    names: list[str] = []
    if table.suffix.lower() in (".csv", ".tsv"):
        try:
            with table.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
                line = stream.readline(1 << 16)
            names = next(csv.reader([line], delimiter="\t" if table.suffix == ".tsv" else ","), [])
        except (OSError, csv.Error):
            return str(table)
    image = next((n for n in names if n in ("image", "file_name", "filename", "path")), "image")
    text = next((n for n in names if n in ("caption", "text", "captions")), "caption")
    if (image, text) == ("image", "caption"):
        return str(table)
    return f"'table:path={table},columns={{image: {image}, text: {text}}}'"
