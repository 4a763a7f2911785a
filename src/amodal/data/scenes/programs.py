"""Functional programs of questions: their meaning, independent of the wording.

References:
    Johnson et al. 2017, arXiv:1612.06890 (questions as functional programs over scene graphs).
"""

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
    """A description that must match one object of the scene matches none, or several."""


@dataclass(frozen=True, slots=True)
class Description:
    """Attributes and a relation that select objects; None where unconstrained.

    Args:
        colour, shape, size, texture, cell: required values.
        relation, anchor: required relation to the one object that the anchor matches.

    Examples:
        >>> star = Object("star", "red", "small", "solid", 0.2, 0.5)
        >>> ring = Object("ring", "blue", "small", "solid", 0.8, 0.5)
        >>> left = Description(relation="left_of", anchor=Description(shape="ring"))
        >>> left.unique(Scene((star, ring))).shape
        'star'
    """

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    texture: str | None = None
    cell: tuple[str, str] | None = None
    relation: str | None = None
    anchor: Description | None = None

    def matches(self, scene: Scene) -> list[Object]:
        """The objects of `scene` that satisfy it.

        Raises:
            AmbiguousError: the anchor does not match exactly one object.
        """
        objects = [
            o for o in scene.objects if all(v in (None, getattr(o, a)) for a, v in self.attributes)
        ]
        if self.anchor is None or self.relation is None:
            return objects
        anchor = self.anchor.unique(scene)
        return [o for o in objects if RELATIONS[self.relation](o, anchor)]

    def unique(self, scene: Scene) -> Object:
        """The one object that satisfies it.

        Raises:
            AmbiguousError: none does, or several do.
        """
        objects = self.matches(scene)
        if len(objects) != 1:
            raise AmbiguousError(f"expected one object, {len(objects)} match {self}")
        return objects[0]

    @property
    def attributes(self) -> tuple[tuple[Attribute, Any], ...]:
        """The attributes with their required values, without the relation."""
        return tuple((a, getattr(self, a)) for a in ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether there is a matching object."""

    target: Description


@dataclass(frozen=True, slots=True)
class Count:
    """The number of matching objects."""

    target: Description


@dataclass(frozen=True, slots=True)
class Compare:
    """Whether more, fewer or equally many objects match `left` than `right`."""

    how: Literal["more", "fewer", "equal"]
    left: Description
    right: Description


@dataclass(frozen=True, slots=True)
class CompareSize:
    """Whether one object is of a larger (smaller) size class than another."""

    how: Literal["larger", "smaller"]
    left: Description
    right: Description


@dataclass(frozen=True, slots=True)
class Relate:
    """Whether a relation of `world.RELATIONS` holds from one object to another."""

    relation: str
    left: Description
    right: Description


@dataclass(frozen=True, slots=True)
class Query:
    """The value of an attribute of one object."""

    attribute: Attribute
    target: Description


Program = Exists | Count | Compare | CompareSize | Relate | Query
AnyProgram = TypeVar("AnyProgram", Exists, Count, Compare, CompareSize, Relate, Query)


def answer(program: Program, scene: Scene) -> str:
    """The correct answer, one of `ANSWERS`.

    Raises:
        AmbiguousError: a description that must match one object matches none or several.

    Examples:
        >>> scene = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),))
        >>> answer(Query("colour", Description(shape="star")), scene)
        'red'
    """
    match program:
        case Exists(target):
            return _yes_no(bool(target.matches(scene)))
        case Count(target):
            return str(len(target.matches(scene)))
        case Compare(how, left, right):
            a, b = len(left.matches(scene)), len(right.matches(scene))
            return _yes_no({"more": a > b, "fewer": a < b, "equal": a == b}[how])
        case CompareSize(how, left, right):
            difference = left.unique(scene).radius - right.unique(scene).radius
            return _yes_no(difference > 0 if how == "larger" else difference < 0)
        case Relate(relation, left, right):
            return _yes_no(RELATIONS[relation](left.unique(scene), right.unique(scene)))
        case Query(attribute, target):
            return value_of(target.unique(scene), attribute)


def value_of(item: Object, attribute: Attribute) -> str:
    """The value of an object's attribute, as one of `ANSWERS`."""
    return CELLS[item.cell] if attribute == "cell" else getattr(item, attribute)


def mirrored(program: AnyProgram) -> AnyProgram:
    """The program whose answer for the mirrored scene corresponds to this one's for the scene."""
    changed: dict[str, Any] = {}
    for field in fields(program):
        value = getattr(program, field.name)
        if isinstance(value, Description):
            changed[field.name] = _mirrored(value)
        elif field.name == "relation":
            changed[field.name] = _MIRROR.get(value, value)
    return replace(program, **changed)


def mirrored_answer(text: str) -> str:
    """The answer with left and right swapped."""
    return " ".join(_MIRROR.get(word, word) for word in text.split(" "))


def _mirrored(description: Description) -> Description:
    cell, relation = description.cell, description.relation
    anchor = description.anchor
    return replace(
        description,
        cell=None if cell is None else (cell[0], _MIRROR.get(cell[1], cell[1])),
        relation=None if relation is None else _MIRROR.get(relation, relation),
        anchor=None if anchor is None else _mirrored(anchor),
    )


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"
