"""Table of every key of a recipe, made from the pydantic models that check recipes.

Run `python docs/recipe_keys.py` after a change of a key, its default or its description;
`--check` compares the page with what this script would write, as a test does.

What a key is comes from the `Args:` of the docstring of its class, else from the comment beside
it or above it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import tokenize
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amodal.augment.config import AugmentConfig
from amodal.training.recipe import Recipe

PAGE = Path(__file__).parent / "reference" / "recipe-keys.md"
INPUTS = "steps"  # key of `augment` whose inputs stand beside its other keys
TAGS = ("type", "kind")  # keys that name a model: they are in its heading
BAR = r"\|"  # in a cell of a table
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥"}
INTRODUCTION = """\
# Recipe keys

Every key of a recipe with its type and default, made from the code by `docs/recipe_keys.py`. A
heading gives the place in the file; `NAME` is the name of an input, `N` a place in a list, which
begins at 0. `--set` takes the same places: `--set model.encoders.image.freeze=all`, `--set
objectives.0.weight=0.5`. The `type` of an encoder need not be said where the name of the input is
one. `amodal recipes show NAME` prints complete recipes, and `recipe.yaml` of a run has every
default written out."""


@dataclass
class Part:
    """A class of keys and the places of a recipe where it stands."""

    model: type[BaseModel]
    places: list[str] = field(default_factory=list)

    @property
    def home(self) -> str:
        """The place at which it is described: the one with the fewest keys above it."""
        return min(self.places, key=lambda place: place.count("."))

    @property
    def others(self) -> list[str]:
        """The other places."""
        return [place for place in self.places if place != self.home]


def parts() -> list[Part]:
    """Every class of keys in the order in which a recipe leads to it."""
    found: dict[type[BaseModel], Part] = {}

    def visit(model: type[BaseModel], place: str) -> None:
        part = found.setdefault(model, Part(model))
        if place in part.places:
            return
        part.places.append(place)
        if len(part.places) > 1:
            return
        for name, info in keys_of(model).items():
            for end, inner in models_in(info.annotation, nested(place, name, model)):
                visit(inner, end)

    visit(Recipe, "")
    return list(found.values())


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a class; fields that a recipe does not write are none."""
    return {name: info for name, info in model.model_fields.items() if not info.exclude}


def nested(place: str, name: str, model: type[BaseModel]) -> str:
    """The place of a key."""
    return place if stands_beside(model, name) else f"{place}.{name}".lstrip(".")


def stands_beside(model: type[BaseModel], name: str) -> bool:
    """Whether the names of a mapping stand beside the other keys of its class."""
    return model is AugmentConfig and name == INPUTS


