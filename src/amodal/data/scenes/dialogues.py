"""Dialogues about scenes in English; most questions contain a pronoun that the history resolves.

A dialogue has one object in focus at a time. A round introduces an object (is there one? how many?
what is in that corner?), asks about the one in focus, or moves on to its neighbour. Facts from
earlier rounds are not asked again, and an attribute is asked only where some objects of the scene
differ in it, so that the last question alone does not determine the answer. A round is a question
with its answer, as in VisDial.

References:
    Das et al. 2017, arXiv:1611.08669 (VisDial).
    Kottur et al. 2019, arXiv:1903.03166 (CLEVR-Dialog).
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
    Description,
    Exists,
    Program,
    Query,
    Relate,
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
_MEANINGS = CANDIDATES // 2  # every meaning occurs in two wordings

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
    """A question of a dialogue with its answer and candidate answers.

    Args:
        question: the wording.
        answer: the correct answer.
        candidates: `CANDIDATES` answers in random order, including the correct one.
        relevance: of each candidate, 1.0 where it has the meaning of the answer, else 0.0.
        history_dependent: the question depends on earlier rounds.
        program: meaning of the question with the pronouns resolved; None where it asks for a
            description.
        focus: index of the object that the next "it" refers to, or None.
    """

    question: str
    answer: str
    candidates: tuple[str, ...]
    relevance: tuple[float, ...]
    history_dependent: bool
    program: Program | None
    focus: int | None


def write_dialogue(scene: Scene, key: str, *, rounds: int = 6) -> list[Round]:
    """A dialogue of `rounds` rounds about a scene of two or more objects.

    Args:
        scene: to talk about.
        key: seed of the dialogue, together with the scene.
        rounds: number of question–answer pairs.

    Raises:
        ValueError: the scene has fewer than two objects, or `rounds` is less than 1.

    Examples:
        >>> from amodal.data.scenes.world import sample_scene
        >>> scene = sample_scene(0, "iid", "train", 0, min_objects=3)
        >>> dialogue = write_dialogue(scene, "a", rounds=5)
        >>> len(dialogue), len(dialogue[0].candidates)
        (5, 20)
    """
    if len(scene.objects) < 2:
        raise ValueError(f"a dialogue needs 2 or more objects, the scene has {len(scene.objects)}")
    if rounds < 1:
        raise ValueError(f"a dialogue needs 1 or more rounds, got {rounds}")
    writer = _DialogueWriter(scene, Draw(f"dialogue/{key}"))
    for _ in range(rounds):
        writer.add_round()
    return writer.rounds


@dataclass
class _Move:
    """A round before the wording of its answer, and the state after it."""

    question: str
    meaning: tuple[str, ...]  # one value, or two that describe an object
    history_dependent: bool
    program: Program | None
    focus: Object | None
    revealed: list[tuple[Object, Attribute]] = field(default_factory=list)
    other: tuple[Object, Attribute] | None = None  # "the other one", and the attribute asked
    pair: tuple[Object, Object] | None = None
    compared: set[Object] = field(default_factory=set)


class _DialogueWriter:
    """The dialogue so far, and the object that "it" refers to."""

    def __init__(self, scene: Scene, draw: Draw) -> None:
        self.scene, self.draw = scene, draw
        self.rounds: list[Round] = []
        self._focus: Object | None = None
        self._pair: tuple[Object, Object] | None = None  # the last count was two
        self._other: tuple[Object, Attribute] | None = None
        self._revealed: set[tuple[Object, Attribute]] = set()
        self._compared: list[set[Object]] = []  # pairs whose positions were compared
        self._visits = 0  # rounds about the object in focus
        # Of k objects with the same value about one is asked for it, so that the most common value
        # of the scene is no better a guess than the others.
        self._askable = {
            (item, a)
            for item in scene.objects
            for a in _VALUES
            if draw.random() * sum(value_of(o, a) == value_of(item, a) for o in scene.objects) < 1
        }

    def add_round(self) -> None:
        """Append a round."""
        move = self._choose()
        self._visits = self._visits + 1 if move.focus is self._focus else 0
        self._focus, self._pair, self._other = move.focus, move.pair, move.other
        self._revealed.update(move.revealed)
        self._compared.append(move.compared)
        text, candidates, relevance = self._options(move.meaning)
        number = None if move.focus is None else self.scene.objects.index(move.focus)
        self.rounds.append(
            Round(
                move.question,
                text,
                candidates,
                relevance,
                move.history_dependent,
                move.program,
                number,
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
            # After a few rounds about one object the focus moves to a neighbour.
            if onward and (not moves or self.draw.random() < 0.2 + 0.2 * self._visits):
                return self.draw.choice(onward)
            if moves:
                return self.draw.choice(moves)
        return self._introduction()

    # --- rounds without pronouns ---

    def _introduction(self) -> _Move:
        kinds = ["exists", "count", "place"]
        if self.rounds and self._focus is None:
            kinds.remove("exists")  # "no" twice in a row reveals little
        order = self.draw.shuffled(kinds)
        if self.draw.random() < 0.4:  # few scenes allow it, so it is tried first
            order = ["count", *order]
        for kind in order:
            move = {"exists": self._exists, "count": self._count, "place": self._place}[kind]()
            if move is not None:
                return move
        return self._plain_question()

    def _exists(self) -> _Move | None:
        attributes: tuple[Attribute, ...] = self.draw.choice(
            (("shape",), ("colour",), ("colour", "shape"))
        )
        menu = exists_menu(self.scene, attributes, self.draw)
        new = [
            p
            for p in menu.get("yes", [])
            if isinstance(p, Exists) and len(p.target.matches(self.scene)) == 1
        ]
        new = [p for p in new if self._is_new(p.target.unique(self.scene))]
        if not new:
            return None
        if self.draw.random() < 0.5:
            return self._ask(self.draw.choice(menu["no"]), None, [])
        program = self.draw.choice(new)
        item = program.target.unique(self.scene)
        return self._ask(program, item, [(item, a) for a in attributes])

    def _count(self) -> _Move | None:
        attributes: tuple[Attribute, ...] = ("shape", "colour", "texture")
        for attribute in self.draw.shuffled(attributes):
            menu = count_menu(self.scene, attribute, self.draw)
            if not menu:
                continue
            number = self.draw.choice(sorted(menu)[:3])
            program = self.draw.choice([p for p in menu[number] if isinstance(p, Count)])
            counted = program.target.matches(self.scene)
            if counted and not any(map(self._is_new, counted)):
                continue
            focus = counted[0] if len(counted) == 1 else None
            move = self._ask(program, focus, [(item, attribute) for item in counted])
            return replace(move, pair=(counted[0], counted[1])) if len(counted) == 2 else move
        return None

    def _place(self) -> _Move | None:
        item = self.draw.choice(self.scene.objects)
        cells = [o.cell for o in self.scene.objects]
        if not self._is_new(item) or cells.count(item.cell) > 1:
            return None
        where = self.draw.choice(english.CELLS[item.cell])
        forms = (f"what is {where}?", f"what can you see {where}?")
        meaning, revealed = self._describe(item)
        revealed = [(item, "cell"), *revealed]
        return _Move(self.draw.choice(forms), meaning, False, None, item, revealed)

    def _plain_question(self) -> _Move:
        """A question with a full description: about a new fact if any is left, else about any."""
        every = self.draw.shuffled([(o, a) for o in self.scene.objects for a in _VALUES])
        for item, attribute in sorted(every, key=lambda pair: pair in self._revealed):
            description = refer(self.scene, item, self.draw, without=(attribute, "size", "cell"))
            if description is not None:
                return self._ask(Query(attribute, description), item, [(item, attribute)])
        return self._ask(Count(Description(texture=self.draw.choice(TEXTURES))), None, [])

    def _ask(
        self, program: Program, focus: Object | None, revealed: list[tuple[Object, Attribute]]
    ) -> _Move:
        question = ask_in_english(program, self.draw)
        return _Move(question, (answer(program, self.scene),), False, program, focus, revealed)

    # --- rounds with a pronoun ---

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
            program = Count(Description(relation=relation, anchor=_exact(item)))
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
        description = refer(self.scene, other, self.draw, without=("cell",))
        if description is None or {item, other} in self._compared or self.draw.random() < 0.4:
            return
        for relation, holds in RELATIONS.items():
            if not holds(item, other):
                continue
            asked = relation if self.draw.random() < 0.5 else OPPOSITE[relation]
            program = Relate(asked, _exact(item), description)
            place = f"{english.RELATIONS[asked][0]} {definite(description, self.draw)}"
            forms = (f"is it {place}?", f"is that one {place}?", f"does it lie {place}?")
            yield _Move(
                self.draw.choice(forms),
                (answer(program, self.scene),),
                True,
                program,
                item,
                [(other, a) for a, value in description.attributes if value is not None],
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
            meaning, revealed = self._describe(group[0])
            move = _Move(self.draw.choice(forms), meaning, True, None, group[0], revealed)
            yield replace(move, compared={item, group[0]})

    def _one_of_two(self, first: Object, second: Object) -> _Move | None:
        for item, other in self.draw.shuffled(((first, second), (second, first))):
            differing = [a for a in _VALUES if value_of(item, a) != value_of(other, a)]
            distinguishing = [a for a in differing if a in ("colour", "size", "texture")]
            for by in self.draw.shuffled(distinguishing):
                askable = [
                    a
                    for a in differing
                    if a != by and self._worth_asking(item, a) and self._worth_asking(other, a)
                ]
                if not askable:
                    continue
                attribute = self.draw.choice(askable)
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

    # --- revealed facts and candidate answers ---

    def _is_new(self, item: Object) -> bool:
        return sum(self._differs(item, a) for a in _VALUES) >= 3

    def _differs(self, item: Object, attribute: Attribute) -> bool:
        values = {value_of(o, attribute) for o in self.scene.objects}
        return (item, attribute) not in self._revealed and len(values) > 1

    def _worth_asking(self, item: Object, attribute: Attribute) -> bool:
        return (item, attribute) in self._askable and self._differs(item, attribute)

    def _describe(self, item: Object) -> tuple[tuple[str, ...], list[tuple[Object, Attribute]]]:
        attribute: Attribute = self.draw.choice(("colour", "size", "texture"))
        return (value_of(item, attribute), item.shape), [(item, attribute), (item, "shape")]

    def _options(self, meaning: tuple[str, ...]) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
        """Wording of the answer, candidates and their relevance."""
        pool = self._descriptions(meaning) if len(meaning) == 2 else self._single(meaning[0])
        wordings = [(m, text) for m in pool for text in _two_wordings(m)]
        chosen = self.draw.choice([text for m, text in wordings if m == meaning])
        order = self.draw.shuffled(wordings)
        return (
            chosen,
            tuple(text for _, text in order),
            tuple(float(m == meaning) for m, _ in order),
        )

    def _single(self, true: str) -> list[tuple[str, ...]]:
        """Ten meanings: of the type of the correct one, those in the scene first, then others."""
        numbers = tuple(str(n) for n in range(MAX_OBJECTS + 1))
        groups: tuple[tuple[str, ...], ...] = (("yes", "no"), numbers, *_VALUES.values())
        same_type = next(group for group in groups if true in group)
        here = [value_of(o, a) for o in self.scene.objects for a in _VALUES]
        rest = self.draw.shuffled([v for v in ANSWERS if v not in same_type])
        order = [
            *self.draw.shuffled([v for v in same_type if v in here]),
            *self.draw.shuffled([v for v in same_type if v not in here]),
            *(v for v in rest if v in here),
            *(v for v in rest if v not in here),
        ]
        meanings: list[tuple[str, ...]] = [(v,) for v in dict.fromkeys([true, *order])]
        return meanings[:_MEANINGS]

    def _descriptions(self, meaning: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Ten descriptions: three values by three shapes and one more, so that none stands out."""
        value, shape = meaning
        attribute = next(a for a in _VALUES if value in _VALUES[a])

        def three(true: str, name: Attribute) -> list[str]:
            here = self.draw.shuffled([value_of(o, name) for o in self.scene.objects])
            return list(dict.fromkeys([true, *here, *self.draw.shuffled(_VALUES[name])]))[:3]

        values, shapes = three(value, attribute), three(shape, "shape")
        grid = [(v, s) for v in values for s in shapes]
        extra = self.draw.choice([s for s in SHAPES if s not in shapes])
        return [*grid, (self.draw.choice(values), extra)]


def _exact(item: Object) -> Description:
    """All attributes of an object, which match no other object of a scene."""
    return Description(item.colour, item.shape, item.size, item.texture, item.cell)


def _two_wordings(meaning: tuple[str, ...]) -> tuple[str, str]:
    """An answer as a phrase and as a sentence."""
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
