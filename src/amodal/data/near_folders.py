"""Folders that a mistyped path may have meant."""

from __future__ import annotations

import difflib
from pathlib import Path

RUNS = Path("runs")  # where `amodal train` writes by default
INDEX_FILE = "index.json"  # what the folder of a search index holds


def near_folders(folder: Path, file: str) -> list[Path]:
    """Folders near `folder`, by place and by name, that hold a file of this name; at most three.

    Example:
        >>> near_folders(Path("runs/nothing_here"), "config.json")
        []
    """
    if folder.is_dir():  # a run was given for its index, or an index for its run
        around = [*sorted(folder.glob("*")), folder.parent]
        return [path for path in around if (path / file).is_file()][:3]
    if folder.parent.is_dir():
        near = {path.name: path for path in folder.parent.glob("*") if (path / file).is_file()}
    else:
        above = folder.parent.parent
        near = {
            str(path.relative_to(above)): path
            for path in above.glob("*/*")
            if (path / file).is_file()
        }
    near |= {p.name: p for p in RUNS.glob("*") if p.name not in near and (p / file).is_file()}
    typed = folder.name if folder.parent.is_dir() else f"{folder.parent.name}/{folder.name}"
    found = difflib.get_close_matches(typed, near, n=3, cutoff=0.6)
    if folder.name in near and folder.name not in found:
        found = [folder.name, *found]
    return list(dict.fromkeys(near[name] for name in found))


def did_you_mean(folder: Path, file: str) -> str:
    """`; did you mean A or B?`, or nothing where there is no such folder near."""
    near = near_folders(folder, file)
    return f"; did you mean {' or '.join(map(str, near))}?" if near else ""
