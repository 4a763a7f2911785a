"""Distance of generated images to the nearest training image, a test of memorization."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 4096  # gallery images per distance matrix


def nearest_distance(images: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square difference to the nearest image of a gallery.

    Args:
        images: (P, ...) of any numeric type.
        gallery: (G, ...) of the same shape.

    Returns:
        (P,) distance in the unit of the values, and (P,) int64 index into the gallery.

    Raises:
        ValueError: the shapes differ, or the gallery is empty.

    Examples:
        >>> import torch
        >>> from amodal.metrics import nearest_distance
        >>> gallery = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
        >>> distance, index = nearest_distance(torch.full((1, 3, 2, 2), 0.75), gallery)
        >>> distance.tolist(), index.tolist()
        ([0.25], [1])
    """
    if images.shape[1:] != gallery.shape[1:] or not len(gallery):
        raise ValueError(
            f"expected images of one shape and a gallery of at least one, got "
            f"{tuple(images.shape)} and {tuple(gallery.shape)}"
        )
    x = images.flatten(1).float()
    best = torch.full((len(x),), torch.inf)
    index = torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(gallery), CHUNK):
        y = gallery[start : start + CHUNK].flatten(1).float()
        # Expanding |x - y|^2 loses precision for similar images; this mode of cdist does not.
        distance, at = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        closer = distance < best
        best = torch.where(closer, distance, best)
        index = torch.where(closer, at + start, index)
    return best / x.shape[1] ** 0.5, index
