"""How far drawn images are from those that were trained on, and from each other."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 4096  # images of the gallery at once


def nearest_distance(images: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """The most alike image of a gallery.

    Args:
        images: (P, ...) of any numeric type.
        gallery: (G, ...) of the same shape.

    Returns:
        (P,) root mean square difference over all values, in the values' own unit, and (P,) int64
        which of the gallery it is.

    Raises:
        ValueError: the shapes differ, or the gallery is empty.
    """
    if images.shape[1:] != gallery.shape[1:] or not len(gallery):
        raise ValueError(
            f"expected images of one shape and a gallery of at least one, got "
            f"{tuple(images.shape)} and {tuple(gallery.shape)}"
        )
    x = images.flatten(1).float()
    best = torch.full((len(x),), torch.inf)
    place = torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(gallery), CHUNK):
        y = gallery[start : start + CHUNK].flatten(1).float()
        # |x - y|^2 by its parts loses digits where both are alike; cdist then counts them out.
        distance, at = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        closer = distance < best
        best = torch.where(closer, distance, best)
        place = torch.where(closer, at + start, place)
    return best / x.shape[1] ** 0.5, place
