"""Verifier: recognition of the scene in an image, to score generated images.

It shares only the geometry and palette of the world with the renderer (`shapes`, colours, sizes).
The background is the most common colour of the border. Every connected blob is modelled as a
mixture of background and light and shaded parts of one colour, solved by least squares; its
outline is compared with templates of every shape, size and rotation, its shading with every
texture.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from amodal.data.scenes.shapes import SHADE, inside, pattern, turned
from amodal.data.scenes.world import BACKGROUNDS, COLOURS, RADIUS, SHAPES, TEXTURES, Object, Scene

CONTRAST = 24.0  # largest difference of a channel from the background, in grey levels
# Root mean square residual, in grey levels, above which a blob has several colours.
ONE_COLOUR = 12.0
_ROTATIONS = (-10.0, -5.0, 0.0, 5.0, 10.0)
_NEIGHBOURS = np.ones((3, 3), np.bool_)

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


def read_scene(image: NDArray[np.uint8]) -> Scene:
    """The scene in a (S, S, 3) uint8 image, with objects from top to bottom.

    For images with little overlap. Touching objects of one colour are recognised as one.

    Raises:
        ValueError: the image is not square, or has not three channels.

    Examples:
        >>> from amodal.data.scenes.render import render
        >>> scene = Scene((Object("star", "red", "large", "solid", 0.5, 0.5),), "grey")
        >>> found = read_scene(render(scene))
        >>> found.background, found.objects[0].shape, found.objects[0].colour
        ('grey', 'star', 'red')
    """
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise ValueError(f"expected a square image (S, S, 3), got shape {image.shape}")
    size = len(image)
    pixels = image.astype(np.float32)
    background = _read_background(pixels)
    ground = np.array(BACKGROUNDS[background], np.float32)
    foreground = np.abs(pixels - ground).max(axis=2) > CONTRAST
    objects: list[Object] = []
    # A blob smaller than half of the smallest shape is a speck.
    smallest = 0.75 * (RADIUS["small"] * size) ** 2
    for colour, mask in _blobs(pixels, foreground, ground):
        found = _read_object(pixels, mask, ground, colour) if mask.sum() >= smallest else None
        if found is not None:
            objects.append(found)
    return Scene(tuple(sorted(objects, key=lambda o: (o.y, o.x))), background)


@dataclass(frozen=True)
class Agreement:
    """Numbers of objects that two scenes share.

    Args:
        exact: objects equal in shape, colour, size, texture and cell.
        matched: objects equal in shape and colour.
        expected: objects of the true scene.
        predicted: objects of the other scene.
    """

    exact: int
    matched: int
    expected: int
    predicted: int

    @property
    def perfect(self) -> bool:
        """Whether the scenes have exactly the same objects."""
        return self.exact == self.expected == self.predicted

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of shape and colour; 1 for two empty scenes."""
        total = self.expected + self.predicted
        return 1.0 if total == 0 else 2 * self.matched / total


def compare(truth: Scene, predicted: Scene) -> Agreement:
    """Agreement of the objects of two scenes.

    Examples:
        >>> truth = Scene((Object("star", "red", "large", "solid", 0.5, 0.5),))
        >>> other = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),))
        >>> compare(truth, other)
        Agreement(exact=0, matched=1, expected=1, predicted=1)
    """

    def exact(scene: Scene) -> Counter[tuple[object, ...]]:
        return Counter((o.shape, o.colour, o.size, o.texture, o.cell) for o in scene.objects)

    def shapes(scene: Scene) -> Counter[tuple[str, str]]:
        return Counter((o.shape, o.colour) for o in scene.objects)

    return Agreement(
        exact=(exact(truth) & exact(predicted)).total(),
        matched=(shapes(truth) & shapes(predicted)).total(),
        expected=len(truth.objects),
        predicted=len(predicted.objects),
    )


def _read_background(pixels: Pixels) -> str:
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])  # (R, 3)
    names = list(BACKGROUNDS)
    palette = np.array([BACKGROUNDS[name] for name in names], np.float32)
    distance = np.square(border[:, None] - palette).sum(axis=2)  # (R, backgrounds)
    return names[int(np.bincount(distance.argmin(axis=1)).argmax())]


def _blobs(pixels: Pixels, foreground: Mask, ground: Pixels) -> list[tuple[str, Mask]]:
    """(colour, mask) of every connected blob, split where it has several colours."""
    names = list(COLOURS)
    result: list[tuple[str, Mask]] = []
    for mask in _components(foreground):
        residual = _residuals(pixels[mask], ground)  # (P, colours)
        total = residual.mean(axis=0)
        best = int(total.argmin())
        if total[best] <= ONE_COLOUR**2:
            result.append((names[best], mask))
            continue
        nearest = np.full(mask.shape, -1)
        nearest[mask] = residual.argmin(axis=1)
        for index, name in enumerate(names):
            # Opening removes the seams, where two objects blend into a third colour.
            own = ndimage.binary_opening(nearest == index, _NEIGHBOURS[:2, :2])
            result += [(name, part) for part in _components(own)]
    return result


def _components(mask: Mask) -> list[Mask]:
    labels, count = ndimage.label(mask, _NEIGHBOURS)
    return [labels == k for k in range(1, count + 1)]


def _residuals(pixels: Pixels, ground: Pixels) -> Pixels:
    """(P, colours) squared residual of each pixel under each colour."""
    columns = []
    for rgb in COLOURS.values():
        cover, light = _unmix(pixels, ground, rgb)
        light = np.clip(light, SHADE * cover, cover)
        explained = ground + light[:, None] * np.array(rgb, np.float32) - cover[:, None] * ground
        columns.append(np.square(pixels - explained).sum(axis=1))
    return np.stack(columns, axis=1)