def models_in(annotation: Any, place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(place, class of keys) inside an annotation, those of other packages left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation.__module__.startswith("amodal."):
            yield place, annotation
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from models_in(arguments[0], place)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from models_in(argument, place)
    elif origin in (tuple, list):
        yield from models_in(arguments[0], f"{place}.N")
    elif origin is dict:
        yield from models_in(arguments[1], f"{place}.NAME")


def type_text(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """An annotation as a reader of YAML knows it, with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], (*arguments[1:], *metadata))
    if annotation is type(None):
        return "`null`"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(argument, metadata) for argument in arguments))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        shown = "mapping"
    elif origin is Literal:
        shown = ", ".join(f"`{value}`" for value in arguments)
    elif origin in (tuple, list):
        of = type_text(arguments[0])
        several = origin is tuple and arguments[-1] is not Ellipsis
        shown = f"{len(arguments)} of {of}" if several else f"list of {of}"
    elif origin is dict:
        shown = f"mapping of names to {type_text(arguments[1])}"
    else:
        shown = "any" if annotation is Any else annotation.__name__
    bounds = ", ".join(bounds_of(metadata))
    return f"{shown} ({bounds})" if bounds else shown


def bounds_of(metadata: tuple[Any, ...]) -> Iterator[str]:
    """The limits of a number or of the length of a list."""
    for one in metadata:
        for found in getattr(one, "metadata", None) or [one]:  # a Field holds its own
            for name, sign in BOUNDS.items():
                if getattr(found, name, None) is not None:
                    yield f"{sign} {getattr(found, name)}"


def default_text(info: FieldInfo) -> str:
    """The default of a key as YAML in one line."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    text = yaml.safe_dump(
        plain(value), default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
    )
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def plain(value: Any) -> Any:
    """A default as YAML holds it; of a mapping, the keys that tell which one it is."""
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        given = value.model_dump(mode="json", exclude_unset=True)
        return {"kind": kind, **given} if kind is not None else given
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def description(model: type[BaseModel], name: str) -> str:
    """What a key is: from the class that declares it, or from one that documents it anew."""
    for cls in model.__mro__:
        if cls is not BaseModel and issubclass(cls, BaseModel):
            found = arguments_of(cls).get(name) or comments_of(cls).get(name)
            if found:
                return re.sub(r"\bNone\b", "`null`", found)
    return ""


@cache
def arguments_of(model: type[BaseModel]) -> dict[str, str]:
    """Key -> text of the `Args:` section of the docstring."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", f"{inspect.getdoc(model)}\n", re.MULTILINE)
    found: dict[str, str] = {}
    if section and "__doc__" in vars(model):
        for entry in re.split(r"\n(?=\S)", textwrap.dedent(section[1])):
            names, colon, text = entry.partition(": ")
            if colon:
                found |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return found


@cache
def comments_of(model: type[BaseModel]) -> dict[str, str]:
    """Key -> comments right above its declaration and beside it."""
    source = textwrap.dedent(inspect.getsource(model))
    comments = {
        token.start[0]: (token.string.lstrip("# "), source.splitlines()[token.start[0] - 1])
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        first = node.lineno
        while first - 1 in comments and comments[first - 1][1].strip().startswith("#"):
            first -= 1
        lines = range(first, (node.end_lineno or node.lineno) + 1)
        texts = [comments[line][0] for line in lines if line in comments]
        if texts:
            found[node.target.id] = " ".join(texts)
    return found


def summary(model: type[BaseModel]) -> str:
    """The first paragraph of a docstring."""
    text = inspect.getdoc(model) if "__doc__" in vars(model) else ""
    return (text or "").split("\n\n")[0]


def heading(model: type[BaseModel]) -> str:
    """`type: image, kind: timm` of a class; nothing where a place has one class alone."""
    named = []
    for tag in TAGS:
        values = get_args(model.model_fields[tag].annotation) if tag in model.model_fields else ()
        if len(values) == 1:
            named.append(f"{tag}: {values[0]}")
    return ", ".join(named)


def table(model: type[BaseModel], homes: Mapping[type[BaseModel], str]) -> list[str]:
    """Lines of the table of a class of keys; none where it has no keys but its tags.

    Args:
        model: the class.
        homes: class -> the place at which it is described.
    """
    tags = [tag for tag in TAGS if f"{tag}:" in heading(model)]
    rows = []
    for name, info in keys_of(model).items():
        if name in tags:
            continue
        shown = type_text(info.annotation, tuple(info.metadata))
        inner = next(models_in(info.annotation, ""), None)
        if inner is not None:
            before, _, after = shown.rpartition("mapping")
            anchor = homes[inner[1]].replace(".", "").lower()
            shown = f"{before}[mapping](#{anchor}){after}"
        key = "NAME" if stands_beside(model, name) else name
        if key != name:
            shown = shown.removeprefix("mapping of names to ")
        cells = (f"`{key}`", shown, default_text(info), description(model, name))
        rows.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return ["| key | type | default | what it is |", "|---|---|---|---|", *rows] if rows else []


def page() -> str:
    """The whole page."""
    found = parts()
    homes = {part.model: part.home for part in found}
    blocks = [INTRODUCTION]
    for place, group in grouped(found).items():
        shared = [p for p in group[0].others if all(p in part.others for part in group)]
        blocks += [f"## {place or 'The whole recipe'}", also(shared)]
        for part in group:
            named = heading(part.model)
            blocks += [f"### {named}" if named else "", summary(part.model)]
            blocks.append(also([p for p in part.others if p not in shared]))
            blocks.append("\n".join(table(part.model, homes)))
    return "\n\n".join(block for block in blocks if block) + "\n"


def also(places: list[str]) -> str:
    """A sentence on the further places of a class or of a group of them."""
    return f"Also at {', '.join(f'`{place}`' for place in places)}." if places else ""


def grouped(found: list[Part]) -> dict[str, list[Part]]:
    """Place -> the classes that are described there."""
    groups: dict[str, list[Part]] = {}
    for part in found:
        groups.setdefault(part.home, []).append(part)
    return groups


def undescribed() -> list[str]:
    """Keys of which nothing says what they are."""
    return [
        f"{part.model.__module__}.{part.model.__name__}.{name}"
        for part in parts()
        for name in keys_of(part.model)
        if name not in TAGS and not description(part.model, name)
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit(f"{PAGE}: not up to date; run `python docs/recipe_keys.py`")
    else:
        PAGE.write_text(page(), encoding="utf-8")
