"""Above the modality types and the table of kinds nothing branches on their names or classes."""

import ast
from pathlib import Path

import pytest

from amodal.modalities.registry import BUILT_IN
from amodal.training.kinds import MODEL_KINDS, resolve

PACKAGE = Path(__file__).parents[1] / "src" / "amodal"
ABOVE = (
    *("models", "evaluators", "training", "doctor", "setup"),
    *("search", "reports", "serving", "cli"),
)
TABLES = {"training/kinds.py"}
NAMES = {kind.name for kind in BUILT_IN} | {"video"} | set(MODEL_KINDS)
CLASSES = (
    {kind.__name__ for kind in BUILT_IN}
    | {resolve(kind.model).__name__ for kind in MODEL_KINDS.values()}
    | {resolve(kind.recipe).__name__ for kind in MODEL_KINDS.values()}
    | {resolve(kind.run).__name__ for kind in MODEL_KINDS.values()}
    | {"ImagePreprocessor", "TextPreprocessor", "AudioPreprocessor", "VectorPreprocessor"}
    | {"TabularPreprocessor", "ChatTemplate"}
)
FILES = sorted(file for room in ABOVE for file in (PACKAGE / room).rglob("*.py"))


def branches(tree):
    """(line, name) of each comparison with a name, and of each `isinstance` of a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            constants = [n for side in sides for n in ast.walk(side) if isinstance(n, ast.Constant)]
            yield from ((node.lineno, n.value) for n in constants if n.value in NAMES)
        elif isinstance(node, ast.MatchValue | ast.MatchClass):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and part.value in NAMES:
                    yield part.lineno, part.value
                if isinstance(part, ast.Name) and part.id in CLASSES:
                    yield part.lineno, part.id
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            for part in ast.walk(node.args[1]):
                if isinstance(part, ast.Name) and part.id in CLASSES:
                    yield node.lineno, part.id


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_branches_on_a_modality_type_or_a_kind(file):
    if file.relative_to(PACKAGE).as_posix() in TABLES:
        return
    found = sorted(set(branches(ast.parse(file.read_text(encoding="utf-8")))))
    assert not found, f"{file}: {found}"


def test_a_branch_would_be_found():
    code = 'if kind == "image" or name in ("audio", "x") or isinstance(m, FusionModel): pass'
    assert {name for _, name in branches(ast.parse(code))} == {"image", "audio", "FusionModel"}
