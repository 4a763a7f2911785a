"""Groups of items that are nearly the same, found by fingerprints of their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from amodal.data.perceptual_hash import COLORS, color_grid, near_duplicate_pairs, perceptual_hash

# Rows; a text that more of them have is a template or the name of a class, and no duplicate.
MOST_SHARED = 10
SHARED_OF = 100  # rows, of which one may have an equal text, but always two


class Fingerprint(NamedTuple):
    """Features that near-duplicates of a value share.

    Args:
        content: digest, which equal values share.
        hash: see `perceptual_hash`; 0 where equal values alone are duplicates.
        colors: bytes of `color_grid`; empty where the hash is 0.
        may_be_template: whether a value that many rows have links none of them.
    """

    content: bytes
    hash: int = 0
    colors: bytes = b""
    may_be_template: bool = False


Fingerprints = Mapping[str, Sequence[Fingerprint]]  # input -> one for each value


def content_fingerprint(content: bytes, *, may_be_template: bool = False) -> Fingerprint:
    """Fingerprint of a value whose duplicates are equal to it.

    Examples:
        >>> content_fingerprint(b"a dog") == content_fingerprint(b"a dog")
        True
    """
    return Fingerprint(blake2b(content, digest_size=16).digest(), may_be_template=may_be_template)


def image_fingerprint(pixels: np.ndarray) -> Fingerprint:
    """Fingerprint of an image; of one that is nearly all background, equal ones are duplicates.

    Args:
        pixels: (H, W, 3) uint8.

    Examples:
        >>> import numpy as np
        >>> image_fingerprint(np.full((9, 9, 3), 255, np.uint8)).hash
        0
    """
    exact = content_fingerprint(repr(pixels.shape).encode() + pixels.tobytes())
    found = perceptual_hash(pixels)
    return exact._replace(hash=found, colors=color_grid(pixels).tobytes()) if found else exact


def near_duplicate_groups(fingerprints: Sequence[Fingerprints], ids: Sequence[int]) -> np.ndarray:
    """The group of each row: rows of one id, and those linked by a near-duplicate value.

    A value that may be a template links none where more than ten rows have it, or more than one in
    a hundred.

    Args:
        fingerprints: of the values of each row.
        ids: key of the id of each row.

    Returns:
        (rows,) int64, numbered from 0.

    Examples:
        >>> dog, cat = content_fingerprint(b"a dog"), content_fingerprint(b"a cat")
        >>> rows = [{"text": [dog]}, {"text": [dog]}, {"text": [cat]}, {}]
        >>> near_duplicate_groups(rows, ids=[1, 2, 3, 3]).tolist()
        [0, 0, 1, 1]
    """
    count = len(ids)
    _, by_id = np.unique(np.array(ids, dtype=np.int64), return_inverse=True)
    links = [np.stack([np.arange(count), count + by_id], axis=1)]
    nodes = count + int(by_id.max(initial=-1)) + 1
    for name in dict.fromkeys(name for row in fingerprints for name in row):
        values = [set(row.get(name, ())) for row in fingerprints]
        shared = Counter(value for row in values for value in row)
        node = {value: nodes + place for place, value in enumerate(shared)}
        most = min(MOST_SHARED, max(2, count // SHARED_OF))
        direct = [
            (i, node[value])
            for i, row in enumerate(values)
            for value in row
            if not (value.may_be_template and shared[value] > most)
        ]
        links += [np.array(direct, np.int64).reshape(-1, 2), nodes + _near_pairs(list(shared))]
        nodes += len(shared)
    ends = np.concatenate(links).T
    graph = coo_array((np.ones(ends.shape[1], dtype=bool), (ends[0], ends[1])), (nodes, nodes))
    _, component = connected_components(graph, directed=False)
    _, groups = np.unique(component[:count], return_inverse=True)
    return groups.astype(np.int64)


def _near_pairs(values: Sequence[Fingerprint]) -> np.ndarray:
    """(P, 2) places of the pairs of values that are near-duplicate images."""
    places = np.array([i for i, value in enumerate(values) if value.hash], np.int64)
    hashes = np.array([values[i].hash for i in places], np.uint64)
    colors = np.frombuffer(b"".join(values[i].colors for i in places), np.uint8)
    return places[near_duplicate_pairs(hashes, colors.reshape(-1, COLORS))]
