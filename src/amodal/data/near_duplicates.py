"""Groups of items that are nearly the same, found by 64-bit fingerprints of their values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

import numpy as np
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32  # pixels of the square whose frequencies are hashed
FREQUENCIES = 8  # per axis
# Bits in which the fingerprints of near-duplicates differ at most: enough for another size,
# compression or exposure. With more, drawings of few shapes are linked into very large groups.
MAX_DISTANCE = 4
# Rows; a text that more of them have is a template or the name of a class, and no duplicate.
MOST_SHARED = 10
SHARED_OF = 100  # rows, of which one may have an equal text, but always two
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # brightness of red, green and blue
BLOCK = 2048  # fingerprints that are compared with all others at once

Fingerprints = Mapping[str, Sequence[int]]  # input -> one 64-bit fingerprint for each value


def perceptual_hash(pixels: np.ndarray) -> int:
    """64-bit hash of an image that another size, compression or exposure hardly changes.

    One bit for each of the 64 lowest frequencies of the cosine transform of the brightness: whether
    it is above their median.

    Args:
        pixels: (H, W, 3) uint8.

    Examples:
        >>> import numpy as np
        >>> image = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 48, 3))
        >>> perceptual_hash(image) == perceptual_hash(image[::2, ::2])
        True
    """
    brightness = _averaged(pixels.astype(np.float32) @ LUMA)
    low = dctn(brightness, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()
    # Rounded, so that a frequency that an image does not have is no matter of rounding errors.
    low = np.round(low, 2)
    bits = low > np.median(low[1:])  # the first is the mean brightness
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def content_fingerprint(content: bytes) -> int:
    """64-bit hash that equal contents share, and that of others differs in about half of its bits.

    Examples:
        >>> content_fingerprint(b"a dog") == content_fingerprint(b"a dog")
        True
    """
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")


def near_duplicate_groups(
    fingerprints: Sequence[Fingerprints], ids: Sequence[int], exact: Collection[str] = ()
) -> np.ndarray:
    """The group of each row: rows of one id, and those linked by a near-duplicate value.

    Args:
        fingerprints: of the values of each row.
        ids: key of the id of each row.
        exact: inputs whose values have to be equal, as texts do; one that more than ten rows share,
            or more than one in a hundred, links none.

    Returns:
        (rows,) int64, numbered from 0.

    Examples:
        >>> rows = [{"image": [0b1000]}, {"image": [0b1011]}, {"image": [2**40 - 1]}, {}]
        >>> near_duplicate_groups(rows, ids=[1, 2, 3, 3]).tolist()
        [0, 0, 1, 1]
    """
    count = len(ids)
    _, by_id = np.unique(np.array(ids, dtype=np.int64), return_inverse=True)
    links = [np.stack([np.arange(count), count + by_id])]
    nodes = count + int(by_id.max(initial=-1)) + 1
    for name in dict.fromkeys(name for row in fingerprints for name in row):
        pairs = {(i, code) for i, row in enumerate(fingerprints) for code in row.get(name, ())}
        rows = np.array([i for i, _ in pairs], dtype=np.int64)
        codes = np.array([code for _, code in pairs], dtype=np.uint64)
        distinct, place, shared = np.unique(codes, return_inverse=True, return_counts=True)
        if name in exact:
            kept = shared[place] <= min(MOST_SHARED, max(2, count // SHARED_OF))
            rows, place = rows[kept], place[kept]
        else:
            links.append(nodes + _near(distinct, MAX_DISTANCE))
        links.append(np.stack([rows, nodes + place]))
        nodes += len(distinct)
    ends = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(ends.shape[1], dtype=bool), (ends[0], ends[1])), (nodes, nodes))
    _, component = connected_components(graph, directed=False)
    _, groups = np.unique(component[:count], return_inverse=True)
    return groups.astype(np.int64)


def _near(codes: np.ndarray, distance: int) -> np.ndarray:
    """(2, P) places of the pairs of codes that differ in at most `distance` bits."""
    bits = np.unpackbits(codes.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    signs = 2 * bits.astype(np.float32) - 1  # whose inner product is 64 - 2 * distance
    found = []
    for start in range(0, len(signs), BLOCK):
        left, right = np.nonzero(signs[start : start + BLOCK] @ signs.T >= 64 - 2 * distance)
        later = right > left + start
        found.append(np.stack([left[later] + start, right[later]]))
    return np.concatenate(found, axis=1) if found else np.zeros((2, 0), dtype=np.int64)


def _averaged(plane: np.ndarray) -> np.ndarray:
    """(H, W) as the means of SIDE x SIDE cells; a smaller side repeats its pixels."""
    for axis in (0, 1):
        size = plane.shape[axis]
        edges = np.linspace(0, size, SIDE + 1).astype(int)
        starts = np.minimum(edges[:-1], size - 1)
        widths = np.maximum(edges[1:] - starts, 1)
        sums = np.cumsum(np.insert(plane, 0, 0.0, axis=axis), axis=axis, dtype=np.float64)
        stops = starts + widths
        shape = (-1, 1) if axis == 0 else (1, -1)
        plane = (sums.take(stops, axis) - sums.take(starts, axis)) / widths.reshape(shape)
    return plane
