"""Clips of scenes in which every object moves once, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, permutations, product

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
MAX_SEQUENCES = {1: 2, 2: 8, 3: 64}
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
    colours: Sequence[str] = tuple(COLOURS),
    shapes: Sequence[str] = SHAPES,
    sizes: Sequence[str] = tuple(RADIUS),
    textures: Sequence[str] = TEXTURES,
) -> Clip:
    """Clip `index` of a split, a pure function of its arguments.

    No sequence of colours, shapes and directions occurs in two splits, forwards or backwards.
    Every choice of colours and shapes occurs before one occurs again, then with other motions as
    long as there are some.

    Args:
        seed, split, index: of the clip.
        clips_per_appearance: so many successive clips have objects of the same colours and shapes;
            their captions differ in the motions alone, and every second clip is the one before
            it backwards, elsewhere in the image.
        min_objects, max_objects: range of the object count, uniform.
        colours, shapes, sizes, textures: that occur, uniformly.

    Examples:
        >>> clips = [sample_clip(0, "test", i, clips_per_appearance=2) for i in range(2)]
        >>> clips[0].appearance() == clips[1].appearance()
        True
        >>> clips[0].signature() == clips[1].signature()
        False
    """
    group, place = divmod(index, clips_per_appearance)
    group, more = divmod(group, max_objects - min_objects + 1)
    found = _appearances(
        seed, split, min_objects + more, tuple(colours), tuple(shapes), clips_per_appearance
    )
    cycle, number = divmod(group, len(found))
    sequences = _sequences(seed, split, found[number])
    sequence = sequences[(cycle * clips_per_appearance + place) % len(sequences)]
    return _laid_out(Draw(f"clip/{seed}/{split}/{index}"), sequence, sizes, textures)


Kind = tuple[str, str]  # colour and shape of an object, by which captions name it
Step = tuple[Kind, str]  # an object and the direction it moves in


@lru_cache(maxsize=16)
def _appearances(
    seed: int,
    split: Split,
    count: int,
    colours: tuple[str, ...],
    shapes: tuple[str, ...],
    least: int,
) -> list[tuple[Kind, ...]]:
    """Every choice of `count` kinds of objects with `least` sequences in the split, shuffled."""
    kinds = [(colour, shape) for colour in colours for shape in shapes]
    draw = Draw(f"appearances/{seed}/{split}/{count}")
    found = draw.shuffled(list(combinations(kinds, count)))
    if count < MAX_MOVING:  # more objects have many sequences in every split
        found = [chosen for chosen in found if len(_sequences(seed, split, chosen)) >= least]
    if not found:
        raise ValueError(
            f"{len(kinds)} kinds of objects have no {count} with {least} sequences of motions in "
            f"{split}; allow more colours and shapes, or lower clips_per_appearance"
        )
    return found


@lru_cache(maxsize=4096)
def _sequences(seed: int, split: Split, kinds: tuple[Kind, ...]) -> list[tuple[Step, ...]]:
    """Every order and choice of directions of these objects in the split, shuffled.

    After each sequence follows the one that plays it backwards: their clips have equal frames.
    """
    pairs = {
        min(sequence, _reversed(sequence))
        for order in permutations(kinds)
        for directions in product(DIRECTIONS, repeat=len(kinds))
        for sequence in [tuple(zip(order, directions, strict=True))]
    }
    draw = Draw(f"sequences/{seed}/{split}/{kinds}")
    chosen = draw.shuffled([sequence for sequence in sorted(pairs) if _split_of(sequence) == split])
    return [one for sequence in chosen for one in (sequence, _reversed(sequence))]


def _reversed(sequence: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple((kind, OPPOSITE[way]) for kind, way in reversed(sequence))


def _split_of(sequence: Sequence[Step]) -> Split:
    return split_of_text(";".join(f"{colour}/{shape}/{way}" for (colour, shape), way in sequence))


def _laid_out(
    draw: Draw, sequence: Sequence[Step], sizes: Sequence[str], textures: Sequence[str]
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
