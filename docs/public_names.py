"""Type stubs and API reference pages, written from the public names of the rooms.

Run `python docs/public_names.py` after changing the names in an `__init__.py`; a test compares
the files with what this script would write.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "amodal"
REFERENCE = ROOT / "docs" / "reference"
LINE_LENGTH = 100
ORDER = [  # of the rooms in the reference: along the data flow
    "data",
    "augment",
    "modalities",
    "encoders",
    "projection",
    "fusion",
    "losses",
    "alignment",
    "models",
    "metrics",
    "evaluators",
    "training",
    "doctor",
    "search",
    "reports",
    "serving",
    "distributed",
]


def public_names() -> dict[str, dict[str, list[str]]]:
    """Room -> module, relative to the room ("" for a room of one file) -> its public names."""
    rooms: dict[str, dict[str, list[str]]] = {}
    for file in sorted(PACKAGE.glob("*.py")) + sorted(PACKAGE.glob("*/__init__.py")):
        room = file.parent.name if file.name == "__init__.py" else file.stem
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign) or room == "amodal":
                continue
            targets = [ast.unparse(target) for target in node.targets]
            if isinstance(node.value, ast.Call) and "__all__" in targets[0]:
                listed = ast.literal_eval(node.value.args[1])
                rooms[room] = {module: sorted(names.split()) for module, names in listed.items()}
            elif targets == ["__all__"]:
                rooms[room] = {"": sorted(ast.literal_eval(node.value))}
    return rooms


def dotted(room: str, module: str) -> str:
    """Import path of a module of a room."""
    return ".".join(part for part in ("amodal", room, module) if part)


def stub(room: str, modules: dict[str, list[str]]) -> str:
    """`__init__.pyi` of a room, from which type checkers and editors know its names."""
    lines = ["# Written by docs/public_names.py from __init__.py."]
    for module, names in sorted(modules.items()):
        for name in sorted(names, key=_isort):
            line = f"from {dotted(room, module)} import {name} as {name}"
            if len(line) > LINE_LENGTH:
                line = f"from {dotted(room, module)} import (\n    {name} as {name},\n)"
            lines.append(line)
    names = sorted(name for listed in modules.values() for name in listed)
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in sorted(names, key=_isort)), "]"]
    return "\n".join(lines) + "\n"


def page(room: str, modules: dict[str, list[str]]) -> str:
    """Reference page of a room."""
    path = PACKAGE / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    lines = [f"# amodal.{room}", "", about.split("\n\n")[0].strip(), ""]
    for module, names in modules.items():
        for name in names:
            lines += [f"::: {dotted(room, module)}.{name}", ""]
    return "\n".join(lines)


def index(rooms: dict[str, dict[str, list[str]]]) -> str:
    """Table of contents of the reference."""
    lines = [
        "# API reference",
        "",
        "Public names of every subpackage. Subpackages import nothing heavy until a name is used:",
        "`from amodal.losses import InfoNCE` loads one file.",
        "",
        "| subpackage | names |",
        "|---|---|",
    ]
    for room in ORDER:
        paths = {
            name: dotted(room, module) for module, names in rooms[room].items() for name in names
        }
        links = ", ".join(f"[`{name}`]({room}.md#{paths[name]}.{name})" for name in sorted(paths))
        lines.append(f"| [`amodal.{room}`]({room}.md) | {links} |")
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Every file that this script writes, with its text."""
    rooms = public_names()
    written = {REFERENCE / "index.md": index(rooms)}
    for room, modules in rooms.items():
        written[REFERENCE / f"{room}.md"] = page(room, modules)
        if (PACKAGE / room).is_dir():
            written[PACKAGE / room / "__init__.pyi"] = stub(room, modules)
    return written


def _isort(name: str) -> tuple[int, str]:
    """Order of ruff's import sorting: CONSTANT, Class, function."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
