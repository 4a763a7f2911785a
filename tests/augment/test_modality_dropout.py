"""Modality dropout takes modalities away at its rates, never all that an item has."""

import numpy as np
import pytest
import torch

from amodal.augment.modality import drop_modalities

N = 3000


def rngs(n=N):
    return [np.random.default_rng([7, i]) for i in range(n)]


def everyone(n=N):
    return {m: torch.ones(n, 1, dtype=torch.bool) for m in ("image", "audio", "text")}


def test_rates_hold_for_each_modality():
    kept = drop_modalities(everyone(), {"image": 0.5, "audio": 0.2}, rngs())
    assert kept["image"].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert kept["audio"].float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert kept["text"].all()


def test_nobody_loses_everything_and_nobody_gains():
    there = everyone()
    there["audio"][::2] = False
    there["text"][:] = False
    there["image"][::6] = False  # every sixth item has nothing
    kept = drop_modalities(there, 0.95, rngs())
    had = torch.stack(list(there.values())).any(0)
    left = torch.stack(list(kept.values()))
    assert torch.equal(left.any(0), had)
    assert bool((torch.stack(list(there.values())) | ~left).all())
    assert (left.sum(0)[had] == 1).float().mean() > 0.85


def test_the_same_generators_drop_the_same():
    first, again = (drop_modalities(everyone(50), 0.4, rngs(50)) for _ in range(2))
    assert all(torch.equal(first[m], again[m]) for m in first)


def test_one_missing_value_changes_no_other_draw():
    there = everyone(50)
    there["image"][3] = False
    kept, whole = (drop_modalities(x, 0.4, rngs(50)) for x in (there, everyone(50)))
    rows = [i for i in range(50) if i != 3]
    assert all(torch.equal(kept[m][rows], whole[m][rows]) for m in kept)
