"""Image files that are named after a number, as in COCO, VQA and VisDial."""

from __future__ import annotations

import os
import re
from pathlib import Path

from amodal.data.decode import SUFFIXES
from amodal.data.notes import Note, Notes, printable
from amodal.data.record import DataError
from amodal.data.sources.files_below import NOT_UTF8, files_below, is_utf8

_NUMBER = re.compile(r"(?:^|_)(\d+)$")


class ImageFiles:
    """Which file of a folder shows image number so-and-so; the folder is listed once.

    Without a pattern, a file belongs to the number that its name consists of or ends in after an
    underscore, with or without zeros in front: `7.png`, `000000000007.jpg`,
    `COCO_val2014_000000000007.jpg`. Folders within the folder are looked through as well.

    Args:
        root: the folder.
        pattern: path of an image below it, such as `COCO_val2014_{image_id:012d}.jpg`.
        split: where several files have the number, the one with this in its path is meant.

    Attributes:
        notes: folders that are not looked through.

    Raises:
        DataError: there is no such folder, or the pattern does not hold `{image_id}`.
    """

    def __init__(self, root: str, pattern: str | None = None, split: str | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{root}: expected a folder of images, found none")
        if pattern is not None:
            try:
                same = pattern.format(image_id=1) == pattern.format(image_id=2)
            except (LookupError, ValueError) as error:
                raise DataError(f"file_pattern {pattern!r} cannot be filled in: {error}") from None
            if same:
                raise DataError(f"file_pattern {pattern!r}: expected {{image_id}} in it")
        self._pattern, self._split = pattern, split
        notes = Notes()
        self._paths: set[str] = set()
        for path in files_below(root, notes):
            suffix = path.rpartition(".")[2].lower()
            if suffix not in SUFFIXES or os.path.basename(path).startswith("."):
                continue
            if is_utf8(path):
                self._paths.add(path)
            else:
                notes.add(NOT_UTF8, printable(path))
        self.notes: tuple[Note, ...] = notes.found()
        self._by_number: dict[int, list[str]] = {}
        for path in sorted(self._paths):
            found = _NUMBER.search(Path(path).stem)
            if found:
                self._by_number.setdefault(int(found[1]), []).append(path)

    def find(self, image_id: int) -> Path:
        """The file of an image.

        Raises:
            LookupError: there is none; says what was looked for.
        """
        if self._pattern is not None:
            path = os.path.normpath(self._pattern.format(image_id=image_id))
            if path not in self._paths:
                raise LookupError(f"no image {path} in {self.root}")
            return self.root / path
        paths = self._by_number.get(image_id, [])
        if len(paths) > 1 and self._split:
            paths = [path for path in paths if self._split in path] or paths
        if not paths:
            raise LookupError(f"no file in {self.root} is named after image {image_id}")
        if len(paths) > 1:
            raise LookupError(
                f"several files are named after image {image_id}: {', '.join(paths[:4])}; "
                "choose with `file_pattern`"
            )
        return self.root / paths[0]
