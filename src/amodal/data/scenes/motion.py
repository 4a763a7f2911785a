"""Clips of scenes in which every object moves once, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from amodal.data.scenes.render import render
from amodal.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    RADIUS,
    SHAPES,
    TEXTURES,
    Draw,
    Object,
    Scene,
    Split,
    split_of_text,
)

# Unit steps; y grows downwards.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
DISTANCE = 0.36  # of every motion, in fractions of the image
MARGIN = 0.02  # between an object and the border of the image
MAX_MOVING = 3  # objects of a clip, which all move
# Objects of a clip -> sequences of their motions that a split has for many choices of objects: a
# quarter of 4, 32 and 384.
MAX_SEQUENCES = {1: 1, 2: 8, 3: 64}
TRIES = 60  # layouts, until the paths of the objects do not cross


@dataclass(frozen=True, slots=True)
class Motion:
    """The motion of one object.

    Args:
        item: index of the object in the scene.
        direction: one of `DIRECTIONS`.
    """

    item: int
    direction: str


@dataclass(frozen=True, slots=True)
class Clip:
    """Objects that move one after the other, each for an equal part of the time.

    Args:
        scene: at the start.
        motions: in the order of time.

    Examples:
        >>> star = Object("star", "red", "small", "solid", 0.6, 0.5)
        >>> clip = Clip(Scene((star,)), (Motion(0, "left"),))
        >>> [round(clip.at(time).objects[0].x, 2) for time in (0.0, 0.5, 1.0)]
        [0.6, 0.42, 0.24]
        >>> clip.reversed().motions[0].direction
        'right'
    """

    scene: Scene
    motions: tuple[Motion, ...]

    def at(self, time: float) -> Scene:
        """The scene at a time from 0 to 1."""
        objects = list(self.scene.objects)
        for number, motion in enumerate(self.motions):
            share = min(1.0, max(0.0, time * len(self.motions) - number))
            dx, dy = DIRECTIONS[motion.direction]
            moved = objects[motion.item]
            objects[motion.item] = replace(
                moved, x=moved.x + share * DISTANCE * dx, y=moved.y + share * DISTANCE * dy
            )
        return replace(self.scene, objects=tuple(objects))

    def reversed(self) -> Clip:
        """The clip played backwards."""
        motions = [Motion(m.item, OPPOSITE[m.direction]) for m in reversed(self.motions)]
        return Clip(self.at(1.0), tuple(motions))

    def signature(self) -> str:
        """Colour, shape and direction of every object in the order of time: its captions."""
        objects = [(self.scene.objects[m.item], m.direction) for m in self.motions]
        return ";".join(f"{o.colour}/{o.shape}/{direction}" for o, direction in objects)

    def appearance(self) -> str:
        """Colours and shapes of the objects, which a single frame shows."""
        return ";".join(sorted(f"{o.colour}/{o.shape}" for o in self.scene.objects))


def render_clip(clip: Clip, frames: int, size: int) -> NDArray[np.uint8]:
    """Frames of a clip at equal distances of time, (T, size, size, 3) uint8."""
    times = np.linspace(0, 1, frames).tolist()
    return np.stack([render(clip.at(time), size) for time in times])


def sample_clip(
    seed: int,
    split: Split,
    index: int,
    *,
    clips_per_appearance: int = 1,
    min_objects: int = 2,
    max_objects: int = 2,
    sizes: Sequence[str] = tuple(RADIUS),
    textures: Sequence[str] = TEXTURES,
) -> Clip:
    """Clip `index` of a split, a pure function of its arguments.

    No sequence of colours, shapes and directions occurs in two splits.

    Args:
        seed, split, index: of the clip.
        clips_per_appearance: so many successive clips have objects of the same colours and shapes;
            their captions differ in the motions alone.
        min_objects, max_objects: range of the object count, uniform.
        sizes, textures: that occur, uniformly.

    Examples:
        >>> clips = [sample_clip(0, "test", i, clips_per_appearance=2) for i in range(2)]
        >>> clips[0].appearance() == clips[1].appearance()
        True
        >>> clips[0].signature() == clips[1].signature()
        False
    """
    group, place = divmod(index, clips_per_appearance)
    draw = Draw(f"clip/{seed}/{split}/{group}")
    count = min_objects + int(draw.random() * (max_objects - min_objects + 1))
    while True:
        kinds: list[tuple[str, str]] = []
        while len(kinds) < count:  # captions name an object by its colour and shape
            kind = (draw.choice(tuple(COLOURS)), draw.choice(SHAPES))
            if kind not in kinds:
                kinds.append(kind)
        sequences = _sequences(draw, kinds, split)
        if len(sequences) >= clips_per_appearance:
            break
    own = Draw(f"clip/{seed}/{split}/{group}/{place}")
    return _laid_out(own, sequences[place], sizes, textures)


Named = tuple[tuple[str, str], str]  # (colour, shape) of an object and the direction it moves in


def _sequences(
    draw: Draw, kinds: Sequence[tuple[str, str]], split: Split
) -> list[tuple[Named, ...]]:
    """Every order and choice of directions of these objects in the split, shuffled."""
    found: list[tuple[Named, ...]] = [()]
    for _ in kinds:
        found = [
            (*before, (kind, direction))
            for before in found
            for kind in kinds
            if kind not in [k for k, _ in before]
            for direction in DIRECTIONS
        ]
    return draw.shuffled([s for s in found if _split_of(s) == split])


def _split_of(sequence: Sequence[Named]) -> Split:
    return split_of_text(";".join(f"{colour}/{shape}/{way}" for (colour, shape), way in sequence))


def _laid_out(
    draw: Draw, sequence: Sequence[Named], sizes: Sequence[str], textures: Sequence[str]
) -> Clip:
    """The clip of a sequence, the paths of its objects apart where there is room for that."""
    clips: list[Clip] = []
    background = draw.choice(tuple(BACKGROUNDS))
    for _ in range(TRIES):
        objects = []
        for (colour, shape), direction in sequence:
            size = draw.choice([s for s in RADIUS if s in sizes])
            low, high = RADIUS[size] + MARGIN, 1 - RADIUS[size] - MARGIN
            x, y = (
                draw.between(low - DISTANCE * min(step, 0), high - DISTANCE * max(step, 0))
                for step in DIRECTIONS[direction]
            )
            objects.append(Object(shape, colour, size, draw.choice(textures), x, y))
        # The order of the objects, which are drawn one over the other, tells nothing of time.
        front = draw.shuffled(range(len(objects)))
        scene = Scene(tuple(objects[i] for i in front), background)
        motions = [Motion(front.index(i), way) for i, (_, way) in enumerate(sequence)]
        clips.append(Clip(scene, tuple(motions)))
        if not _paths_cross(clips[-1]):
            break
    return clips[-1]


def _paths_cross(clip: Clip) -> bool:
    """Whether the boxes that two objects sweep overlap."""
    end = clip.at(1.0).objects
    boxes = [
        (
            min(a.x, b.x) - a.radius,
            min(a.y, b.y) - a.radius,
            max(a.x, b.x) + a.radius,
            max(a.y, b.y) + a.radius,
        )
        for a, b in zip(clip.scene.objects, end, strict=True)
    ]
    return any(
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
        for one, other in combinations(boxes, 2)
    )
