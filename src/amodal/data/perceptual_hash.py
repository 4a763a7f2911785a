"""Near-duplicate images: a perceptual hash, a grid of colours, and the pairs close in both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

BITS = 64
SIDE = 32  # pixels of the reduced image whose low frequencies are hashed
MIN_SIDE = 4 * SIDE  # pixels of the shorter side that a hash uses; more are averaged first
GRID = 8  # cells of the grid of colours, each way
COLORS = 3 * GRID**2  # red, green and blue of each cell
# Bits in which the hashes of two near-duplicates differ at most. Of the 24 million pairs of 7,000
# Flickr8k photos one is as close: the same photo twice. The first pair of other photos differs
# in 8 bits. Of 500 photos saved again as JPEG of quality 10, halved in size, or made 30 % darker,
# each stays within 6 bits; a copy that was cropped by more than some pixels is not found.
MAX_DISTANCE = 6
# Correlation of the colours of two near-duplicates. The same 500 copies have 0.979 or more; drawn
# scenes of one layout in other colours, whose hashes are equal, stay below 0.961.
MIN_CORRELATION = 0.97
# An image that is nearly all background has few frequencies that are not noise, in which small
# objects look alike: it is a duplicate of nothing. No photo of Flickr8k is one.
PLAIN = 0.95  # share of the reduced image that is background
BACKGROUND = 0.03  # from the median brightness, of 0…1
FLAT = 2  # values of 0…255 between the darkest and the lightest pixel of an image of one colour
CHUNK = 1 << 17  # candidate pairs that are compared at once


def _cosines() -> np.ndarray:
    """(8, SIDE) rows 1 … 8 of the type II discrete cosine transform."""
    frequency, place = np.arange(1, 9)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * (place + 0.5) * frequency / SIDE)


COSINES = _cosines()


def perceptual_hash(pixels: np.ndarray) -> int:
    """64 low frequencies of the brightness of an image, each above or below their median.

    Resizing, compression, and changes of brightness or contrast leave most bits as they are.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        An unsigned 64-bit number; 0 for an image that is nearly all background.

    References:
        Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".

    Examples:
        >>> import numpy as np
        >>> from amodal.data.perceptual_hash import perceptual_hash
        >>> rng = np.random.default_rng(0)
        >>> image = rng.integers(0, 200, (60, 80, 3), dtype=np.uint8)
        >>> (perceptual_hash(image) ^ perceptual_hash(image + 20)).bit_count() <= 2
        True
        >>> perceptual_hash(np.full((9, 9, 3), 255, np.uint8))
        0
    """
    grey = _reduced(pixels, MIN_SIDE).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(grey, np.float64) / 255
    if (abs(values - np.median(values)) <= BACKGROUND).mean() >= PLAIN:
        return 0
    low = (COSINES @ values @ COSINES.T).ravel()
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def is_flat(pixels: np.ndarray) -> bool:
    """Whether an image has one colour.

    Args:
        pixels: (H, W, 3) uint8.

    Examples:
        >>> import numpy as np
        >>> from amodal.data.perceptual_hash import is_flat
        >>> is_flat(np.full((9, 9, 3), (0, 90, 200), np.uint8)), is_flat(np.eye(9)[..., None] * 9)
        (True, False)
    """
    return bool((np.ptp(pixels, axis=(0, 1)) <= FLAT).all())


def color_grid(pixels: np.ndarray) -> np.ndarray:
    """Mean colours of 8 x 8 cells of an image.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (192,) uint8.

    Examples:
        >>> import numpy as np
        >>> from amodal.data.perceptual_hash import color_grid
        >>> color_grid(np.full((60, 80, 3), (255, 0, 0), np.uint8))[:6].tolist()
        [255, 0, 0, 255, 0, 0]
    """
    cells = _reduced(pixels, 4 * GRID).resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(cells, np.uint8).ravel()


def near_duplicate_pairs(
    hashes: np.ndarray, colors: np.ndarray | None = None, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """Pairs of images with close hashes and like colours.

    Two hashes that differ in d bits are equal in one of d + 1 parts of their bits, so only hashes
    that share a part are compared. Of images with equal hash and colours each is paired with the
    next one alone: a thousand copies of one image are 999 pairs, not half a million.

    Args:
        hashes: (N,) uint64; 0, of an image that is nearly all background, pairs with none.
        colors: (N, 192) grids of their colours; None: hashes alone are compared, which takes
            drawings of one layout in several colours for the same.
        max_distance: of the hashes of a pair, in bits.

    Returns:
        (P, 2) int64 row numbers, the smaller one first, sorted.

    Raises:
        ValueError: the distance is not in 0 … 15.

    Examples:
        >>> import numpy as np
        >>> from amodal.data.perceptual_hash import near_duplicate_pairs
        >>> near_duplicate_pairs(np.array([0b1111, 1 << 40, 0b1110, 1 << 40], np.uint64)).tolist()
        [[0, 2], [1, 3]]
    """
    if not 0 <= max_distance <= 15:
        raise ValueError(f"max_distance must lie in 0…15, got {max_distance}")
    rows = np.flatnonzero(hashes)
    if not len(rows):
        return np.zeros((0, 2), np.int64)
    values = hashes[rows][:, None].view(np.uint8)
    if colors is not None:
        values = np.concatenate([values, colors[rows]], axis=1)
    _, first, place = np.unique(values, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    order = np.argsort(place, kind="stable")
    equal = np.flatnonzero(place[order][1:] == place[order][:-1])
    found = [np.stack([rows[order[equal]], rows[order[equal + 1]]], axis=1)]
    distinct = rows[first]
    for left, right in _close(hashes[distinct], max_distance):
        a, b = distinct[left], distinct[right]
        if colors is not None:
            alike = _correlation(colors[a], colors[b]) >= MIN_CORRELATION
            a, b = a[alike], b[alike]
        found.append(np.stack([a, b], axis=1))
    pairs = np.sort(np.concatenate(found).astype(np.int64), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _close(hashes: np.ndarray, max_distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of pairs of hashes that differ in few bits, each pair once, a chunk at a time."""
    edges = np.linspace(0, BITS, max_distance + 2).astype(int).tolist()
    parts = [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(edges)]
    for i, part in enumerate(parts):
        key = hashes & part
        order = np.argsort(key, kind="stable")
        ends = np.searchsorted(key[order], key[order], side="right")
        partners = ends - np.arange(len(order)) - 1  # later ones with the same part
        total = np.concatenate([[0], np.cumsum(partners)])
        for start in range(0, int(total[-1]), CHUNK):
            number = np.arange(start, min(start + CHUNK, int(total[-1])))
            at = np.searchsorted(total, number, side="right") - 1
            left, right = order[at], order[at + 1 + number - total[at]]
            other = hashes[left] ^ hashes[right]
            near = np.bitwise_count(other) <= max_distance
            for earlier in parts[:i]:  # in which the pair has been found
                near &= (other & earlier) != 0
            yield left[near], right[near]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) correlation of the colours of each pair; 1 for two that are constant."""
    x, y = (v.astype(np.float32) - v.mean(1, keepdims=True, dtype=np.float32) for v in (a, b))
    lengths = np.sqrt(np.vecdot(x, x) * np.vecdot(y, y))
    product: np.ndarray = np.vecdot(x, y)
    return np.where(lengths > 0, product / np.maximum(lengths, 1e-12), 1.0)


def _reduced(pixels: np.ndarray, side: int) -> Image.Image:
    """The image as means of whole blocks of pixels, no side shorter than `side` by it."""
    image = Image.fromarray(pixels)
    factor = min(image.size) // side
    return image.reduce(factor) if factor > 1 else image
