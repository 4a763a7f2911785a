"""Dialogues about scenes, in English: most questions say "it", which only the history resolves.

A dialogue looks at one object at a time. A round introduces an object (is there one? how many?
what is in that corner?), asks about the one in focus, or moves on to its neighbour. What an
earlier round has told is not asked again, and an attribute is asked only where some objects of
the scene differ in it, so that a reader of the last question alone can only guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from amodal.data.scenes import english
from amodal.data.scenes.programs import (
    ANSWERS,
    CELLS,
    Attribute,
    Count,
    Exists,
    Program,
    Query,
    Relate,
    Things,
    answer,
    value_of,
)
from amodal.data.scenes.question_words import ask_in_english, definite
from amodal.data.scenes.questions import OPPOSITE, clear, count_menu, exists_menu, refer
from amodal.data.scenes.world import (
    COLOURS,
    MAX_OBJECTS,
    RADIUS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Draw,
    Object,
    Scene,
)

CANDIDATES = 20
_MEANINGS = CANDIDATES // 2  # every option occurs in two wordings

_VALUES: dict[Attribute, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(RADIUS),
    "texture": TEXTURES,
    "cell": tuple(CELLS.values()),
}
_PRONOUN_QUERIES: dict[Attribute, tuple[str, ...]] = {
    "colour": ("what colour is {it}?", "what is {its} colour?", "and {its} colour?"),
    "shape": ("what shape is {it}?", "what is {its} shape?"),
    "size": ("what size is {it}?", "how large is {it}?", "how big is {it}?"),
    "texture": (
        "what texture does {it} have?",
        "what is {its} texture?",
        "is {it} solid, striped or dotted?",
    ),
    "cell": ("where is {it}?", "in which part of the picture is {it}?"),
}


@dataclass(frozen=True, slots=True)
class Round:
    """A question of a dialogue, its answer, and other answers to choose it from.

    Args:
        candidates: `CANDIDATES` answers in random order, the true one among them.
        relevance: of each candidate, 1.0 where it means the same as the true answer, else 0.0.
        refers_back: the question cannot be understood without the rounds before it.
        program: what is asked, the history resolved; None where a description is asked for.
        focus: number of the object that the next "it" is, in the scene; None for none.
    """

    question: str
    answer: str
    candidates: tuple[str, ...]
    relevance: tuple[float, ...]
    refers_back: bool
    program: Program | None
    focus: int | None


def write_dialogue(scene: Scene, key: str, *, rounds: int = 6) -> list[Round]:
    """A dialogue of `rounds` rounds about a scene of two objects or more.

    Args:
        key: fixes the dialogue, together with the scene.

    Raises:
        ValueError: the scene has fewer than two objects, or `rounds` is less than 1.
    """
    if len(scene.objects) < 2:
        raise ValueError(f"a dialogue needs 2 objects or more, the scene has {len(scene.objects)}")
    if rounds < 1:
        raise ValueError(f"a dialogue needs 1 round or more, got {rounds}")
    teller = _Teller(scene, Draw(f"dialogue/{key}"))
    for _ in range(rounds):
        teller.speak()
    return teller.rounds


@dataclass
class _Move:
    """A round before its words for the answers: what it asks, and what is then known."""

    question: str
    meaning: tuple[str, ...]  # one value, or two that describe a thing
    refers_back: bool
    program: Program | None
    focus: Object | None
    told: list[tuple[Object, Attribute]] = field(default_factory=list)
    other: tuple[Object, Attribute] | None = None  # "the other one", and what was just asked
    pair: tuple[Object, Object] | None = None
    compared: set[Object] = field(default_factory=set)


class _Teller:
    """The dialogue so far, and who "it" is."""

    def __init__(self, scene: Scene, draw: Draw) -> None:
        self.scene, self.draw = scene, draw
        self.rounds: list[Round] = []
        self._focus: Object | None = None
        self._pair: tuple[Object, Object] | None = None  # two alike were just counted
        self._other: tuple[Object, Attribute] | None = None
        self._told: set[tuple[Object, Attribute]] = set()
        self._compared: list[set[Object]] = []  # whose places
        self._visits = 0  # rounds about the thing in focus
        # Of k things with the same value about one is asked for it, so that the commonest value
        # of the scene is no better a guess than the others.
        self._askable = {
            (item, a)
            for item in scene.objects
            for a in _VALUES
            if draw.random() * sum(value_of(o, a) == value_of(item, a) for o in scene.objects) < 1
        }

    def speak(self) -> None:
        """Adds a round."""
        move = self._choose()
        self._visits = self._visits + 1 if move.focus is self._focus else 0
        self._focus, self._pair, self._other = move.focus, move.pair, move.other
        self._told.update(move.told)
        self._compared.append(move.compared)
        text, candidates, relevance = self._options(move.meaning)
        number = None if move.focus is None else self.scene.objects.index(move.focus)
        self.rounds.append(
            Round(
                move.question, text, candidates, relevance, move.refers_back, move.program, number
            )
        )

    def _choose(self) -> _Move:
        if self._other is not None:
            return self._about_the_other(*self._other)
        if self._pair is not None and (move := self._one_of_two(*self._pair)) is not None:
            return move
        if self._focus is not None:
            item = self._focus
            moves = [*self._attributes(item), *self._checks(item), *self._beside(item)]
            moves += [*self._sides(item)]
            onward = [*self._steps(item)]
            # After a few rounds about one thing it is time for its neighbour.
            if onward and (not moves or self.draw.random() < 0.2 + 0.2 * self._visits):
                return self.draw.choice(onward)
            if moves:
                return self.draw.choice(moves)
        return self._introduction()

    # --- rounds that name what they speak of ---

    def _introduction(self) -> _Move:
        kinds = ["exists", "count", "place"]
        if self.rounds and self._focus is None:
            kinds.remove("exists")  # "no" twice in a row tells little
        order = self.draw.shuffled(kinds)
        if self.draw.random() < 0.4:  # most scenes do not allow it, so it is tried first
            order = ["count", *order]
        for kind in order:
            move = {"exists": self._exists, "count": self._count, "place": self._place}[kind]()
            if move is not None:
                return move
        return self._plain_question()

    def _exists(self) -> _Move | None:
        said: tuple[Attribute, ...] = self.draw.choice(
            (("shape",), ("colour",), ("colour", "shape"))
        )
        menu = exists_menu(self.scene, said, self.draw)
        fresh = [
            p
            for p in menu.get("yes", [])
            if isinstance(p, Exists) and len(p.things.among(self.scene)) == 1
        ]
        fresh = [p for p in fresh if self._is_new(p.things.only(self.scene))]
        if not fresh:
            return None
        if self.draw.random() < 0.5:
            return self._asked(self.draw.choice(menu["no"]), None, [])
        chosen = self.draw.choice(fresh)
        item = chosen.things.only(self.scene)
        return self._asked(chosen, item, [(item, a) for a in said])

    def _count(self) -> _Move | None:
        attributes: tuple[Attribute, ...] = ("shape", "colour", "texture")
        for attribute in self.draw.shuffled(attributes):
            menu = count_menu(self.scene, attribute, self.draw)
            if not menu:
                continue
            number = self.draw.choice(sorted(menu)[:3])
            program = self.draw.choice([p for p in menu[number] if isinstance(p, Count)])
            found = program.things.among(self.scene)
            if found and not any(map(self._is_new, found)):
                continue
            focus = found[0] if len(found) == 1 else None
            move = self._asked(program, focus, [(item, attribute) for item in found])
            return replace(move, pair=(found[0], found[1])) if len(found) == 2 else move
        return None

    def _place(self) -> _Move | None:
        item = self.draw.choice(self.scene.objects)
        places = [o.cell for o in self.scene.objects]
        if not self._is_new(item) or places.count(item.cell) > 1:
            return None
        where = self.draw.choice(english.CELLS[item.cell])
        forms = (f"what is {where}?", f"what can you see {where}?")
        meaning, told = self._described(item)
        return _Move(self.draw.choice(forms), meaning, False, None, item, [(item, "cell"), *told])

    def _plain_question(self) -> _Move:
        """For when little is left to ask: what was not told yet, else anything, in full."""
        every = self.draw.shuffled([(o, a) for o in self.scene.objects for a in _VALUES])
        for item, attribute in sorted(every, key=lambda pair: pair in self._told):
            things = refer(self.scene, item, self.draw, without=(attribute, "size", "cell"))
            if things is not None:
                return self._asked(Query(attribute, things), item, [(item, attribute)])
        return self._asked(Count(Things(texture=self.draw.choice(TEXTURES))), None, [])

    def _asked(
        self, program: Program, focus: Object | None, told: list[tuple[Object, Attribute]]
    ) -> _Move:
        question = ask_in_english(program, self.draw)
        return _Move(question, (answer(program, self.scene),), False, program, focus, told)

    # --- rounds that speak of "it" ---

    def _attributes(self, item: Object) -> Iterator[_Move]:
        for attribute in _VALUES:
            if not self._worth_asking(item, attribute):
                continue
            form = self.draw.choice(_PRONOUN_QUERIES[attribute])
            it, its = self.draw.choice((("it", "its"), ("it", "its"), ("that one", "its")))
            program = Query(attribute, _exact(item))
            yield _Move(
                form.format(it=it, its=its),
                (value_of(item, attribute),),
                True,
                program,
                item,
                [(item, attribute)],
            )

    def _checks(self, item: Object) -> Iterator[_Move]:
        for attribute in ("colour", "size", "texture"):
            if not self._worth_asking(item, attribute):
                continue
            true = value_of(item, attribute)
            others = dict.fromkeys(value_of(o, attribute) for o in self.scene.objects)
            asked = true
            if self.draw.random() < 0.5:
                asked = self.draw.choice([v for v in others if v != true])
            word = asked
            if attribute == "size":
                word = self.draw.choice(english.SIZES[asked])
            elif attribute == "texture":
                word = self.draw.choice(english.TEXTURES[asked])
            forms = (f"is it {word}?", f"is that one {word}?", f"would you call it {word}?")
            changed: dict[str, Any] = {attribute: asked}
            yield _Move(
                self.draw.choice(forms),
                ("yes" if asked == true else "no",),
                True,
                Exists(replace(_exact(item), **changed)),
                item,
                [(item, attribute)],
            )

    def _beside(self, item: Object) -> Iterator[_Move]:
        if isinstance(self.rounds[-1].program, Count):
            return
        for relation in RELATIONS:
            program = Count(Things(relation=relation, anchor=_exact(item)))
            if len(self.scene.objects) < 3 or not clear(item, self.scene.objects, relation):
                continue
            if any(r.program == program for r in self.rounds) or self.draw.random() < 0.7:
                continue
            link = english.RELATIONS[relation][0]
            forms = (f"how many things are {link} it?", f"how many objects can you see {link} it?")
            number = answer(program, self.scene)
            yield _Move(self.draw.choice(forms), (number,), True, program, item)

    def _sides(self, item: Object) -> Iterator[_Move]:
        other = self.draw.choice([o for o in self.scene.objects if o is not item])
        things = refer(self.scene, other, self.draw, without=("cell",))
        if things is None or {item, other} in self._compared or self.draw.random() < 0.4:
            return
        for relation, holds in RELATIONS.items():
            if not holds(item, other):
                continue
            asked = relation if self.draw.random() < 0.5 else OPPOSITE[relation]
            program = Relate(asked, _exact(item), things)
            place = f"{english.RELATIONS[asked][0]} {definite(things, self.draw)}"
            forms = (f"is it {place}?", f"is that one {place}?", f"does it lie {place}?")
            yield _Move(
                self.draw.choice(forms),
                (answer(program, self.scene),),
                True,
                program,
                item,
                [(other, a) for a, said in things.says if said is not None],
                compared={item, other},
            )
            return

    def _steps(self, item: Object) -> Iterator[_Move]:
        for relation, holds in RELATIONS.items():
            group = [o for o in self.scene.objects if holds(o, item)]
            if len(group) != 1 or not clear(item, self.scene.objects, relation):
                continue
            if not self._is_new(group[0]):
                continue
            link = english.RELATIONS[relation][0]
            forms = (
                f"what is {link} it?",
                f"and what is {link} it?",
                f"what do you see {link} it?",
            )
            meaning, told = self._described(group[0])
            move = _Move(self.draw.choice(forms), meaning, True, None, group[0], told)
            yield replace(move, compared={item, group[0]})

    def _one_of_two(self, first: Object, second: Object) -> _Move | None:
        for item, other in self.draw.shuffled(((first, second), (second, first))):
            differing = [a for a in _VALUES if value_of(item, a) != value_of(other, a)]
            telling = [a for a in differing if a in ("colour", "size", "texture")]
            for by in self.draw.shuffled(telling):
                asked = [
                    a
                    for a in differing
                    if a != by and self._worth_asking(item, a) and self._worth_asking(other, a)
                ]
                if not asked:
                    continue
                attribute = self.draw.choice(asked)
                word = value_of(item, by)
                if by == "size":
                    word = self.draw.choice(english.SIZES[word])
                elif by == "texture":
                    word = self.draw.choice(english.TEXTURES[word])
                form = _PRONOUN_QUERIES[attribute][0]
                program = Query(attribute, _exact(item))
                return _Move(
                    form.format(it=f"the {word} one"),
                    (value_of(item, attribute),),
                    True,
                    program,
                    item,
                    [(item, by), (item, attribute)],
                    other=(other, attribute),
                )
        return None

    def _about_the_other(self, item: Object, attribute: Attribute) -> _Move:
        forms = ("and the other one?", _PRONOUN_QUERIES[attribute][0].format(it="the other one"))
        return _Move(
            self.draw.choice(forms),
            (value_of(item, attribute),),
            True,
            Query(attribute, _exact(item)),
            item,
            [(item, attribute)],
        )

    # --- what is known, and how it is answered ---

    def _is_new(self, item: Object) -> bool:
        return sum(self._differs(item, a) for a in _VALUES) >= 3

    def _differs(self, item: Object, attribute: Attribute) -> bool:
        values = {value_of(o, attribute) for o in self.scene.objects}
        return (item, attribute) not in self._told and len(values) > 1

    def _worth_asking(self, item: Object, attribute: Attribute) -> bool:
        return (item, attribute) in self._askable and self._differs(item, attribute)

    def _described(self, item: Object) -> tuple[tuple[str, ...], list[tuple[Object, Attribute]]]:
        attribute: Attribute = self.draw.choice(("colour", "size", "texture"))
        return (value_of(item, attribute), item.shape), [(item, attribute), (item, "shape")]

    def _options(self, meaning: tuple[str, ...]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        """The answer in words, the candidates and their relevance."""
        pool = self._descriptions(meaning) if len(meaning) == 2 else self._single(meaning[0])
        wordings = [(m, text) for m in pool for text in _two_wordings(m)]
        generated = self.draw.choice([text for m, text in wordings if m == meaning])
        order = self.draw.shuffled(wordings)
        return (
            generated,
            tuple(text for _, text in order),
            tuple(float(m == meaning) for m, _ in order),
        )

    def _single(self, true: str) -> list[tuple[str, ...]]:
        """Ten meanings: what is like the true one, first as the scene shows it, then the rest."""
        numbers = tuple(str(n) for n in range(MAX_OBJECTS + 1))
        groups: tuple[tuple[str, ...], ...] = (("yes", "no"), numbers, *_VALUES.values())
        alike = next(group for group in groups if true in group)
        here = [value_of(o, a) for o in self.scene.objects for a in _VALUES]
        rest = self.draw.shuffled([v for v in ANSWERS if v not in alike])
        order = [
            *self.draw.shuffled([v for v in alike if v in here]),
            *self.draw.shuffled([v for v in alike if v not in here]),
            *(v for v in rest if v in here),
            *(v for v in rest if v not in here),
        ]
        found: list[tuple[str, ...]] = [(v,) for v in dict.fromkeys([true, *order])]
        return found[:_MEANINGS]

    def _descriptions(self, meaning: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Ten things: three values by three shapes, so that none is most like the others."""
        value, shape = meaning
        attribute = next(a for a in _VALUES if value in _VALUES[a])

        def three(true: str, name: Attribute) -> list[str]:
            here = self.draw.shuffled([value_of(o, name) for o in self.scene.objects])
            return list(dict.fromkeys([true, *here, *self.draw.shuffled(_VALUES[name])]))[:3]

        values, shapes = three(value, attribute), three(shape, "shape")
        grid = [(v, s) for v in values for s in shapes]
        extra = self.draw.choice([s for s in SHAPES if s not in shapes])
        return [*grid, (self.draw.choice(values), extra)]


def _exact(item: Object) -> Things:
    """A description that fits no other object, whatever the scene."""
    return Things(item.colour, item.shape, item.size, item.texture, item.cell)


def _two_wordings(meaning: tuple[str, ...]) -> tuple[str, str]:
    """The same answer, short and in a sentence."""
    if len(meaning) == 2:
        value, shape = meaning
        words = f"{'an' if value[0] in 'aeiou' else 'a'} {value} {shape}"
        return words, f"it is {words}"
    (value,) = meaning
    if value in ("yes", "no"):
        return value, {"yes": "yes, that is so", "no": "no, it is not so"}[value]
    if value.isdigit():
        number = english.NUMBERS[int(value)] if value != "0" else "none"
        return value, f"there {'is' if value == '1' else 'are'} {number}"
    if value in SHAPES:
        return value, f"it is a {value}"
    for cell, name in CELLS.items():
        if name == value:
            return value, english.CELLS[cell][0]
    return value, f"it is {value}"
