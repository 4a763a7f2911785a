"""Captions of clips in English and Chinese: what moves where, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amodal.data.scenes import chinese, english
from amodal.data.scenes.captions import Language
from amodal.data.scenes.motion import Clip
from amodal.data.scenes.world import Draw

VERBS = ("moves", "goes", "slides")
WAYS = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
CHINESE_WAYS = {"left": "左", "right": "右", "up": "上", "down": "下"}
CHINESE_VERBS = ("移动", "滑动")
# Sentences on two motions; a is the first in time.
PAIRS = (
    "{a}, then {b}",
    "first {a}, then {b}",
    "{a} before {b}",
    "before {b}, {a}",
    "{b} after {a}",
    "after {a}, {b}",
)
CHINESE_PAIRS = (
    "{a}，然后{b}",
    "先是{a}，接着{b}",
    "在{b}之前，{a}",
    "在{a}之后，{b}",
)


def motion_captions(
    clip: Clip, key: str, *, count: int, languages: Sequence[Language] = ("en",)
) -> list[tuple[str, Language]]:
    """`count` captions of a clip with their languages, which alternate.

    Every caption names colour, shape and direction of each object, and their order in time.

    Args:
        clip: to describe.
        key: seed of the wording.
        count: number of captions; they repeat where the grammar has fewer.
        languages: "en", "zh" or both.

    Examples:
        >>> from amodal.data.scenes.motion import Motion
        >>> from amodal.data.scenes.world import Object, Scene
        >>> star = Object("star", "red", "small", "solid", 0.6, 0.5)
        >>> motion_captions(Clip(Scene((star,)), (Motion(0, "left"),)), "a", count=1)
        [('A red star slides to the left.', 'en')]
    """
    draw = Draw(f"motion captions/{key}")
    found: list[tuple[str, Language]] = []
    attempts = 0
    while len(found) < count:
        language = languages[len(found) % len(languages)]
        write: Callable[[Clip, Draw], str] = {"en": _english, "zh": _chinese}[language]
        text = write(clip, draw)
        attempts += 1
        if (text, language) not in found or attempts > 8 * count:
            found.append((text, language))
    return found


def _english(clip: Clip, draw: Draw) -> str:
    parts = []
    for motion in clip.motions:
        item = clip.scene.objects[motion.item]
        noun = f"{item.colour} {draw.choice(english.SHAPES[item.shape])}"
        verb, way = draw.choice(VERBS), draw.choice(WAYS[motion.direction])
        parts.append(f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} {verb} {way}")
    if len(parts) == 2:
        text = draw.choice(PAIRS).format(a=parts[0], b=parts[1])
    else:
        text = ", then ".join(parts)
    return text[0].upper() + text[1:] + "."


def _chinese(clip: Clip, draw: Draw) -> str:
    parts = []
    for motion in clip.motions:
        item = clip.scene.objects[motion.item]
        noun = f"{chinese.COLOURS[item.colour]}{draw.choice(chinese.SHAPES[item.shape])}"
        parts.append(f"{noun}向{CHINESE_WAYS[motion.direction]}{draw.choice(CHINESE_VERBS)}")
    if len(parts) == 2:
        return draw.choice(CHINESE_PAIRS).format(a=parts[0], b=parts[1]) + "。"
    return "，然后".join(parts) + "。"
