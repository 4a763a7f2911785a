"""Renderer of scenes: cached anti-aliased stamps of objects blended onto the background."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from amodal.data.scenes.shapes import SHADE, inside, pattern, turned
from amodal.data.scenes.world import BACKGROUNDS, COLOURS, RADIUS, Object, Scene

_ROTATION_STEP = 5.0  # degrees

Stamp = tuple[NDArray[np.float32], NDArray[np.float32], int]


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """Image of a scene, (size, size, 3) uint8; equal scenes give equal bytes.

    Raises:
        ValueError: the size is below 8.

    Examples:
        >>> scene = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),), "grey")
        >>> image = render(scene, 32)
        >>> image.shape, image[0, 0].tolist()
        ((32, 32, 3), [165, 165, 165])
    """
    if size < 8:
        raise ValueError(f"an image needs at least 8 x 8 pixels, got size {size}")
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        _blend(canvas, item, size)
    canvas += 0.5  # round to nearest
    return canvas.astype(np.uint8)


def _blend(canvas: NDArray[np.float32], item: Object, size: int) -> None:
    steps = _steps_per_pixel(size)
    column, dx = divmod(round(item.x * size * steps), steps)
    row, dy = divmod(round(item.y * size * steps), steps)
    turn = 0 if item.shape in ("circle", "ring") else round(item.rotation / _ROTATION_STEP)
    keep, light, half = stamp(item.shape, item.size, item.texture, turn, dx, dy, size)
    top, left = row - half, column - half
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + keep.shape[0], size), min(left + keep.shape[1], size)
    if y0 >= y1 or x0 >= x1:
        return  # out of the image
    if (y1 - y0, x1 - x0) != keep.shape[:2]:
        keep = keep[y0 - top : y1 - top, x0 - left : x1 - left]
        light = light[y0 - top : y1 - top, x0 - left : x1 - left]
    region = canvas[y0:y1, x0:x1]
    region *= keep
    region += light * _RGB[item.colour]


@lru_cache(maxsize=16384)
def stamp(
    shape: str, size_name: str, texture: str, turn: int, dx: int, dy: int, size: int
) -> Stamp:
    """Blending weights of one type of object around its centre.

    Args:
        turn: rotation in steps of 5 degrees.
        dx, dy: offset of the centre within its pixel, in sub-pixel steps.

    Returns:
        weight of the background and weight of the object's colour, (H, W, 1) each, and the row and
        column of the centre pixel.
    """
    radius = RADIUS[size_name] * size
    half = int(radius * 1.25) + 2
    side = 2 * half + 1
    steps = _steps_per_pixel(size)
    fineness = max(3, min(8, 384 // size))  # samples per pixel, each way
    fine = (np.arange(side * fineness) + 0.5) / fineness - half
    x = ((fine - dx / steps) / radius)[None, :].astype(np.float32)
    y = ((fine - dy / steps) / radius)[:, None].astype(np.float32)
    covered = inside(shape, *turned(x, y, turn * _ROTATION_STEP))
    shade = np.where(pattern(texture, x, y), np.float32(SHADE), np.float32(1.0))
    blocks = (side, fineness, side, fineness)
    keep = 1.0 - covered.reshape(blocks).mean(axis=(1, 3), dtype=np.float32)[:, :, None]
    light = (covered * shade).reshape(blocks).mean(axis=(1, 3))[:, :, None]
    keep.flags.writeable = light.flags.writeable = False
    return keep, light, half


def _steps_per_pixel(size: int) -> int:
    # In large images a whole-pixel grid is fine enough, and it keeps the cache small.
    return max(1, min(4, 128 // size))


_RGB = {name: np.array(rgb, np.float32) for name, rgb in COLOURS.items()}
