"""Pictures of scenes: each object is a cached anti-aliased stamp, blended onto the background."""

from __future__ import annotations

from functools import lru_cache
from math import cos, pi, radians, sin

import numpy as np
from numpy.typing import NDArray

from amodal.data.scenes.world import BACKGROUNDS, COLOURS, RADIUS, Object, Scene

SHADE = 0.45  # stripes and dots are the object's colour times this
PERIOD = 0.72  # they repeat at this many radii
_SUPERSAMPLE = 6
_ROTATION_STEP = 2.5  # degrees

Stamp = tuple[NDArray[np.float32], NDArray[np.float32], int]


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The scene's picture, (size, size, 3) uint8. The same scene always gives the same bytes."""
    if size < 8:
        raise ValueError(f"a picture needs at least 8 x 8 pixels, got size {size}")
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        _paint(canvas, item, size)
    canvas += 0.5  # round to nearest
    return canvas.astype(np.uint8)


def _paint(canvas: NDArray[np.float32], item: Object, size: int) -> None:
    steps = _steps_per_pixel(size)
    column, dx = divmod(round(item.x * size * steps), steps)
    row, dy = divmod(round(item.y * size * steps), steps)
    turn = 0 if item.shape in ("circle", "ring") else round(item.rotation / _ROTATION_STEP)
    keep, light, half = stamp(item.shape, item.size, item.texture, turn, dx, dy, size)
    top, left = row - half, column - half
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + keep.shape[0], size), min(left + keep.shape[1], size)
    if y0 >= y1 or x0 >= x1:
        return  # out of the picture
    if (y1 - y0, x1 - x0) != keep.shape[:2]:
        keep = keep[y0 - top : y1 - top, x0 - left : x1 - left]
        light = light[y0 - top : y1 - top, x0 - left : x1 - left]
    region = canvas[y0:y1, x0:x1]
    region *= keep
    region += light * _PAINT[item.colour]


@lru_cache(maxsize=16384)
def stamp(
    shape: str, size_name: str, texture: str, turn: int, dx: int, dy: int, size: int
) -> Stamp:
    """How one kind of object changes the pixels around its centre.

    Args:
        turn: rotation in steps of 2.5 degrees.
        dx, dy: where the centre lies within its pixel, in sub-pixel steps.

    Returns:
        the share of the background that stays and the share of the object's colour that is
        added, (H, W, 1) each, and the row and column of the centre pixel.
    """
    radius = RADIUS[size_name] * size
    half = int(radius * 1.1) + 2
    side = 2 * half + 1
    steps = _steps_per_pixel(size)
    fine = (np.arange(side * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - half
    x = ((fine - dx / steps) / radius)[None, :].astype(np.float32)
    y = ((fine - dy / steps) / radius)[:, None].astype(np.float32)
    angle = radians(turn * _ROTATION_STEP)
    inside = _inside(shape, x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle))
    # The pattern stays level when the object turns: in small pictures a slanted stripe would be
    # told from a dot by luck only.
    shade = np.ones_like(inside, np.float32)
    shade[inside & _pattern(texture, x, y)] = SHADE
    keep = 1.0 - _pool(inside.astype(np.float32))
    light = _pool(inside * shade)
    keep.flags.writeable = light.flags.writeable = False
    return keep, light, half


def _inside(shape: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    if shape == "circle":
        return x * x + y * y <= 0.92**2
    if shape == "ring":
        distance = x * x + y * y
        return (distance <= 1.0) & (distance >= 0.5**2)
    if shape == "semicircle":
        return (x * x + (y - 0.55) ** 2 <= 1.1**2) & (y <= 0.55)
    if shape == "heart":
        u, v = x * 1.2, 0.1 - y * 1.2
        return (u * u + v * v - 1.0) ** 3 - u * u * v**3 <= 0.0
    corners = _OUTLINES[shape]
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)  # even-odd rule: a ray to the right meets this edge
        inside ^= crosses & (x < (x2 - x1) * (y - y1) / ((y2 - y1) or 1e-12) + x1)
    return inside


def _pattern(texture: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    if texture == "striped":
        return np.broadcast_to(np.mod(y / PERIOD + 0.25, 1.0) < 0.5, (y.size, x.size))
    if texture == "dotted":
        u = np.mod(x / PERIOD + 0.5, 1.0) - 0.5
        v = np.mod(y / PERIOD + 0.5, 1.0) - 0.5
        return u * u + v * v < 0.36**2
    return np.zeros((y.size, x.size), np.bool_)


def _pool(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    side = len(fine) // _SUPERSAMPLE
    pooled = fine.reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE).mean(axis=(1, 3))
    return pooled[:, :, None].astype(np.float32)


def _steps_per_pixel(size: int) -> int:
    # Where pixels are small a whole-pixel grid is fine enough, and the cache stays small.
    return max(1, min(4, 256 // size))


def _star_outline(points: int, inner: float) -> NDArray[np.float64]:
    angles = np.arange(2 * points) * pi / points - pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _polygon(points: int, radius: float) -> NDArray[np.float64]:
    angles = np.arange(points) * 2 * pi / points - pi / 2
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


_ARM, _WIDTH = 1.0, 0.36
_OUTLINES: dict[str, NDArray[np.float64]] = {
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": np.array([(0.0, -0.9), (1.0, 0.85), (-1.0, 0.85)]),
    "star": _star_outline(5, 0.45) * 1.1,
    "diamond": np.array([(0.0, -1.05), (0.78, 0.0), (0.0, 1.05), (-0.78, 0.0)]),
    "pentagon": _polygon(5, 1.0) + np.array((0.0, 0.08)),
    "cross": np.array(
        [
            (-_WIDTH, -_ARM),
            (_WIDTH, -_ARM),
            (_WIDTH, -_WIDTH),
            (_ARM, -_WIDTH),
            (_ARM, _WIDTH),
            (_WIDTH, _WIDTH),
            (_WIDTH, _ARM),
            (-_WIDTH, _ARM),
            (-_WIDTH, _WIDTH),
            (-_ARM, _WIDTH),
            (-_ARM, -_WIDTH),
            (-_WIDTH, -_WIDTH),
        ]
    ),
}
_PAINT = {name: np.array(rgb, np.float32) for name, rgb in COLOURS.items()}
