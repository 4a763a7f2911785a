"""The pointing game on maps whose score is known, and where fusions say that they look."""

import pytest
import torch

from amodal.encoders.pooling import AttentionPooling
from amodal.metrics.pointing import pointing_game


def test_a_map_that_peaks_on_its_target_hits():
    maps, targets = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool)
    maps[:, 1, 1], maps[:, 0, 0] = 3.0, 1.0
    targets[0, 1, 1] = targets[1, 2, 2] = True
    found = pointing_game(maps, targets, bootstrap=0)
    assert found.hits.value == 0.5
    assert found.inside.value == pytest.approx(0.75 / 2)
    assert found.chance == pytest.approx(1 / 9)


def test_a_flat_map_gets_chance():
    g = torch.Generator().manual_seed(0)
    targets = torch.rand(50, 4, 4, generator=g) < 0.3
    found = pointing_game(torch.ones(50, 4, 4), targets, bootstrap=100)
    assert found.hits.value == pytest.approx(found.chance)
    assert found.inside.value == pytest.approx(found.chance)
    assert found.hits.low <= found.hits.value <= found.hits.high


def test_maps_without_a_target_are_left_out():
    maps = torch.rand(3, 2, 2)
    targets = torch.zeros(3, 2, 2, dtype=torch.bool)
    targets[0, 0, 0] = True
    alone = pointing_game(maps[:1], targets[:1], bootstrap=0)
    assert pointing_game(maps, targets, bootstrap=0).inside.value == alone.inside.value
    with pytest.raises(ValueError, match="no target"):
        pointing_game(maps[1:], targets[1:])
    with pytest.raises(ValueError, match="one shape"):
        pointing_game(maps, targets[:2])


def test_the_weights_of_a_pooling_are_those_it_pools_with():
    torch.manual_seed(0)
    pooling = AttentionPooling(64).double()
    tokens = torch.randn(4, 5, 64, dtype=torch.float64)
    keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]]).bool()
    shares = pooling.weights(tokens, keep)
    assert shares.sum(1).tolist() == pytest.approx([1, 1, 0, 1])
    assert (shares[~keep] == 0).all()
    # With the same value everywhere but on one token, the answer moves by that token's share.
    with torch.no_grad():
        pooling.key_value.weight[64:].zero_()
        pooling.key_value.bias[64:] = 1.0
        pooling.out.weight.copy_(torch.eye(64))
        pooling.out.bias.zero_()
        pooling.key_value.weight[64:, 0] = 1.0  # values: 1 + first number of the token
        moved = tokens.clone()
        before = pooling(moved, keep)
        heads = []
        for token in range(5):
            values = 1 + moved[:, :, 0]
            assert values.shape == (4, 5)
            heads.append(shares[:, token] * values[:, token])
        got = before.view(4, 2, 32).mean(1)[:, 0]
    want = torch.stack(heads, 1).sum(1)
    assert got.tolist() == pytest.approx(want.tolist(), abs=1e-9)
