"""The recipes that come with the package, found by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from amodal.training.recipes.error import RecipeError

SUFFIXES = (".yaml", ".yml")
RENAMED_RECIPES: dict[str, str] = {
    "scenes-tokenizer": "scenes-image-tokenizer",
    "scenes-draw": "scenes-text-to-image",
    "scenes-judge": "scenes-reranker",
}


@dataclass(frozen=True)
class RecipeHeader:
    """The comment at the top of a recipe file.

    Args:
        summary: its first line.
        hardware: what the recipe needs, on one line; empty where the header does not say.
    """

    summary: str
    hardware: str


def packaged_recipes() -> dict[str, Path]:
    """Name → file of every recipe of the installed package, or of the checkout."""
    package = Path(__file__).parents[2]
    inside, beside = package / "recipes", package.parents[1] / "recipes"
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: an existing path, else the recipe of that name in the package.

    `quickstart`, `quickstart.yaml` and `recipes/quickstart.yaml` name the same packaged recipe.

    Raises:
        RecipeError: there is neither; names the nearest ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = packaged_recipes()
    named = path.stem if path.suffix in SUFFIXES else path.name
    if path.parent in (Path(), Path("recipes")) and named in packaged:
        return packaged[named]
    beside = sorted(p for p in _files(path.parent) if p.suffix in SUFFIXES)
    known = {p.stem: str(p) for p in beside} | {n: n for n in packaged}
    near = difflib.get_close_matches(named, known, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(known[n] for n in near)}?" if near else ""
    if named in RENAMED_RECIPES:
        hint = f"; it is now called {RENAMED_RECIPES[named]}"
    there = f"; recipes there: {', '.join(map(str, beside))}" if beside else ""
    raise RecipeError(
        f"{path}: no such recipe{hint}{there}; recipes of the package: {', '.join(packaged)}"
    )


def read_header(path: Path) -> RecipeHeader:
    """The header of a recipe file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:])
    hardware: list[str] = []
    for line in lines[1:]:
        key, _, value = line.strip().partition(" ")
        if line.startswith("   ") and not line.startswith("    "):  # a key, not a continued value
            if hardware:
                break
            hardware += [value.strip()] if key == "hardware" else []
        elif hardware:
            hardware.append(line.strip())
    return RecipeHeader(lines[0].strip() if lines else "", " ".join(hardware))


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
