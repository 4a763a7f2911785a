"""What a scene is, what holds between its objects, and how scenes are drawn from a seed.

Coordinates are fractions of the image: x grows to the right, y grows downwards, (0.5, 0.5)
is the middle. A scene is plain data; images, captions and whatever else can be said about
it are functions of it.
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
Split = Literal["iid", "attribute-pair", "count", "relation"]
Part = Literal["train", "validation", "test"]

# A centre keeps this distance from the borders of its cell, so that "top left" is never a
# matter of half a pixel.
CELL_MARGIN = 0.03
# Objects nearer to each other than this along an axis are level with each other on it.
RELATION_GAP = 0.1
MAX_ROTATION = 10.0  # degrees; a square turned further could be called a diamond

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Object:
    """One thing in a scene.

    Args:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: one of `RADIUS`.
        texture: one of `TEXTURES`.
        x, y: its centre, in fractions of the image.
        rotation: degrees, clockwise as seen.
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
    """Objects on a background. Later objects lie on top of earlier ones."""

    objects: tuple[Object, ...]
    background: str = "white"

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; `from_json` gives the scene back."""
        return {"background": self.background, "objects": [asdict(o) for o in self.objects]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Scene:
        """The scene that `to_json` described.

        Raises:
            ValueError: an attribute has a value that this world does not know.
        """
        scene = cls(tuple(Object(**o) for o in value["objects"]), value["background"])
        check(scene)
        return scene

    def mirrored(self) -> Scene:
        """The scene seen in a mirror: its image is the image flipped left to right."""
        return replace(
            self,
            objects=tuple(replace(o, x=1.0 - o.x, rotation=-o.rotation) for o in self.objects),
        )

    def signature(self) -> str:
        """What complete captions always say, in canonical order: equal for look-alikes."""
        objects = sorted(
            "/".join((o.size, o.texture, o.colour, o.shape, *o.cell)) for o in self.objects
        )
        return ";".join(objects if len(objects) > 1 else [*objects, self.background])


def check(scene: Scene) -> None:
    """Raises ValueError naming the first attribute that this world does not know."""
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
    """a's centre is clearly to the left of b's."""
    return b.x - a.x >= RELATION_GAP


def right_of(a: Object, b: Object) -> bool:
    """a's centre is clearly to the right of b's."""
    return left_of(b, a)


def above(a: Object, b: Object) -> bool:
    """a's centre is clearly higher than b's."""
    return b.y - a.y >= RELATION_GAP


def below(a: Object, b: Object) -> bool:
    """a's centre is clearly lower than b's."""
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
    """The relation of a to b that one would name: along the axis on which they differ more."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) >= abs(dy):
        return "left_of" if dx > 0 else "right_of"
    return "above" if dy > 0 else "below"


def overlap(a: Object, b: Object) -> float:
    """How deep the circles around a and b enter each other, over the sum of their radii."""
    reach = a.radius + b.radius
    return max(0.0, 1.0 - hypot(a.x - b.x, a.y - b.y) / reach)


# --- splits ------------------------------------------------------------------------------------


def held_out_pair(item: Object) -> bool:
    """Whether the object's colour and shape meet only in the test part of `attribute-pair`.

    Every fifth pair; each colour and each shape keeps eight partners to be learned from.
    """
    return (_COLOUR_INDEX[item.colour] * 3 + _SHAPE_INDEX[item.shape]) % 5 == 0


def held_out_relation(a: Object, b: Object) -> bool:
    """Whether the pair's arrangement occurs only in the test part of `relation`.

    Shapes form a circle in the order of `SHAPES`. Neighbours on it never stand side by side
    (in either order, because a flipped image would show the other one), and a shape never
    stands above the third and the fourth after it, though it does stand below them. Side by
    side and above mean the `main_relation`.
    """
    step = (_SHAPE_INDEX[b.shape] - _SHAPE_INDEX[a.shape]) % len(SHAPES)
    relation = main_relation(a, b)
    if relation in ("left_of", "right_of"):
        return step in (1, len(SHAPES) - 1)
    return (step if relation == "above" else -step % len(SHAPES)) in (3, 4)


def has_held_out(scene: Scene, split: Split) -> bool:
    """Whether the scene holds something that the training part of `split` never shows."""
    objects = scene.objects
    if split == "attribute-pair":
        return any(map(held_out_pair, objects))
    if split == "relation":
        return any(held_out_relation(a, b) for i, a in enumerate(objects) for b in objects[:i])
    if split == "count":
        return len(objects) > 3
    return False


def part_of(scene: Scene) -> Part:
    """The part to which every scene with this `signature` belongs, in every split.

    Half of all descriptions are for training and a quarter each for validation and test, so no
    scene of one part can be described by a complete caption of another.
    """
    bucket = blake2b(scene.signature().encode(), digest_size=1).digest()[0] & 3
    return "train" if bucket < 2 else "validation" if bucket == 2 else "test"


# --- sampling ----------------------------------------------------------------------------------


class Draw:
    """Random choices fixed by a text key, equal on every machine and Python version."""

    def __init__(self, key: str) -> None:
        # Only `random()` is promised to stay the same between Python versions, so everything
        # is made from it.
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
    split: Split,
    part: Part,
    index: int,
    *,
    min_objects: int = 1,
    max_objects: int = 4,
    max_overlap: float = 0.0,
    sizes: Sequence[str] = tuple(RADIUS),
    textures: Sequence[str] = TEXTURES,
) -> Scene:
    """Scene `index` of a part, a pure function of its arguments.

    Object counts are uniform in [min_objects, max_objects]. Validation scenes are like training
    scenes; test scenes of `attribute-pair` and `relation` hold at least one held-out combination
    and all other scenes hold none. Which counts a part of `count` has is the caller's choice.

    Args:
        max_overlap: bound on `overlap` of any two objects; at 0 they also keep a small gap.
        sizes, textures: which occur, each equally often.
    """
    draw = Draw(f"scene/{seed}/{split}/{part}/{index}")
    wants_held_out = part == "test" and split in ("attribute-pair", "relation")
    if wants_held_out and split == "relation":
        min_objects = max(min_objects, 2)
    count = min_objects + int(draw.random() * (max_objects - min_objects + 1))
    background = draw.choice(_BACKGROUND_NAMES)
    layout = _sample_layout(draw, count, max_overlap, [s for s in RADIUS if s in sizes])
    while True:
        # Geometry is settled, so a redraw for the sake of the split is cheap.
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
        if split in ("attribute-pair", "relation") and (
            has_held_out(scene, split) != wants_held_out
        ):
            continue
        if part_of(scene) == part:
            return scene


def _sample_layout(
    draw: Draw, count: int, max_overlap: float, sizes: Sequence[str]
) -> list[tuple[str, float, float, float]]:
    """(size, x, y, rotation) of `count` objects in `count` different cells, largest first."""
    gap = 0.04 if max_overlap == 0 else 0.0
    while True:
        layout: list[tuple[str, float, float, float]] = []
        taken: set[tuple[int, int]] = set()
        # The largest go first: they still find room, and smaller ones come to lie on top.
        drawn = sorted((draw.choice(sizes) for _ in range(count)), key=sizes.index)
        for size in reversed(drawn):
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
                break  # no room left: start over with other sizes
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
