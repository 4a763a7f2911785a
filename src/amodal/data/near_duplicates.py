"""Near-duplicate images: a 64-bit perceptual hash, and the pairs of images with close hashes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

BITS = 64
SIDE = 32  # pixels of the reduced image whose low frequencies are hashed
# Bits in which the hashes of two near-duplicates differ at most. Of the 24 million pairs of 7,000
# Flickr8k photos one is as close: the same photo twice. The first pair of other photos differs
# in 8 bits. Of 500 photos saved again as JPEG of quality 10, halved in size, or made 30 % darker,
# each stays within 6 bits; a copy that was cropped by more than some pixels is not found.
MAX_DISTANCE = 6
CHUNK = 1 << 20  # candidate pairs that are compared at once
# The hash of an image of one colour would be noise: it is a duplicate of nothing.
FLAT = 1e-3  # largest standard deviation of a flat image, of pixels scaled to 0…1


def _cosines() -> np.ndarray:
    """(8, SIDE) rows 1 … 8 of the type II discrete cosine transform."""
    frequency, place = np.arange(1, 9)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * (place + 0.5) * frequency / SIDE)


COSINES = _cosines()


def perceptual_hash(pixels: np.ndarray) -> int:
    """The signs of 64 low frequencies of an image around their median.

    Resizing, compression, and changes of brightness or contrast leave most bits as they are.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        An unsigned 64-bit number; 0 for an image of one colour.

    References:
        Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".

    Examples:
        >>> import numpy as np
        >>> from amodal.data.near_duplicates import perceptual_hash
        >>> rng = np.random.default_rng(0)
        >>> image = rng.integers(0, 200, (60, 80, 3), dtype=np.uint8)
        >>> (perceptual_hash(image) ^ perceptual_hash(image + 20)).bit_count() <= 2
        True
        >>> perceptual_hash(np.full((9, 9, 3), 255, np.uint8))
        0
    """
    grey = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(grey, np.float64) / 255
    if values.std() < FLAT:
        return 0
    low = (COSINES @ values @ COSINES.T).ravel()
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def near_duplicate_pairs(hashes: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """All pairs of images whose hashes differ in few bits.

    Two hashes that differ in d bits are equal in one of d + 1 parts of their bits, so only hashes
    that share a part are compared. Images with equal hashes are listed as a chain of neighbours:
    a thousand copies of one image are 999 pairs, not half a million.

    Args:
        hashes: (N,) uint64; 0 is the hash of no image, or of a flat one, and pairs with none.
        max_distance: of a pair, in bits.

    Returns:
        (P, 2) int64 row numbers, the smaller one first, sorted.

    Raises:
        ValueError: the distance is not in 0 … 15.

    Examples:
        >>> import numpy as np
        >>> from amodal.data.near_duplicates import near_duplicate_pairs
        >>> near_duplicate_pairs(np.array([0b1111, 1 << 40, 0b1110, 1 << 40], np.uint64)).tolist()
        [[0, 2], [1, 3]]
    """
    if not 0 <= max_distance <= 15:
        raise ValueError(f"max_distance must lie in 0…15, got {max_distance}")
    rows = np.flatnonzero(hashes)
    distinct, place = np.unique(hashes[rows], return_inverse=True)
    order = np.argsort(place, kind="stable")
    equal = np.flatnonzero(place[order][1:] == place[order][:-1])
    found = [np.stack([rows[order[equal]], rows[order[equal + 1]]], axis=1)]
    first = rows[order[np.searchsorted(place[order], np.arange(len(distinct)))]]
    for left, right in _candidates(distinct, max_distance + 1):
        near = np.bitwise_count(distinct[left] ^ distinct[right]) <= max_distance
        found.append(first[np.stack([left[near], right[near]], axis=1)])
    pairs = np.sort(np.concatenate(found).astype(np.int64), axis=1)
    return np.unique(pairs, axis=0)


def near_duplicate_groups(hashes: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """(N,) int64 the smallest row number of the group of each image; groups join pairs.

    Args:
        hashes: (N,) uint64, as for `near_duplicate_pairs`.
        max_distance: of a pair, in bits.

    Examples:
        >>> import numpy as np
        >>> from amodal.data.near_duplicates import near_duplicate_groups
        >>> near_duplicate_groups(np.array([7, 1 << 40, 3, 1], np.uint64), max_distance=1).tolist()
        [0, 1, 0, 0]
    """
    group = np.arange(len(hashes), dtype=np.int64)
    pairs = near_duplicate_pairs(hashes, max_distance)
    while True:  # each image takes the smallest group of its neighbours, until nothing changes
        least = group.copy()
        smaller = np.minimum(group[pairs[:, 0]], group[pairs[:, 1]])
        np.minimum.at(least, pairs[:, 0], smaller)
        np.minimum.at(least, pairs[:, 1], smaller)
        least = least[least]
        if np.array_equal(least, group):
            return group
        group = least


def _candidates(hashes: np.ndarray, parts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of pairs of distinct hashes that share one of the parts, a chunk at a time."""
    edges = np.linspace(0, BITS, parts + 1).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        key = (hashes >> np.uint64(low)) & mask
        order = np.argsort(key, kind="stable")
        ends = np.searchsorted(key[order], key[order], side="right")
        partners = ends - np.arange(len(order)) - 1  # later ones with the same part
        total = np.concatenate([[0], np.cumsum(partners)])
        for start in range(0, int(total[-1]), CHUNK):
            number = np.arange(start, min(start + CHUNK, int(total[-1])))
            at = np.searchsorted(total, number, side="right") - 1
            yield order[at], order[at + 1 + number - total[at]]
