"""Taking modalities away at random, so that a fusion learns to do without any of them."""

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
    """Presence masks with modalities gone at random; an item never loses all that it has.

    Each modality of an item goes with its rate, independently; where that would leave an item
    with nothing, one of what it had stays, each with the same probability.

    Args:
        present: modality -> (B, V) bool.
        rates: for all modalities, or by name; one that is not named stays.
        rngs: B generators, one per item.

    References:
        Neverova et al. 2014, arXiv:1501.00102, section 4.3 (ModDrop).
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
