"""Questions about scenes with true answers that neither the words nor the image give alone.

A question is drawn from a menu: every answer that this type of question can have in this scene,
each with the programs that have it. The answer is drawn first, all being equally likely, then one
of its programs. What makes a type of question fair:

- yes and no are both on the menu, and their programs come in pairs that differ in a value or in
  a direction that the world treats alike (colours, shapes, textures, sides; not sizes or cells,
  which are not equally frequent). So neither the scene nor the wording tells which one it is.
- counts are on the menu from 0 up to some number of at least 2 without gaps, so that no scene
  makes a higher count likelier than 0.
- sizes and textures are asked where all three can be the answer; colours, shapes and cells where
  at least three can. There the image alone leaves a choice among those that it shows.
- what is asked for is named nowhere in the question.
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
    Count,
    Exists,
    Outsize,
    Program,
    Query,
    Relate,
    Things,
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
    Object,
    Scene,
    Split,
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

# Attributes whose values the world draws with equal probability, independently of all else.
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
        text: its wording.
        answer: the true answer in the language of the question; in English one of `ANSWERS`.
        family: one of `FAMILIES`.
        type: the family and what is asked for, such as "attribute/colour".
        program: what is asked, apart from the words.
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
    split: Split = "iid",
) -> list[Question]:
    """`count` questions about `scene`; languages take turns.

    Families are equally frequent among those that the scene allows: a scene of one object allows
    few. A question is asked twice only where the scene has no other.

    Args:
        key: fixes the questions, together with the scene.
        split: the split that the scene was drawn for, see `world.has_held_out`.
    """
    draw = Draw(f"questions/{key}")
    questions: list[Question] = []
    asked: set[Program] = set()
    for k in range(count):
        family, kind, menu = _draw_menu(scene, split, draw)
        # Sorted, because the order in which a menu was filled depends on the scene.
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


def _draw_menu(scene: Scene, split: Split, draw: Draw) -> tuple[Family, str, Menu]:
    builders: dict[Family, Callable[[Scene, Split, Draw], Iterator[tuple[str, Menu]]]] = {
        "exists": _exists,
        "count": _count,
        "compare": _compare,
        "attribute": _attribute,
        "relation": _relation,
        "two_hop": _two_hop,
    }
    for family in draw.shuffled(FAMILIES):
        for kind, menu in builders[family](scene, split, draw):
            return family, f"{family}/{kind}", menu
    raise ValueError(f"no question can be asked about a scene of {len(scene.objects)} objects")


# --- families ----------------------------------------------------------------------------------
# Each yields fair menus in random order.


def _exists(scene: Scene, split: Split, draw: Draw) -> Iterator[tuple[str, Menu]]:
    for kind in draw.shuffled(("thing", "thing", "relation")):
        if kind == "relation":
            yes: list[Program] = []
            no: list[Program] = []
            refs = _references(scene, draw)
            for a, b, relation in _pairs(scene, split):
                if b not in refs:
                    continue
                attribute = draw.choice(tuple(_FAIR))
                there = replace(
                    _like({attribute: getattr(a, attribute)}), relation=relation, anchor=refs[b]
                )
                turned = replace(there, relation=OPPOSITE[relation])
                like_a = [
                    o for o in scene.objects if getattr(o, attribute) == getattr(a, attribute)
                ]
                if not turned.among(scene) and clear(b, like_a, relation):
                    yes.append(Exists(there))
                    no.append(Exists(turned))
            if yes:
                yield kind, _menu(yes, no)
            continue
        for said in draw.shuffled(_EXISTS):
            menu = exists_menu(scene, said, draw)
            if menu:
                yield kind, menu


def exists_menu(scene: Scene, said: Sequence[Attribute], draw: Draw) -> Menu:
    """Whether there is a thing with certain values of the attributes `said`.

    Where it can be done, the values of a thing that is not there are all in the scene.
    """
    yes: list[Program] = []
    no: list[Program] = []
    for item in scene.objects:
        values = {a: getattr(item, a) for a in said}
        for attribute in said:
            if attribute not in _FAIR:
                continue
            absent = [
                things
                for value in _FAIR[attribute]
                for things in [_like({**values, attribute: value})]
                if not things.among(scene) and _as_rare(things, item)
            ]
            here = {getattr(o, attribute) for o in scene.objects}
            near = [things for things in absent if getattr(things, attribute) in here]
            if absent:
                yes.append(Exists(_like(values)))
                no.append(Exists(draw.choice(near or absent)))
    return _menu(yes, no)


def _count(scene: Scene, split: Split, draw: Draw) -> Iterator[tuple[str, Menu]]:
    for what in draw.shuffled((*_FAIR, *RELATIONS)):
        menu = count_menu(scene, what, draw)
        if menu:
            yield ("relation" if what in RELATIONS else "thing"), menu


def count_menu(scene: Scene, what: str, draw: Draw) -> Menu:
    """How many things have a value of the attribute `what`, or stand in that relation to one.

    Empty where the numbers from 0 to 2 are not all possible.
    """
    asked: list[Things] = []
    if what in RELATIONS:
        # A large thing is rarely at the rim, so its size would hint at what lies beyond it.
        for item, things in _references(scene, draw, ("size", "cell")).items():
            if clear(item, scene.objects, what):
                asked.append(Things(relation=what, anchor=things))
    else:
        for attribute, values in _FAIR.items():
            if attribute == what:
                asked += [_like({attribute: value}) for value in values]
    menu: Menu = {}
    for things in asked:
        program = Count(things)
        menu.setdefault(answer(program, scene), []).append(program)
    gapless: Menu = {}
    while str(len(gapless)) in menu:
        gapless[str(len(gapless))] = menu[str(len(gapless))]
    return gapless if len(gapless) >= 3 else {}


def _compare(scene: Scene, split: Split, draw: Draw) -> Iterator[tuple[str, Menu]]:
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
        [Outsize(how, a, b) for a, b in pairs],
        [Outsize(how, b, a) for a, b in pairs],
    )


def _compare_counts(scene: Scene, attribute: Attribute, equal: bool, draw: Draw) -> Menu:
    tally = Counter(getattr(o, attribute) for o in scene.objects)
    things = {value: _like({attribute: value}) for value in _FAIR[attribute]}
    uneven = [(u, v) for u, v in permutations(things, 2) if tally[u] > tally[v]]
    # Where both kinds are there, one has to count.
    uneven = [(u, v) for u, v in uneven if tally[v]] or uneven
    turned = [(v, u) for u, v in uneven]
    if equal:
        even = [(u, v) for u, v in permutations(things, 2) if tally[u] == tally[v] > 0]
        return _menu(
            [Compare("equal", things[u], things[v]) for u, v in even],
            [Compare("equal", things[u], things[v]) for u, v in uneven + turned],
        )
    how: Literal["more", "fewer"] = draw.choice(("more", "fewer"))
    if how == "fewer":
        uneven, turned = turned, uneven
    return _menu(
        [Compare(how, things[u], things[v]) for u, v in uneven],
        [Compare(how, things[u], things[v]) for u, v in turned],
    )


def _attribute(scene: Scene, split: Split, draw: Draw) -> Iterator[tuple[str, Menu]]:
    attributes: tuple[Attribute, ...] = ("colour", "shape", "size", "texture", "cell")
    for attribute in draw.shuffled(attributes):
        # Large things lie near the middle, so a place hints at a size and the other way round.
        hints: tuple[Attribute, ...] = ("size", "cell") if attribute in ("size", "cell") else ()
        menu: Menu = {}
        for item, things in _references(scene, draw, (attribute, *hints)).items():
            menu.setdefault(value_of(item, attribute), []).append(Query(attribute, things))
        if len(menu) >= 3:
            yield attribute, menu


def _relation(scene: Scene, split: Split, draw: Draw) -> Iterator[tuple[str, Menu]]:
    for kind in draw.shuffled(("yes-no", "yes-no", "open")):
        if kind == "open":
            for attribute in draw.shuffled(tuple(_FAIR)):
                menu: Menu = {}
                for item, things in _references(scene, draw, (attribute,)).items():
                    for found, step in _steps(scene, item, things, attribute, draw):
                        menu.setdefault(value_of(found, attribute), []).append(
                            Query(attribute, step)
                        )
                if len(menu) >= 3:
                    yield attribute, menu
            continue
        refs = _references(scene, draw, ("cell",))
        pairs = [(refs[a], refs[b], r) for a, b, r in _pairs(scene, split) if {a, b} <= refs.keys()]
        if pairs:
            yield (
                kind,
                _menu(
                    [Relate(r, a, b) for a, b, r in pairs],
                    [Relate(OPPOSITE[r], a, b) for a, b, r in pairs],
                ),
            )


def _two_hop(scene: Scene, split: Split, draw: Draw) -> Iterator[tuple[str, Menu]]:
    for attribute in draw.shuffled(tuple(_FAIR)):
        menu: Menu = {}
        for item, things in _references(scene, draw, (attribute,)).items():
            for between, step in _steps(scene, item, things, attribute, draw):
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
) -> Things | None:
    """A description that fits `item` only, or None where there is none.

    It names as few attributes as it can, and sometimes one more for variety; the cell it names
    only by itself.

    Args:
        without: attributes that it must not name.
    """
    usable = [a for a in _NAMED if a not in without]
    for length in range(1, len(usable) + 1):
        fitting = _fitting(scene, item, usable, length)
        if length == 1 and "cell" not in without and draw.random() < 0.15:
            fitting = _fitting(scene, item, ("cell",), 1) or fitting
        if fitting:
            if length == 1 and len(usable) > 1 and draw.random() < 0.4:
                fitting = _fitting(scene, item, usable, 2) or fitting
            return draw.choice(fitting)
    return None


def _fitting(scene: Scene, item: Object, usable: Sequence[Attribute], length: int) -> list[Things]:
    described = [
        _like({a: getattr(item, a) for a in said}) for said in combinations(usable, length)
    ]
    return [things for things in described if len(things.among(scene)) == 1]


def _references(
    scene: Scene, draw: Draw, without: Sequence[Attribute] = ()
) -> dict[Object, Things]:
    """`refer` for every object that can be referred to."""
    found = {item: refer(scene, item, draw, without=without) for item in scene.objects}
    return {item: things for item, things in found.items() if things is not None}


def _steps(
    scene: Scene, item: Object, things: Things, asked: Attribute, draw: Draw
) -> Iterator[tuple[Object, Things]]:
    """Objects that can be described by their relation to `item`, with the descriptions.

    Where several lie on one side, one more attribute tells them apart, provided that it does not
    make the relation superfluous.
    """
    for relation, holds in RELATIONS.items():
        if not clear(item, scene.objects, relation):
            continue
        group = [o for o in scene.objects if holds(o, item)]
        bare = Things(relation=relation, anchor=things)
        if len(group) == 1:
            yield group[0], bare
            continue
        for found in group:
            telling: list[Things] = []
            for attribute in _NAMED:
                value = getattr(found, attribute)
                if (
                    attribute != asked
                    and [getattr(o, attribute) for o in group].count(value) == 1
                    and [getattr(o, attribute) for o in scene.objects].count(value) > 1
                ):
                    telling.append(
                        replace(_like({attribute: value}), relation=relation, anchor=things)
                    )
            if telling:
                yield found, draw.choice(telling)


def _like(values: dict[Attribute, Any]) -> Things:
    return Things(**values)


def _menu(yes: Sequence[Program], no: Sequence[Program]) -> Menu:
    """A menu of yes and no, or an empty one where one of them is impossible."""
    return {"yes": [*yes], "no": [*no]} if yes and no else {}


def clear(item: Object, others: Sequence[Object], relation: str) -> bool:
    """Whether every one of the others is clearly on one or the other side of `item`."""
    axis = "x" if relation in ("left_of", "right_of") else "y"
    return all(
        abs(getattr(o, axis) - getattr(item, axis)) >= RELATION_GAP for o in others if o is not item
    )


def _pairs(scene: Scene, split: Split) -> list[tuple[Object, Object, str]]:
    """(a, b, relation) for all that holds, where its opposite could hold just as well.

    The split `relation` shows some shapes above but never below each other, so that there the
    names of two shapes would answer; its test scenes are asked about these too.
    """
    open_to_all = split != "relation" or has_held_out(scene, split)
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


def _as_rare(things: Things, item: Object) -> bool:
    """Whether the named colour and shape are held out exactly when those of `item` are.

    In the split `attribute-pair` a pair that training never shows would otherwise always be
    asked about in vain.
    """
    if things.colour is None or things.shape is None:
        return True
    named = replace(item, colour=things.colour, shape=things.shape)
    return held_out_pair(named) == held_out_pair(item)
