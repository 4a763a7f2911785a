"""Questions as small programs: what is asked of a scene, apart from the words it is asked in."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from amodal.data.scenes.world import (
    COLOURS,
    COLUMNS,
    MAX_OBJECTS,
    RADIUS,
    RELATIONS,
    ROWS,
    SHAPES,
    TEXTURES,
    Object,
    Scene,
)

Attribute = Literal["colour", "shape", "size", "texture", "cell"]
ATTRIBUTES: tuple[Attribute, ...] = ("colour", "shape", "size", "texture", "cell")
CELLS: dict[tuple[str, str], str] = {
    (row, column): "centre" if row == column == "centre" else f"{row} {column}"
    for row in ROWS
    for column in COLUMNS
}
# Every answer that a question about a scene can have.
ANSWERS: tuple[str, ...] = (
    "yes",
    "no",
    *(str(n) for n in range(MAX_OBJECTS + 1)),
    *COLOURS,
    *SHAPES,
    *RADIUS,
    *TEXTURES,
    *CELLS.values(),
)
_MIRROR = {"left": "right", "right": "left", "left_of": "right_of", "right_of": "left_of"}


class AmbiguousError(ValueError):
    """A description that should fit one object of the scene fits none, or several."""


@dataclass(frozen=True, slots=True)
class Things:
    """A description of objects; None where it says nothing.

    Args:
        relation, anchor: the objects stand in this relation to the one object that the anchor
            describes.
    """

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    texture: str | None = None
    cell: tuple[str, str] | None = None
    relation: str | None = None
    anchor: Things | None = None

    def among(self, scene: Scene) -> list[Object]:
        """The objects of `scene` that it fits.

        Raises:
            AmbiguousError: the anchor does not fit exactly one.
        """
        found = [
            o for o in scene.objects if all(said in (None, getattr(o, a)) for a, said in self.says)
        ]
        if self.anchor is None or self.relation is None:
            return found
        anchor = self.anchor.only(scene)
        return [o for o in found if RELATIONS[self.relation](o, anchor)]

    def only(self, scene: Scene) -> Object:
        """The one object that it fits.

        Raises:
            AmbiguousError: it fits none, or several.
        """
        found = self.among(scene)
        if len(found) != 1:
            raise AmbiguousError(f"expected one object, {len(found)} fit {self}")
        return found[0]

    @property
    def says(self) -> tuple[tuple[Attribute, Any], ...]:
        """The attributes with what is said of each, the relation left out."""
        return tuple((a, getattr(self, a)) for a in ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether there is such a thing: yes or no."""

    things: Things


@dataclass(frozen=True, slots=True)
class Count:
    """How many such things there are."""

    things: Things


@dataclass(frozen=True, slots=True)
class Compare:
    """Whether there are more of the left things than of the right ones, fewer, or as many."""

    how: Literal["more", "fewer", "equal"]
    left: Things
    right: Things


@dataclass(frozen=True, slots=True)
class Outsize:
    """Whether one thing is of a larger (smaller) size class than another."""

    how: Literal["larger", "smaller"]
    left: Things
    right: Things


@dataclass(frozen=True, slots=True)
class Relate:
    """Whether one thing stands in a relation of `world.RELATIONS` to another."""

    relation: str
    left: Things
    right: Things


@dataclass(frozen=True, slots=True)
class Query:
    """The value that one thing has of an attribute."""

    attribute: Attribute
    things: Things


Program = Exists | Count | Compare | Outsize | Relate | Query
AnyProgram = TypeVar("AnyProgram", Exists, Count, Compare, Outsize, Relate, Query)


def answer(program: Program, scene: Scene) -> str:
    """The true answer, one of `ANSWERS`.

    Raises:
        AmbiguousError: something that is spoken of as one thing is none or several in `scene`.
    """
    match program:
        case Exists(things):
            return _yes_no(bool(things.among(scene)))
        case Count(things):
            return str(len(things.among(scene)))
        case Compare(how, left, right):
            a, b = len(left.among(scene)), len(right.among(scene))
            return _yes_no({"more": a > b, "fewer": a < b, "equal": a == b}[how])
        case Outsize(how, left, right):
            difference = left.only(scene).radius - right.only(scene).radius
            return _yes_no(difference > 0 if how == "larger" else difference < 0)
        case Relate(relation, left, right):
            return _yes_no(RELATIONS[relation](left.only(scene), right.only(scene)))
        case Query(attribute, things):
            return value_of(things.only(scene), attribute)


def value_of(item: Object, attribute: Attribute) -> str:
    """The value that an object has of an attribute, as one of `ANSWERS`."""
    return CELLS[item.cell] if attribute == "cell" else getattr(item, attribute)


def mirrored(program: AnyProgram) -> AnyProgram:
    """The question that the mirrored scene answers as the scene answers this one."""
    changed: dict[str, Any] = {}
    for field in fields(program):
        value = getattr(program, field.name)
        if isinstance(value, Things):
            changed[field.name] = _mirrored(value)
        elif field.name == "relation":
            changed[field.name] = _MIRROR.get(value, value)
    return replace(program, **changed)


def mirrored_answer(text: str) -> str:
    """The answer with left and right exchanged."""
    return " ".join(_MIRROR.get(word, word) for word in text.split(" "))


def _mirrored(things: Things) -> Things:
    cell, relation, anchor = things.cell, things.relation, things.anchor
    return replace(
        things,
        cell=None if cell is None else (cell[0], _MIRROR.get(cell[1], cell[1])),
        relation=None if relation is None else _MIRROR.get(relation, relation),
        anchor=None if anchor is None else _mirrored(anchor),
    )


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"
