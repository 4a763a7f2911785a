"""Questions about scenes whose answers follow neither from the wording nor from the image alone.

A question is drawn from a menu: all answers that a type of question can have in the scene, each
with the programs that have it. The answer is drawn first, uniformly, then one of its programs.
These properties remove shortcuts:

- yes and no are both on the menu, and their programs come in pairs that differ in one value or
  direction with equal probability in the world (colours, shapes, textures, sides; not sizes or
  cells). So neither the scene nor the wording predicts the answer.
- counts are on the menu from 0 up to some number of at least 2 without gaps, so that no scene
  makes a higher count likelier than 0.
- sizes and textures are asked where all three can be the answer; colours, shapes and cells where
  at least three can. The image alone then leaves a choice among the values that it shows.
- the value asked for is named nowhere in the question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any, Literal, get_args

from amodal.data.scenes.captions import Language
from amodal.data.scenes.programs import (
    ANSWERS,
    AmbiguousError,
    Attribute,
    Compare,
    CompareSize,
    Count,
    Description,
    Exists,
    Program,
    Query,
    Relate,
    answer,
    value_of,
)
from amodal.data.scenes.question_words import CHINESE_ANSWERS, ask_in_chinese, ask_in_english
from amodal.data.scenes.world import (
    COLOURS,
    RELATION_GAP,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Draw,
    Generalization,
    Object,
    Scene,
    has_held_out,
    held_out_pair,
)

__all__ = [
    "ANSWERS",
    "FAMILIES",
    "OPPOSITE",
    "AmbiguousError",
    "Family",
    "Question",
    "answer",
    "clear",
    "count_menu",
    "exists_menu",
    "refer",
    "write_questions",
]

Family = Literal["exists", "count", "compare", "attribute", "relation", "two_hop"]
FAMILIES: tuple[Family, ...] = get_args(Family)

# Attributes with uniformly distributed values, independent of everything else.
_FAIR: dict[Attribute, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "texture": TEXTURES,
}
_EXISTS: tuple[tuple[Attribute, ...], ...] = (
    ("colour",),
    ("shape",),
    ("texture",),
    ("colour", "shape"),
    ("size", "shape"),
    ("size", "colour"),
    ("texture", "shape"),
    ("texture", "colour"),
    ("size", "texture", "colour", "shape"),
)
_NAMED: tuple[Attribute, ...] = ("colour", "shape", "texture", "size")
OPPOSITE = {"left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above"}

Menu = dict[str, list[Program]]  # answer -> the programs that have it


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene with its answer.

    Args:
        text: the wording.
        answer: the correct answer in the language of the question; in English one of `ANSWERS`.
        family: one of `FAMILIES`.
        type: the family and the attribute or form, such as "attribute/colour".
        language: "en" or "zh".
        program: the meaning, independent of the wording.
    """

    text: str
    answer: str
    family: Family
    type: str
    language: Language
    program: Program


def write_questions(
    scene: Scene,
    key: str,
    *,
    count: int,
    languages: Sequence[Language] = ("en",),
    generalization: Generalization = "iid",
) -> list[Question]:
    """`count` questions about `scene`; the languages alternate.

    Families are equally frequent among those that the scene allows; a scene of one object allows
    few. A question is repeated only where the scene has no other.

    Args:
        scene: to ask about.
        key: seed of the questions, together with the scene.
        count: number of questions.
        languages: "en", "zh" or both.
        generalization: of the scene, see `world.has_held_out`.

    Examples:
        >>> from amodal.data.scenes.world import sample_scene
        >>> scene = sample_scene(0, "iid", "train", 0, min_objects=3)
        >>> questions = write_questions(scene, "a", count=2)
        >>> all(answer(q.program, scene) == q.answer for q in questions)
        True
    """
    draw = Draw(f"questions/{key}")
    questions: list[Question] = []
    asked: set[Program] = set()
    for k in range(count):
        family, kind, menu = _draw_menu(scene, generalization, draw)
        # Sorted, because the insertion order of a menu depends on the scene.
        true = draw.choice(sorted(menu))
        program = draw.choice([p for p in menu[true] if p not in asked] or menu[true])
        asked.add(program)
        language = languages[k % len(languages)]
        if language == "zh":
            text, true = ask_in_chinese(program, draw), CHINESE_ANSWERS.get(true, true)
        else:
            text = ask_in_english(program, draw)
        questions.append(Question(text, true, family, kind, language, program))
    return questions


