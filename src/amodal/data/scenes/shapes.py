"""Geometry of shapes and textures, in units of an object's radius.

The origin is the middle of the object's bounding box, x grows to the right and y downwards.
"""

from __future__ import annotations

from math import cos, pi, radians, sin

import numpy as np
from numpy.typing import NDArray

SHADE = 0.45  # stripes and dots are the object's colour times this
PERIOD = 0.72  # spatial period, in radii


def inside(shape: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether points are inside the shape; x and y broadcast against each other."""
    if shape == "circle":
        return x * x + y * y <= 0.92**2
    if shape == "ring":
        distance = x * x + y * y
        return (distance <= 1.0) & (distance >= 0.45**2)
    if shape == "semicircle":
        return (x * x + (y - 0.5) ** 2 <= 1.0) & (y <= 0.5)
    if shape == "heart":
        u, v = x * 1.2, 0.1 - y * 1.2
        return (u * u + v * v - 1.0) ** 3 - u * u * v**3 <= 0.0
    corners = _OUTLINES[shape]
    result = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)  # even-odd rule: a ray to the right meets this edge
        result ^= crosses & (x < (x2 - x1) * (y - y1) / ((y2 - y1) or 1e-12) + x1)
    return result


def turned(
    x: NDArray[np.float32], y: NDArray[np.float32], degrees: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of points in the frame of an object rotated clockwise by `degrees`."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return x * c + y * s, y * c - x * s


def pattern(texture: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether points are in the darker part of a texture.

    The pattern does not rotate with the object: in small images slanted stripes would be
    indistinguishable from dots.
    """
    if texture == "striped":
        return np.broadcast_to(
            np.mod(y / PERIOD + 0.25, 1.0) < 0.5, np.broadcast_shapes(x.shape, y.shape)
        )
    if texture == "dotted":
        u = np.mod(x / PERIOD + 0.5, 1.0) - 0.5
        v = np.mod(y / PERIOD + 0.5, 1.0) - 0.5
        return u * u + v * v < 0.36**2
    return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.bool_)


def _star_outline(points: int, inner: float) -> NDArray[np.float64]:
    angles = np.arange(2 * points) * pi / points - pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _polygon(points: int, radius: float) -> NDArray[np.float64]:
    angles = np.arange(points) * 2 * pi / points - pi / 2
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


_ARM, _WIDTH = 1.0, 0.36
_OUTLINES: dict[str, NDArray[np.float64]] = {
    "square": np.array([(-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)]),
    "triangle": np.array([(0.0, -0.85), (0.95, 0.8), (-0.95, 0.8)]),
    "star": _star_outline(5, 0.45) * 1.08 + np.array((0.0, 0.1)),
    "diamond": np.array([(0.0, -1.05), (0.78, 0.0), (0.0, 1.05), (-0.78, 0.0)]),
    "pentagon": _polygon(5, 1.0) + np.array((0.0, 0.09)),
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
