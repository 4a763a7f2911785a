"""Parser of English captions of scenes into claims, and conversion of claims and scenes to tuples.

For captions written by `english` and by models trained on them: parts that cannot be parsed are
skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from amodal.data.scenes import english
from amodal.data.scenes.claims import Claims, Mention
from amodal.data.scenes.world import COLOURS, RELATIONS, Scene, main_relation

T = TypeVar("T")
Tuple = tuple[str, ...]


def read_caption(text: str) -> Claims | None:
    """The claims of an English caption as far as it can be parsed; None where it names no object.

    Mentions are in the order of the text. Objects without a colour are skipped, and so are
    relations to them. Case, line breaks, punctuation and American spelling are ignored; of
    contradictory adjectives ("a red blue star") the last one counts. The claims are complete: the
    caption is taken to name all objects.

    Examples:
        >>> read_caption("A large red star is left of a ring.").mentions
        (Mention(shape='star', colour='red', size='large', texture=None, cell=None),)
    """
    text = " ".join(text.lower().replace("center", "centre").replace("gray", "grey").split())
    text = re.sub(r"[][<>{}]", "", text)  # characters that mark parsed parts below
    text = re.sub(r" ([,.:])", r"\1", text).replace(" - ", "-")
    background = None
    ground = _BACKGROUND.search(text)
    if ground:
        background = _GROUNDS[ground[1]]
        text = text.replace(ground[0], "")
    named: list[Mention | None] = []  # None: without colour

    def mention(found: re.Match[str]) -> str:
        words = {
            kind: table[word]
            for word in re.findall(rf"\b(?:{_ADJECTIVE})\b", found[1])
            for kind, table in _KINDS
            if word in table
        }
        if found[3]:
            words["texture"] = _TAILS[found[3]]
        colour, size, texture = (words.get(kind) for kind, _ in _KINDS)
        named.append(Mention(_SHAPES[found[2]], colour, size, texture) if colour else None)
        return f"<{len(named) - 1}>"

    text = _OBJECT.sub(mention, text)
    text = _CELL.sub(lambda found: "[" + ",".join(_CELLS[found[1]]) + "]", text)
    text = _RELATION.sub(lambda found: "{" + _RELATIONS[found[1]] + "}", text)
    cells: dict[int, tuple[str, str]] = {}
    for found in _PLACED.finditer(text):
        row, column = (found["cell"] or found["cell2"]).split(",")
        cells.setdefault(int(found["subject"] or found["subject2"]), (row, column))

    complete = [k for k, m in enumerate(named) if m is not None]
    number = {k: index for index, k in enumerate(complete)}
    relations: list[tuple[int, str, int]] = []
    for found in _RELATED.finditer(text):
        subject = int(found["subject"] or found["subject2"])
        other = int(found["other"]) if found["other"] else subject - 1  # "it": the previous one
        if subject in number and other in number and other != subject:
            relations.append((number[subject], found["name"] or found["name2"], number[other]))
    mentions = tuple(replace(m, cell=cells.get(k)) for k, m in enumerate(named) if m is not None)
    return Claims(mentions, tuple(relations), True, background) if mentions else None


def tuples_of_claims(claims: Claims) -> list[Tuple]:
    """The claims as scene-graph tuples.

    (shape,) for each object; (shape, attribute) for its colour, size, texture and cell ("top
    left"); (shape, relation, shape); ("background", colour). Two stars give ("star",) twice.

    Examples:
        >>> tuples_of_claims(Claims((Mention("star", "red"),)))
        [('star',), ('star', 'red')]
    """
    tuples: list[Tuple] = []
    for m in claims.mentions:
        cell = " ".join(m.cell) if m.cell is not None else None
        values = (m.colour, m.size, m.texture, cell)
        tuples += [(m.shape,), *((m.shape, value) for value in values if value is not None)]
    shapes = [m.shape for m in claims.mentions]
    tuples += [(shapes[i], name, shapes[j]) for i, name, j in claims.relations]
    return tuples + ([("background", claims.background)] if claims.background else [])


def tuples_of_scene(scene: Scene) -> list[Tuple]:
    """All true tuples of a scene, with every cell and every relation; see `tuples_of_claims`."""
    objects = scene.objects
    relations = [
        (i, name, j)
        for i, a in enumerate(objects)
        for j, b in enumerate(objects)
        for name, holds in RELATIONS.items()
        if holds(a, b)
    ]
    mentions = tuple(Mention(o.shape, o.colour, o.size, o.texture, o.cell) for o in objects)
    return tuples_of_claims(Claims(mentions, tuple(relations), True, scene.background))


def tuples_expected(scene: Scene, claims: Claims | None) -> list[Tuple]:
    """Reference tuples of a scene for a caption with these claims.

    A complete caption states all attributes of every object but its position only once, by cell or
    by relation, so that `tuples_of_scene` is too strict a reference. These are colour, size and
    texture of every object; its cell, unless the caption locates it by relations only; for each
    claimed relation the true one between the same objects (identical if it holds); and the
    background if it is claimed or there is only one object.

    Mentions are assigned to objects by the best agreement of their attributes. Of two identical
    objects located by relations the wrong one may be assigned, so that a true relation counts as
    false; in this world that is rare.

    Args:
        scene: described by the caption.
        claims: None, of a caption that could not be parsed, counts as no claims.
    """
    claims = claims or Claims(())
    objects = scene.objects
    agreement = np.zeros((len(claims.mentions), len(objects)))
    for i, m in enumerate(claims.mentions):
        for j, o in enumerate(objects):
            same = [m.shape == o.shape, m.colour == o.colour, m.cell == o.cell]
            same += [m.size == o.size, m.texture == o.texture]
            agreement[i, j] = np.dot(same, (8, 4, 2, 1, 1))
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    assigned = {int(i): int(j) for i, j in zip(rows, columns, strict=True)}

    relations: list[tuple[int, str, int]] = []
    for i, name, j in claims.relations:
        if i in assigned and j in assigned:
            a, b = objects[assigned[i]], objects[assigned[j]]
            true = name if RELATIONS[name](a, b) else main_relation(a, b)
            if RELATIONS[true](a, b):
                relations.append((assigned[i], true, assigned[j]))
    related = {k for i, _, j in relations for k in (i, j)}
    celled = {j for i, j in assigned.items() if claims.mentions[i].cell is not None}
    mentions = tuple(
        Mention(
            o.shape,
            o.colour,
            o.size,
            o.texture,
            o.cell if k in celled or k not in related else None,
        )
        for k, o in enumerate(objects)
    )
    named = claims.background is not None or len(objects) == 1
    background = scene.background if named else None
    return tuples_of_claims(Claims(mentions, tuple(relations), True, background))


def _inverse(table: Mapping[T, str | Sequence[str]]) -> dict[str, T]:
    return {
        word: key
        for key, words in table.items()
        for word in ((words,) if isinstance(words, str) else words)
    }


def _any(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_SHAPES = _inverse(english.SHAPES)
_TAILS = _inverse(english.WITH_TEXTURE)
_GROUNDS = _inverse(english.BACKGROUNDS)
_RELATIONS = _inverse(english.RELATIONS)
# Cells without "at the" and "in the", which a model may omit or swap.
_CELLS = {words.split(" ", 2)[2]: cell for words, cell in _inverse(english.CELLS).items()}
_KINDS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("colour", {name: name for name in COLOURS}),
    ("size", _inverse(english.SIZES)),
    ("texture", _inverse(english.TEXTURES)),
)
_ADJECTIVE = _any(word for _, table in _KINDS for word in table)
_OBJECT = re.compile(
    rf"(?:\b(?:an?|the|another|one) )?((?:\b(?:{_ADJECTIVE}),? )*)\b({_any(_SHAPES)})\b"
    rf"(?: ({_any(_TAILS)})\b)?"
)
_BACKGROUND = re.compile(rf",? ?\bon (?:an? |the )?({_any(_GROUNDS)}) background\b")
_CELL = re.compile(rf"\b(?:(?:at|in|on) )?(?:the )?\b({_any(_CELLS)})\b(?! of\b)")
_RELATION = re.compile(rf"\b({_any(_RELATIONS)})\b")
_PLACED = re.compile(
    r"\[(?P<cell>[a-z,]+)\],? (?:there )?is <(?P<subject>\d+)>"
    r"|<(?P<subject2>\d+)> (?:is )?\[(?P<cell2>[a-z,]+)\]"
)
_RELATED = re.compile(
    r"\{(?P<name>\w+)\} it,? (?:there )?is <(?P<subject>\d+)>"
    r"|<(?P<subject2>\d+)> is \{(?P<name2>\w+)\} (?:it\b|<(?P<other>\d+)>)"
)
