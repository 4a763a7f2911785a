"""Modality dropout, so that a fusion model learns to work with missing modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def drop_modalities(
    present: Mapping[str, Tensor],
    rates: float | Mapping[str, float],
    rngs: Sequence[np.random.Generator],
) -> dict[str, Tensor]:
    """Modality dropout: presence masks with modalities dropped at random.

    Each modality of an item is dropped with its rate, independently; where an item would lose all
    its modalities, one of them, drawn uniformly, is kept.

    Args:
        present: modality -> (B, V) bool.
        rates: for all modalities, or by name; others are never dropped.
        rngs: B generators, one per item.

    References:
        Neverova et al. 2014, arXiv:1501.00102, section 4.3 (ModDrop).

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from amodal.augment import drop_modalities
        >>> present = {m: torch.ones(3, 1, dtype=torch.bool) for m in ("image", "audio")}
        >>> rngs = [np.random.default_rng(i) for i in range(3)]
        >>> kept = drop_modalities(present, rates=0.9, rngs=rngs)
        >>> (kept["image"] | kept["audio"]).all().item()  # every item keeps a modality
        True
    """
    names = list(present)
    rate = np.array([rates.get(m, 0.0) if isinstance(rates, Mapping) else rates for m in names])
    there = np.stack([present[m].any(1).numpy() for m in names], axis=1)  # (B, M)
    kept = there.copy()
    for row, rng in enumerate(rngs):
        # Drawn for every modality, present or not: one more missing value changes no other draw.
        drawn = rng.random(len(names))
        last = int(rng.integers(1 << 30))
        kept[row] &= drawn >= rate
        if there[row].any() and not kept[row].any():
            had = np.flatnonzero(there[row])
            kept[row, had[last % len(had)]] = True
    return {m: present[m] & torch.from_numpy(kept[:, i, None]) for i, m in enumerate(names)}
