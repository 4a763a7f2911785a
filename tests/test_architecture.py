"""The rooms of the package import downwards only."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

MAY_IMPORT: dict[str, set[str]] = {  # the whole architecture, on one screen
    "lazy": set(),  # for `__init__` files alone
    "distributed": set(),
    "plugins": set(),
    "signals": set(),
    "data": set(),
    "alignment": set(),
    "augment": {"plugins", "data"},
    "encoders": {"distributed", "plugins"},
    "modalities": {"plugins", "data", "augment", "encoders"},
    "projection": {"distributed"},
    "fusion": {"distributed"},
    "losses": {"distributed"},
    "models": {
        "distributed",
        "data",
        "modalities",
        "alignment",
        "encoders",
        "projection",
        "fusion",
    },
    "metrics": {"alignment"},
    "evaluators": {"data", "modalities", "encoders", "losses", "models", "metrics"},
    "search": {"data", "modalities", "models", "metrics", "evaluators"},
    "training": {
        "distributed",
        "plugins",
        "signals",
        "data",
        "augment",
        "modalities",
        "alignment",
        "encoders",
        "projection",
        "fusion",
        "losses",
        "models",
        "metrics",
        "evaluators",
    },
    "setup": {"data", "modalities", "encoders", "models", "training"},
    "reports": {"data", "modalities", "models", "metrics", "evaluators", "training"},
    "doctor": {
        "data",
        "modalities",
        "encoders",
        "losses",
        "models",
        "metrics",
        "evaluators",
        "training",
    },
    "serving": {"data", "modalities", "models", "search", "evaluators", "training"},
    "cli": {
        "distributed",
        "signals",
        "data",
        "augment",
        "alignment",
        "models",
        "metrics",
        "evaluators",
        "training",
        "doctor",
        "setup",
        "reports",
        "search",
        "serving",
    },
}
PACKAGE = Path(__file__).parents[1] / "src" / "amodal"
ENTRY_POINTS = {"__init__", "__main__"}  # they open the door; nothing inside imports them


def imported_modules(file: Path) -> set[str]:
    """Dotted names of amodal that `file` names in any import, lazy ones included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write imports absolutely"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "amodal"}


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_imports_point_down(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ENTRY_POINTS:
        return
    assert room in MAY_IMPORT, f"{room} is not a room of the design"
    modules = imported_modules(file)
    assert "amodal" not in modules, f"{file} imports the package's own front door"
    allowed = MAY_IMPORT[room] | ({"lazy"} if file.name == "__init__.py" else set())
    assert {name.split(".")[1] for name in modules} - {room} <= allowed


def test_the_allowed_imports_have_no_cycle():
    TopologicalSorter(MAY_IMPORT).prepare()


def test_no_room_is_a_drawer_for_leftovers():
    assert not [
        f for f in PACKAGE.rglob("*.py") if f.stem in {"utils", "helpers", "misc", "common"}
    ]
