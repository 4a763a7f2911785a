"""Reads English captions of scenes back into claims, and claims and scenes into tuples.

Made for the sentences that `english` writes, and for those of a model that has learned from them:
what cannot be read is left out, and the rest is kept.
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
    """The claims of an English caption, as far as it can be read; None where it names no object.

    Mentions are in the order in which they are named. An object without colour is passed over,
    since no claim can be made of it, and so is a relation to it. Case, line breaks, punctuation
    and American spelling do not matter; a description that contradicts itself ("a red blue
    star") is taken by its last word. As every caption of this world, it claims to name all
    objects.
    """
    text = " ".join(text.lower().replace("center", "centre").replace("gray", "grey").split())
    text = re.sub(r"[][<>{}]", "", text)  # the marks that stand for what has been read
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
        cells.setdefault(int(found["who"] or found["who2"]), (row, column))

    segment_mask = [k for k, m in enumerate(named) if m is not None]
    number = {k: place for place, k in enumerate(segment_mask)}
    relations: list[tuple[int, str, int]] = []
    for found in _RELATED.finditer(text):
        who = int(found["who"] or found["who2"])
        other = int(found["other"]) if found["other"] else who - 1  # "it" was named last
        if who in number and other in number and other != who:
            relations.append((number[who], found["name"] or found["name2"], number[other]))
    mentions = tuple(replace(m, cell=cells.get(k)) for k, m in enumerate(named) if m is not None)
    return Claims(mentions, tuple(relations), True, background) if mentions else None


def tuples_of_claims(claims: Claims) -> list[Tuple]:
    """What is claimed, as tuples of words.

    (shape,) for each object; (shape, attribute) for its colour, size, texture and cell ("top
    left"); (shape, relation, shape); ("background", colour). Two stars give ("star",) twice.
    """
    tuples: list[Tuple] = []
    for m in claims.mentions:
        place = " ".join(m.cell) if m.cell is not None else None
        said = (m.colour, m.size, m.texture, place)
        tuples += [(m.shape,), *((m.shape, value) for value in said if value is not None)]
    shapes = [m.shape for m in claims.mentions]
    tuples += [(shapes[i], name, shapes[j]) for i, name, j in claims.relations]
    return tuples + ([("background", claims.background)] if claims.background else [])


def tuples_of_scene(scene: Scene) -> list[Tuple]:
    """All that holds in a scene, as `tuples_of_claims`: every cell and every relation too."""
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
    """What a caption with these claims would have said of `scene`, had it been right.

    A complete caption says of every object what it looks like, but where it is only once, by its
    cell or by a relation; all of `tuples_of_scene` is too much to ask of it. Here are colour,
    size and texture of every object; its cell, unless the caption places it by relations only;
    for each relation that is claimed the true one between the objects that are meant (the same,
    if it holds); and the background if it is claimed, or if there is one object only.

    Which object a mention means is settled by the assignment that agrees best with what is said
    of each alone. Of two objects that look alike and are placed by relations the wrong one may be
    taken, so that a true relation counts as false; in this world that is rare.

    Args:
        claims: None, of a caption that could not be read, claims nothing.
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
    meant = {int(i): int(j) for i, j in zip(rows, columns, strict=True)}

    relations: list[tuple[int, str, int]] = []
    for i, name, j in claims.relations:
        if i in meant and j in meant:
            a, b = objects[meant[i]], objects[meant[j]]
            true = name if RELATIONS[name](a, b) else main_relation(a, b)
            if RELATIONS[true](a, b):
                relations.append((meant[i], true, meant[j]))
    related = {k for i, _, j in relations for k in (i, j)}
    celled = {j for i, j in meant.items() if claims.mentions[i].cell is not None}
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
# Cells without "at the" and "in the", which a model may leave out or exchange.
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
    r"\[(?P<cell>[a-z,]+)\],? (?:there )?is <(?P<who>\d+)>"
    r"|<(?P<who2>\d+)> (?:is )?\[(?P<cell2>[a-z,]+)\]"
)
_RELATED = re.compile(
    r"\{(?P<name>\w+)\} it,? (?:there )?is <(?P<who>\d+)>"
    r"|<(?P<who2>\d+)> is \{(?P<name2>\w+)\} (?:it\b|<(?P<other>\d+)>)"
)
