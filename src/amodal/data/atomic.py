"""Files and folders that are written whole or not at all, and the error of a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amodal.data.record import DataError

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_text(path: Path, text: str) -> None:
    """Replace a file by one with this text; the old file stays until the new one is on the disk.

    Examples:
        >>> import tempfile
        >>> from amodal.data.atomic import write_text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder) / "a.txt", "whole")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']
    """
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A file to write, which then replaces `path` as a whole; an error leaves `path` as it was.

    Examples:
        ```python
        with staged_file(folder / "plot.png") as staged:
            figure.savefig(staged, format="png")
        ```
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def staged_files(folder: Path, last: str | None = None) -> Iterator[Path]:
    """A folder to write into, whose files then replace those of `folder`, each as a whole.

    Files of `folder` that were not written anew stay. An error leaves `folder` as it was.

    Args:
        folder: where the files go.
        last: name of the file that comes last, the sign that all others are there.

    Examples:
        ```python
        with staged_files(run, last="model.safetensors") as staged:
            model.save_pretrained(staged)
        ```
    """
    staged = folder / ".partial"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        sync_tree(staged)
        files = [path for path in sorted(staged.rglob("*")) if path.is_file()]
        for file in sorted(files, key=lambda path: path.name == last and path.parent == staged):
            target = folder / file.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
            sync(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return  # Windows does not open folders
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder
            raise
    finally:
        os.close(handle)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that there is no space left, in whichever words its library has.

    Examples:
        >>> is_full_disk(OSError(errno.ENOSPC, "No space left on device"))
        True
        >>> is_full_disk(ValueError("expected 3 rows"))
        False
    """
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = str(error)
    return "No space left on device" in text or "quota exceeded" in text


@contextmanager
def full_disk_as_data_error(place: Path, advice: str) -> Iterator[None]:
    """A full disk as one line that names the place and says what is kept and how to go on.

    Raises:
        DataError: instead of the error of whichever library was writing.
    """
    try:
        yield
    except Exception as error:  # each library has its own
        if not is_full_disk(error):
            raise
        raise DataError(f"{place}: the disk is full; {advice}") from error


def is_failed_write(error: BaseException) -> bool:
    """Whether an error comes from the writer of `torch.save`, which does not tell the reason."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "PytorchStreamWriter" in text or "inline_container" in text
    )