def _draw_menu(
    scene: Scene, generalization: Generalization, draw: Draw
) -> tuple[Family, str, Menu]:
    builders: dict[Family, Callable[[Scene, Generalization, Draw], Iterator[tuple[str, Menu]]]] = {
        "exists": _exists,
        "count": _count,
        "compare": _compare,
        "attribute": _attribute,
        "relation": _relation,
        "two_hop": _two_hop,
    }
    for family in draw.shuffled(FAMILIES):
        for kind, menu in builders[family](scene, generalization, draw):
            return family, f"{family}/{kind}", menu
    raise ValueError(f"no question can be asked about a scene of {len(scene.objects)} objects")


# --- families ----------------------------------------------------------------------------------
# Each yields menus without shortcuts in random order.


def _exists(scene: Scene, generalization: Generalization, draw: Draw) -> Iterator[tuple[str, Menu]]:
    for kind in draw.shuffled(("thing", "thing", "relation")):
        if kind == "relation":
            yes: list[Program] = []
            no: list[Program] = []
            refs = _references(scene, draw)
            for a, b, relation in _pairs(scene, generalization):
                if b not in refs:
                    continue
                attribute = draw.choice(tuple(_FAIR))
                present = replace(
                    _like({attribute: getattr(a, attribute)}), relation=relation, anchor=refs[b]
                )
                reversed_ = replace(present, relation=OPPOSITE[relation])
                like_a = [
                    o for o in scene.objects if getattr(o, attribute) == getattr(a, attribute)
                ]
                if not reversed_.matches(scene) and clear(b, like_a, relation):
                    yes.append(Exists(present))
                    no.append(Exists(reversed_))
            if yes:
                yield kind, _menu(yes, no)
            continue
        for attributes in draw.shuffled(_EXISTS):
            menu = exists_menu(scene, attributes, draw)
            if menu:
                yield kind, menu


def exists_menu(scene: Scene, attributes: Sequence[Attribute], draw: Draw) -> Menu:
    """Whether there is an object with certain values of the given attributes.

    Where possible, the values of an absent object all occur in the scene.
    """
    yes: list[Program] = []
    no: list[Program] = []
    for item in scene.objects:
        values = {a: getattr(item, a) for a in attributes}
        for attribute in attributes:
            if attribute not in _FAIR:
                continue
            absent = [
                description
                for value in _FAIR[attribute]
                for description in [_like({**values, attribute: value})]
                if not description.matches(scene) and _as_rare(description, item)
            ]
            here = {getattr(o, attribute) for o in scene.objects}
            plausible = [d for d in absent if getattr(d, attribute) in here]
            if absent:
                yes.append(Exists(_like(values)))
                no.append(Exists(draw.choice(plausible or absent)))
    return _menu(yes, no)


def _count(scene: Scene, generalization: Generalization, draw: Draw) -> Iterator[tuple[str, Menu]]:
    for criterion in draw.shuffled((*_FAIR, *RELATIONS)):
        menu = count_menu(scene, criterion, draw)
        if menu:
            yield ("relation" if criterion in RELATIONS else "thing"), menu


def count_menu(scene: Scene, criterion: str, draw: Draw) -> Menu:
    """Number of objects with a value of an attribute, or in a relation to an object.

    Empty where the numbers from 0 to 2 are not all possible.

    Args:
        criterion: name of the attribute or relation.
    """
    descriptions: list[Description] = []
    if criterion in RELATIONS:
        # A large object is rarely at the border, so its size would hint at what lies beyond it.
        for item, description in _references(scene, draw, ("size", "cell")).items():
            if clear(item, scene.objects, criterion):
                descriptions.append(Description(relation=criterion, anchor=description))
    else:
        for attribute, values in _FAIR.items():
            if attribute == criterion:
                descriptions += [_like({attribute: value}) for value in values]
    menu: Menu = {}
    for description in descriptions:
        program = Count(description)
        menu.setdefault(answer(program, scene), []).append(program)
    gapless: Menu = {}
    while str(len(gapless)) in menu:
        gapless[str(len(gapless))] = menu[str(len(gapless))]
    return gapless if len(gapless) >= 3 else {}


