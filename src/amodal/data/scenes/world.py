"""Scenes, relations between their objects, held-out splits, and sampling from a seed.

Coordinates are fractions of the image: x grows to the right, y grows downwards, (0.5, 0.5)
is the middle. A scene is plain data; images, captions and questions are functions of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from math import hypot
from random import Random
from typing import Any, Literal, TypeVar

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "diamond",
    "pentagon",
    "cross",
    "heart",
    "ring",
    "semicircle",
)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (250, 140, 20),
    "yellow": (245, 220, 30),
    "green": (40, 150, 60),
    "cyan": (60, 205, 215),
    "blue": (40, 80, 220),
    "purple": (130, 50, 180),
    "pink": (250, 130, 190),
    "brown": (125, 75, 40),
    "lime": (150, 225, 45),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 248),
    "grey": (165, 165, 165),
    "beige": (232, 218, 188),
}
RADIUS = {"small": 0.092, "medium": 0.132, "large": 0.182}
TEXTURES = ("solid", "striped", "dotted")
COLUMNS = ("left", "centre", "right")
ROWS = ("top", "centre", "bottom")
MAX_OBJECTS = 6

Size = Literal["small", "medium", "large"]
Texture = Literal["solid", "striped", "dotted"]
Generalization = Literal["iid", "attribute-pair", "count", "relation"]
Split = Literal["train", "validation", "test"]

# Smallest distance of a centre from the borders of its cell, so that cells are unambiguous.
CELL_MARGIN = 0.03
# Objects closer to each other than this along an axis are in no relation along it.
RELATION_GAP = 0.1
MAX_ROTATION = 10.0  # degrees; with more rotation a square would look like a diamond

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a scene.

    Args:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: one of `RADIUS`.
        texture: one of `TEXTURES`.
        x, y: its centre, in fractions of the image.
        rotation: degrees, clockwise.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    rotation: float = 0.0

    @property
    def radius(self) -> float:
        """Radius of the circle around it, in fractions of the image."""
        return RADIUS[self.size]

    @property
    def cell(self) -> tuple[str, str]:
        """(row, column) of its centre on a 3 x 3 grid, such as ("top", "left")."""
        return ROWS[_third(self.y)], COLUMNS[_third(self.x)]


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects on a background. Later objects are in front of earlier ones.

    Examples:
        >>> scene = Scene((Object("star", "red", "small", "solid", 0.2, 0.5),))
        >>> scene.mirrored().objects[0].x, scene.objects[0].cell
        (0.8, ('centre', 'left'))
    """

    objects: tuple[Object, ...]
    background: str = "white"

    def to_json(self) -> dict[str, Any]:
        """The scene as dicts and lists, the inverse of `from_json`."""
        return {"background": self.background, "objects": [asdict(o) for o in self.objects]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Scene:
        """The scene of a `to_json` value.

        Raises:
            ValueError: an attribute has an unknown value.
        """
        scene = cls(tuple(Object(**o) for o in value["objects"]), value["background"])
        check(scene)
        return scene

    def mirrored(self) -> Scene:
        """The scene whose image is flipped horizontally."""
        return replace(
            self,
            objects=tuple(replace(o, x=1.0 - o.x, rotation=-o.rotation) for o in self.objects),
        )

    def signature(self) -> str:
        """The content of complete captions in canonical order."""
        objects = sorted(
            "/".join((o.size, o.texture, o.colour, o.shape, *o.cell)) for o in self.objects
        )
        return ";".join(objects if len(objects) > 1 else [*objects, self.background])


def check(scene: Scene) -> None:
    """Raise ValueError naming the first attribute with an unknown value."""
    known: dict[str, Sequence[str]] = {
        "shape": SHAPES,
        "colour": tuple(COLOURS),
        "size": tuple(RADIUS),
        "texture": TEXTURES,
    }
    if scene.background not in BACKGROUNDS:
        raise ValueError(f"background {scene.background!r} is not one of {list(BACKGROUNDS)}")
    for number, item in enumerate(scene.objects):
        for name, values in known.items():
            if getattr(item, name) not in values:
                raise ValueError(
                    f"object {number}: {name} {getattr(item, name)!r} is not one of {list(values)}"
                )


# --- relations ---------------------------------------------------------------------------------


def left_of(a: Object, b: Object) -> bool:
    """The centre of a is at least `RELATION_GAP` to the left of that of b."""
    return b.x - a.x >= RELATION_GAP


def right_of(a: Object, b: Object) -> bool:
    """The centre of a is at least `RELATION_GAP` to the right of that of b."""
    return left_of(b, a)


def above(a: Object, b: Object) -> bool:
    """The centre of a is at least `RELATION_GAP` above that of b."""
    return b.y - a.y >= RELATION_GAP


def below(a: Object, b: Object) -> bool:
    """The centre of a is at least `RELATION_GAP` below that of b."""
    return above(b, a)


def bigger(a: Object, b: Object) -> bool:
    """a is of a larger size class than b."""
    return a.radius > b.radius


RELATIONS: dict[str, Callable[[Object, Object], bool]] = {
    "left_of": left_of,
    "right_of": right_of,
    "above": above,
    "below": below,
}


def main_relation(a: Object, b: Object) -> str:
    """The relation of a to b along the axis on which they differ more."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) >= abs(dy):
        return "left_of" if dx > 0 else "right_of"
    return "above" if dy > 0 else "below"


def overlap(a: Object, b: Object) -> float:
    """Penetration depth of the circles around a and b over the sum of their radii."""
    reach = a.radius + b.radius
    return max(0.0, 1.0 - hypot(a.x - b.x, a.y - b.y) / reach)


# --- splits ------------------------------------------------------------------------------------


def held_out_pair(item: Object) -> bool:
    """Whether the pair of colour and shape occurs only in the test split of `attribute-pair`.

    Every fifth pair; each colour and each shape has eight partners in training.
    """
    return (_COLOUR_INDEX[item.colour] * 3 + _SHAPE_INDEX[item.shape]) % 5 == 0


def held_out_relation(a: Object, b: Object) -> bool:
    """Whether the pair's arrangement occurs only in the test split of `relation`.

    Shapes form a cycle in the order of `SHAPES`. In training, neighbours on it are never side by
    side (in either order, because a flipped image has the other one), and a shape is never above
    the third and the fourth after it, but may be below them. Side by side and above refer to the
    `main_relation`.
    """
    step = (_SHAPE_INDEX[b.shape] - _SHAPE_INDEX[a.shape]) % len(SHAPES)
    relation = main_relation(a, b)
    if relation in ("left_of", "right_of"):
        return step in (1, len(SHAPES) - 1)
    return (step if relation == "above" else -step % len(SHAPES)) in (3, 4)


def has_held_out(scene: Scene, generalization: Generalization) -> bool:
    """Whether the scene has a combination that is held out from the training split."""
    objects = scene.objects
    if generalization == "attribute-pair":
        return any(map(held_out_pair, objects))
    if generalization == "relation":
        return any(held_out_relation(a, b) for i, a in enumerate(objects) for b in objects[:i])
    if generalization == "count":
        return len(objects) > 3
    return False


def split_of(scene: Scene) -> Split:
    """The split of every scene with this `signature`, with every generalization.

    Half of all descriptions are for training and a quarter each for validation and test, so that
    no complete caption of one split is true of a scene of another.
    """
    return split_of_text(scene.signature())


def split_of_text(signature: str) -> Split:
    """The split of everything with this signature."""
    bucket = blake2b(signature.encode(), digest_size=1).digest()[0] & 3
    return "train" if bucket < 2 else "validation" if bucket == 2 else "test"


# --- sampling ----------------------------------------------------------------------------------


class Draw:
    """Random choices seeded by a text key, equal on every machine and Python version.

    Examples:
        >>> Draw("a").shuffled([1, 2, 3]) == Draw("a").shuffled([1, 2, 3])
        True
    """

    def __init__(self, key: str) -> None:
        # Only `random()` is guaranteed to be stable between Python versions, so everything is
        # derived from it.
        seed = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
        self.random = Random(seed).random

    def choice(self, values: Sequence[T]) -> T:
        """One of `values`, each equally likely."""
        return values[int(self.random() * len(values))]

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.random()

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """`values` in random order."""
        rest = list(values)
        for i in range(len(rest) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            rest[i], rest[j] = rest[j], rest[i]
        return rest


def sample_scene(
    seed: int,
    generalization: Generalization,
    split: Split,
    index: int,
    *,
    min_objects: int = 1,
    max_objects: int = 4,
    max_overlap: float = 0.0,
    sizes: Sequence[str] = tuple(RADIUS),
    textures: Sequence[str] = TEXTURES,
) -> Scene:
    """Scene `index` of a split, a pure function of its arguments.

    Object counts are uniform in [min_objects, max_objects]. Validation scenes are distributed like
    training scenes; test scenes of `attribute-pair` and `relation` have at least one held-out
    combination, all other scenes have none. The caller chooses the counts of `count`.

    Args:
        seed, generalization, split, index: of the scene.
        min_objects, max_objects: range of the object count.
        max_overlap: bound on `overlap` of any two objects; at 0 they also keep a small gap.
        sizes, textures: that occur, uniformly.

    Examples:
        >>> scene = sample_scene(0, "iid", "train", 7, max_objects=3)
        >>> scene == sample_scene(0, "iid", "train", 7, max_objects=3), split_of(scene)
        (True, 'train')
    """
    draw = Draw(f"scene/{seed}/{generalization}/{split}/{index}")
    wants_held_out = split == "test" and generalization in ("attribute-pair", "relation")
    if wants_held_out and generalization == "relation":
        min_objects = max(min_objects, 2)
    count = min_objects + int(draw.random() * (max_objects - min_objects + 1))
    background = draw.choice(_BACKGROUND_NAMES)
    layout = _sample_layout(draw, count, max_overlap, [s for s in RADIUS if s in sizes])
    while True:
        # The layout is fixed, so that resampling is cheap.
        objects = tuple(
            Object(
                draw.choice(SHAPES),
                draw.choice(_COLOUR_NAMES),
                size,
                draw.choice(textures),
                x,
                y,
                rotation,
            )
            for size, x, y, rotation in layout
        )
        scene = Scene(objects, background)
        if generalization in ("attribute-pair", "relation") and (
            has_held_out(scene, generalization) != wants_held_out
        ):
            continue
        if split_of(scene) == split:
            return scene


def _sample_layout(
    draw: Draw, count: int, max_overlap: float, sizes: Sequence[str]
) -> list[tuple[str, float, float, float]]:
    """(size, x, y, rotation) of `count` objects in `count` different cells, largest first."""
    gap = 0.04 if max_overlap == 0 else 0.0
    while True:
        layout: list[tuple[str, float, float, float]] = []
        taken: set[tuple[int, int]] = set()
        # The largest are placed first, while there is room, and smaller ones are in front of them.
        sampled = sorted((draw.choice(sizes) for _ in range(count)), key=sizes.index)
        for size in reversed(sampled):
            radius = RADIUS[size]
            for _ in range(20):
                x = round(draw.between(radius + 0.02, 0.98 - radius), 3)
                y = round(draw.between(radius + 0.02, 0.98 - radius), 3)
                cell = (_third(x), _third(y))
                if (
                    cell not in taken
                    and _clear_of_borders(x)
                    and _clear_of_borders(y)
                    and all(
                        hypot(x - x2, y - y2) >= (radius + RADIUS[other]) * (1 - max_overlap) + gap
                        for other, x2, y2, _ in layout
                    )
                ):
                    taken.add(cell)
                    layout.append((size, x, y, round(draw.between(-1, 1) * MAX_ROTATION, 1)))
                    break
            else:
                break  # no room left: restart with other sizes
        if len(layout) == count:
            return layout


def _third(value: float) -> int:
    return min(2, max(0, int(value * 3)))


def _clear_of_borders(value: float) -> bool:
    return abs(value - 1 / 3) >= CELL_MARGIN and abs(value - 2 / 3) >= CELL_MARGIN


_COLOUR_NAMES = tuple(COLOURS)
_BACKGROUND_NAMES = tuple(BACKGROUNDS)
_SHAPE_INDEX = {name: i for i, name in enumerate(SHAPES)}
_COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}