def _unmix(pixels: Pixels, ground: Pixels, rgb: tuple[int, int, int]) -> tuple[Pixels, Pixels]:
    """(cover, light) of (P, 3) pixels, where pixel = (1 - cover) * ground + light * colour."""
    basis = np.stack([-ground, np.array(rgb, np.float32)], axis=1)  # (3, 2)
    solution = (pixels - ground) @ np.linalg.pinv(basis).T  # (P, 2)
    return np.clip(solution[:, 0], 0.0, 1.0), np.clip(solution[:, 1], 0.0, 1.0)


def _read_object(pixels: Pixels, mask: Mask, ground: Pixels, colour: str) -> Object | None:
    """The object of a blob; None where its pixels are no mixture with its colour."""
    size = len(pixels)
    near = ndimage.binary_dilation(mask, _NEIGHBOURS)
    cover = np.zeros((size, size), np.float32)
    light = np.zeros((size, size), np.float32)
    cover[near], light[near] = _unmix(pixels[near], ground, COLOURS[colour])
    weight = cover.sum()
    if weight < 1:  # less than a pixel: does not occur in rendered scenes
        return None
    grid = np.arange(size) + 0.5
    middle_y = float(cover.sum(axis=1) @ grid / weight)
    middle_x = float(cover.sum(axis=0) @ grid / weight)

    bank = _template_bank(size)
    # Templates whose centroid has the same offset within its pixel as that of the blob.
    row, column = int(middle_y), int(middle_x)
    dy = int((middle_y - row) * bank.steps)
    dx = int((middle_x - column) * bank.steps)
    padded = np.pad(cover, bank.half)
    patch = padded[row : row + bank.side, column : column + bank.side].ravel()
    templates = bank.cover[dy][dx]  # (kinds, side * side)
    kind = int((bank.energy[dy][dx] - 2 * templates @ patch).argmin())
    shape, size_name, rotation = bank.kinds[kind]
    # From the centroid back to the middle of the shape's box.
    offset_x, offset_y = bank.centroids[kind]
    x = middle_x - offset_x
    y = middle_y - offset_y

    texture = _read_texture(cover, light, x, y, RADIUS[size_name] * size)
    return Object(shape, colour, size_name, texture, x / size, y / size, rotation)


def _read_texture(cover: Pixels, light: Pixels, x: float, y: float, radius: float) -> str:
    """The texture whose shading is closest to that of the blob."""
    rows, columns = np.nonzero(cover > 0.7)
    if len(rows) == 0:
        return "solid"
    shading = light[rows, columns] / cover[rows, columns]  # (P,)
    fine = (np.arange(4) + 0.5) / 4
    u = ((columns[:, None, None] + fine[None, None, :] - x) / radius).astype(np.float32)
    v = ((rows[:, None, None] + fine[None, :, None] - y) / radius).astype(np.float32)
    errors = []
    for texture in TEXTURES:
        dark = np.broadcast_to(pattern(texture, u, v), (len(rows), 4, 4)).mean(axis=(1, 2))
        errors.append(float(np.square(1 - (1 - SHADE) * dark - shading).sum()))
    return TEXTURES[int(np.argmin(errors))]


@dataclass(frozen=True)
class _TemplateBank:
    """Templates of every shape, size and rotation at every sub-pixel offset of the centroid.

    Args:
        steps: offsets per pixel and axis.
        half, side: the centre pixel and the side of a template.
        kinds: (shape, size, rotation) of each template.
        cover: [dy][dx] -> (kinds, side * side) covered share of each pixel.
        energy: [dy][dx] -> (kinds,) sum of squares.
        centroids: per kind (x, y) from the middle of the shape's box, in pixels.
    """

    steps: int
    half: int
    side: int
    kinds: list[tuple[str, str, float]]
    cover: list[list[Pixels]]
    energy: list[list[Pixels]]
    centroids: list[tuple[float, float]]


@lru_cache(maxsize=4)
def _template_bank(size: int) -> _TemplateBank:
    steps = max(1, min(4, 128 // size))
    fineness = 4 if steps < 4 else 8  # samples per pixel, a multiple of 2 * steps
    half = int(max(RADIUS.values()) * size * 1.25) + 2
    side = 2 * half + 1
    fine = ((np.arange(side * fineness) + 0.5) / fineness - half).astype(np.float32)
    kinds: list[tuple[str, str, float]] = []
    centroids: list[tuple[float, float]] = []
    stacks: list[list[list[Pixels]]] = [[[] for _ in range(steps)] for _ in range(steps)]
    for shape in SHAPES:
        for size_name, share in RADIUS.items():
            radius = share * size
            for rotation in (0.0,) if shape in ("circle", "ring") else _ROTATIONS:
                x, y = turned((fine / radius)[None, :], (fine / radius)[:, None], rotation)
                covered = inside(shape, x, y).astype(np.float32)
                area = covered.sum()
                centre_x = float(covered.sum(axis=0) @ fine / area)
                centre_y = float(covered.sum(axis=1) @ fine / area)
                kinds.append((shape, size_name, rotation))
                centroids.append((centre_x, centre_y))
                for dy in range(steps):
                    for dx in range(steps):
                        shift = (
                            round(((dy + 0.5) / steps - centre_y) * fineness),
                            round(((dx + 0.5) / steps - centre_x) * fineness),
                        )
                        moved = np.roll(covered, shift, axis=(0, 1))
                        pooled = moved.reshape(side, fineness, side, fineness).mean(axis=(1, 3))
                        stacks[dy][dx].append(pooled.ravel())
    cover = [[np.stack(stack) for stack in row] for row in stacks]
    energy = [[np.square(stack).sum(axis=1) for stack in row] for row in cover]
    return _TemplateBank(steps, half, side, kinds, cover, energy, centroids)