def _compare(
    scene: Scene, generalization: Generalization, draw: Draw
) -> Iterator[tuple[str, Menu]]:
    for kind in draw.shuffled(("more", "equal", "size")):
        if kind == "size":
            menu = _compare_sizes(scene, draw)
            if menu:
                yield kind, menu
            continue
        for attribute in draw.shuffled(tuple(_FAIR)):
            menu = _compare_counts(scene, attribute, kind == "equal", draw)
            if menu:
                yield kind, menu


def _compare_sizes(scene: Scene, draw: Draw) -> Menu:
    how: Literal["larger", "smaller"] = draw.choice(("larger", "smaller"))
    refs = _references(scene, draw, ("size", "cell"))
    pairs = [(refs[a], refs[b]) for a, b in permutations(refs, 2) if a.radius > b.radius]
    if how == "smaller":
        pairs = [(b, a) for a, b in pairs]
    return _menu(
        [CompareSize(how, a, b) for a, b in pairs],
        [CompareSize(how, b, a) for a, b in pairs],
    )


def _compare_counts(scene: Scene, attribute: Attribute, equal: bool, draw: Draw) -> Menu:
    tally = Counter(getattr(o, attribute) for o in scene.objects)
    description = {value: _like({attribute: value}) for value in _FAIR[attribute]}
    uneven = [(u, v) for u, v in permutations(description, 2) if tally[u] > tally[v]]
    # Where both values occur, the answer takes counting.
    uneven = [(u, v) for u, v in uneven if tally[v]] or uneven
    swapped = [(v, u) for u, v in uneven]
    if equal:
        even = [(u, v) for u, v in permutations(description, 2) if tally[u] == tally[v] > 0]
        return _menu(
            [Compare("equal", description[u], description[v]) for u, v in even],
            [Compare("equal", description[u], description[v]) for u, v in uneven + swapped],
        )
    how: Literal["more", "fewer"] = draw.choice(("more", "fewer"))
    if how == "fewer":
        uneven, swapped = swapped, uneven
    return _menu(
        [Compare(how, description[u], description[v]) for u, v in uneven],
        [Compare(how, description[u], description[v]) for u, v in swapped],
    )


def _attribute(
    scene: Scene, generalization: Generalization, draw: Draw
) -> Iterator[tuple[str, Menu]]:
    attributes: tuple[Attribute, ...] = ("colour", "shape", "size", "texture", "cell")
    for attribute in draw.shuffled(attributes):
        # Large objects are near the middle, so a cell hints at a size and vice versa.
        hints: tuple[Attribute, ...] = ("size", "cell") if attribute in ("size", "cell") else ()
        menu: Menu = {}
        for item, description in _references(scene, draw, (attribute, *hints)).items():
            menu.setdefault(value_of(item, attribute), []).append(Query(attribute, description))
        if len(menu) >= 3:
            yield attribute, menu


def _relation(
    scene: Scene, generalization: Generalization, draw: Draw
) -> Iterator[tuple[str, Menu]]:
    for kind in draw.shuffled(("yes-no", "yes-no", "open")):
        if kind == "open":
            for attribute in draw.shuffled(tuple(_FAIR)):
                menu: Menu = {}
                for item, description in _references(scene, draw, (attribute,)).items():
                    for found, step in _steps(scene, item, description, attribute, draw):
                        menu.setdefault(value_of(found, attribute), []).append(
                            Query(attribute, step)
                        )
                if len(menu) >= 3:
                    yield attribute, menu
            continue
        refs = _references(scene, draw, ("cell",))
        pairs = [
            (refs[a], refs[b], r)
            for a, b, r in _pairs(scene, generalization)
            if {a, b} <= refs.keys()
        ]
        if pairs:
            yield (
                kind,
                _menu(
                    [Relate(r, a, b) for a, b, r in pairs],
                    [Relate(OPPOSITE[r], a, b) for a, b, r in pairs],
                ),
            )


def _two_hop(
    scene: Scene, generalization: Generalization, draw: Draw
) -> Iterator[tuple[str, Menu]]:
    for attribute in draw.shuffled(tuple(_FAIR)):
        menu: Menu = {}
        for item, description in _references(scene, draw, (attribute,)).items():
            for between, step in _steps(scene, item, description, attribute, draw):
                for found, last in _steps(scene, between, step, attribute, draw):
                    if found is not item:
                        menu.setdefault(value_of(found, attribute), []).append(
                            Query(attribute, last)
                        )
        if len(menu) >= 3:
            yield attribute, menu


