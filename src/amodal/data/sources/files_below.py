"""Files below a folder of images: hidden folders left out, links followed once, all of it noted."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from amodal.data.notes import Notes, printable

# Made by Synology, macOS, Windows and Linux beside the files of their users.
SYSTEM_FOLDERS = frozenset(
    {"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
HIDDEN = "hidden folders that are not read"
KNOWN = "links to folders that are read elsewhere, which are not followed"
CLOSED = "folders that cannot be read"
NOT_UTF8 = "files whose names are not UTF-8, which are not read"


def files_below(root: str | Path, notes: Notes) -> Iterator[str]:
    """Paths of the files below a folder, relative to it.

    Links to folders are followed after everything else is read, and only where they lead to a
    folder that has not been read, so that circles end.

    Args:
        root: the folder.
        notes: folders that are left out are counted here.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = [""], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        path = os.path.join(root, folder)
        try:
            found = os.stat(path)
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            notes.add(CLOSED, f"{printable(folder) or root}: {error.strerror}")
            continue
        if (found.st_dev, found.st_ino) in seen:
            notes.add(KNOWN, printable(folder))
            continue
        seen.add((found.st_dev, found.st_ino))
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if not _is_folder(entry):
                yield name
            elif entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                notes.add(HIDDEN, printable(name))
            else:
                (links if entry.is_symlink() else folders).append(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def is_utf8(path: str) -> bool:
    """Whether a path can be written as text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def existing_path(root: Path, name: str) -> str:
    """The path of a file of that name below a folder, whatever system wrote the name.

    Where there is no such file, backslashes are taken for slashes, and letters with accents are
    looked for composed and decomposed; where that leads nowhere either, the path as it is written.
    """
    written = os.path.join(root, name)
    if os.path.exists(written):
        return written
    slashed = name.replace("\\", "/")
    spelled = [unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")]
    others = (os.path.join(root, other) for other in (slashed, *spelled) if other != name)
    return next((path for path in others if os.path.exists(path)), written)
