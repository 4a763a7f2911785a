"""Captions of scenes in English and Chinese, with the claims that they make.

A caption is planned (order of the objects; attributes, cells and relations to name) and then
realised as text. The plan is returned as `claims`, so that a caption can be checked against any
scene without parsing its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from amodal.data.scenes import chinese, english
from amodal.data.scenes.claims import Claims, Mention
from amodal.data.scenes.world import RELATIONS, Draw, Scene, main_relation

Language = Literal["en", "zh"]
CaptionStyle = Literal["complete", "brief", "mixed"]


@dataclass(frozen=True, slots=True)
class Caption:
    """The text of a caption and its claims about the scene."""

    text: str
    language: Language
    claims: Claims


def write_captions(
    scene: Scene,
    key: str,
    *,
    count: int = 5,
    languages: Sequence[Language] = ("en",),
    style: CaptionStyle = "complete",
) -> list[Caption]:
    """`count` captions that are true of `scene`, all different where the grammar allows it.

    Complete captions name colour, shape, size, texture and either the cell or the relation to
    another object, for every object. Brief ones name colour and shape of every object and at
    most one relation. The languages alternate.

    Args:
        scene: to describe.
        key: seed of the wording, together with the scene.
        count: number of captions.
        languages: "en", "zh" or both.
        style: complete, brief, or each with probability 1/2.

    Examples:
        >>> from amodal.data.scenes.world import Object
        >>> scene = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),))
        >>> [caption.text for caption in write_captions(scene, "a", count=2, style="brief")]
        ['There is a red star.', 'The picture shows a red star.']
    """
    draw = Draw(f"captions/{key}")
    captions: list[Caption] = []
    texts: set[str] = set()
    attempts = 0
    while len(captions) < count:
        language = languages[len(captions) % len(languages)]
        brief = style == "brief" or (style == "mixed" and draw.random() < 0.5)
        caption = write_caption(scene, draw, language, brief=brief)
        attempts += 1
        # Where the grammar has fewer wordings than `count`, captions repeat.
        if caption.text not in texts or attempts > 8 * count:
            texts.add(caption.text)
            captions.append(caption)
    return captions


def write_caption(scene: Scene, draw: Draw, language: Language, *, brief: bool = False) -> Caption:
    """One caption of `scene`; `draw` chooses the plan and the wording."""
    claims = _plan_brief(scene, draw) if brief else _plan_complete(scene, draw)
    realise: Callable[[Claims, Draw], str] = {"en": english.realise, "zh": chinese.realise}[
        language
    ]
    return Caption(realise(claims, draw), language, claims)


def _plan_complete(scene: Scene, draw: Draw) -> Claims:
    order = draw.shuffled(scene.objects)
    chain = len(order) > 1 and draw.random() < 0.35
    relations: list[tuple[int, str, int]] = []
    mentions: list[Mention] = []
    for k, item in enumerate(order):
        # In a chain each object is located relative to the previous one, where a relation holds.
        link = main_relation(item, order[k - 1]) if chain and k else None
        if link is not None and RELATIONS[link](item, order[k - 1]):
            relations.append((k, link, k - 1))
            cell = None
        else:
            cell = item.cell
        mentions.append(Mention(item.shape, item.colour, item.size, item.texture, cell))
    # Scenes of one object have few distinguishing features, so their background is always named.
    background = scene.background if len(order) == 1 or draw.random() < 0.25 else None
    return Claims(tuple(mentions), tuple(relations), True, background)


def _plan_brief(scene: Scene, draw: Draw) -> Claims:
    order = draw.shuffled(scene.objects)
    relations: tuple[tuple[int, str, int], ...] = ()
    if len(order) > 1 and draw.random() < 0.5:
        link = main_relation(order[1], order[0])
        if RELATIONS[link](order[1], order[0]):
            relations = ((1, link, 0),)
    return Claims(tuple(Mention(o.shape, o.colour) for o in order), relations)