# --- descriptions ------------------------------------------------------------------------------


def refer(
    scene: Scene, item: Object, draw: Draw, *, without: Sequence[Attribute] = ()
) -> Description | None:
    """A description that matches `item` only, or None where there is none.

    It names as few attributes as possible, and sometimes one more for variety; the cell is never
    combined with other attributes.

    Args:
        without: attributes that it must not name.
    """
    usable = [a for a in _NAMED if a not in without]
    for length in range(1, len(usable) + 1):
        unique = _unique(scene, item, usable, length)
        if length == 1 and "cell" not in without and draw.random() < 0.15:
            unique = _unique(scene, item, ("cell",), 1) or unique
        if unique:
            if length == 1 and len(usable) > 1 and draw.random() < 0.4:
                unique = _unique(scene, item, usable, 2) or unique
            return draw.choice(unique)
    return None


def _unique(
    scene: Scene, item: Object, usable: Sequence[Attribute], length: int
) -> list[Description]:
    candidates = [
        _like({a: getattr(item, a) for a in names}) for names in combinations(usable, length)
    ]
    return [d for d in candidates if len(d.matches(scene)) == 1]


def _references(
    scene: Scene, draw: Draw, without: Sequence[Attribute] = ()
) -> dict[Object, Description]:
    """Unique descriptions of the objects that have one."""
    references = {item: refer(scene, item, draw, without=without) for item in scene.objects}
    return {item: d for item, d in references.items() if d is not None}


def _steps(
    scene: Scene, item: Object, description: Description, asked: Attribute, draw: Draw
) -> Iterator[tuple[Object, Description]]:
    """Objects with a unique description by their relation to `item`, with that description.

    Where several are on one side, one more attribute distinguishes them, unless it makes the
    relation superfluous.
    """
    for relation, holds in RELATIONS.items():
        if not clear(item, scene.objects, relation):
            continue
        group = [o for o in scene.objects if holds(o, item)]
        bare = Description(relation=relation, anchor=description)
        if len(group) == 1:
            yield group[0], bare
            continue
        for other in group:
            distinguishing: list[Description] = []
            for attribute in _NAMED:
                value = getattr(other, attribute)
                if (
                    attribute != asked
                    and [getattr(o, attribute) for o in group].count(value) == 1
                    and [getattr(o, attribute) for o in scene.objects].count(value) > 1
                ):
                    distinguishing.append(
                        replace(_like({attribute: value}), relation=relation, anchor=description)
                    )
            if distinguishing:
                yield other, draw.choice(distinguishing)


def _like(values: dict[Attribute, Any]) -> Description:
    return Description(**values)


def _menu(yes: Sequence[Program], no: Sequence[Program]) -> Menu:
    """A menu of yes and no, empty where one of them is impossible."""
    return {"yes": [*yes], "no": [*no]} if yes and no else {}


def clear(item: Object, others: Sequence[Object], relation: str) -> bool:
    """Whether each of the others is at least `RELATION_GAP` to either side of `item`."""
    axis = "x" if relation in ("left_of", "right_of") else "y"
    return all(
        abs(getattr(o, axis) - getattr(item, axis)) >= RELATION_GAP for o in others if o is not item
    )


def _pairs(scene: Scene, generalization: Generalization) -> list[tuple[Object, Object, str]]:
    """(a, b, relation) for all relations that hold and whose opposite is equally likely.

    In training scenes with generalization `relation` some shapes occur above but never below each
    other, so that two shape names would determine the answer; test scenes include these pairs.
    """
    open_to_all = generalization != "relation" or has_held_out(scene, generalization)
    return [
        (a, b, name)
        for a, b in permutations(scene.objects, 2)
        for name, holds in RELATIONS.items()
        if holds(a, b)
        and (
            open_to_all
            or name in ("left_of", "right_of")
            or (SHAPES.index(a.shape) - SHAPES.index(b.shape)) % len(SHAPES) not in (3, 4, 6, 7)
        )
    ]


def _as_rare(description: Description, item: Object) -> bool:
    """Whether the named colour and shape are held out exactly when those of `item` are.

    Otherwise the answer about a held-out pair of `attribute-pair` would always be "no".
    """
    if description.colour is None or description.shape is None:
        return True
    named = replace(item, colour=description.colour, shape=description.shape)
    return held_out_pair(named) == held_out_pair(item)
