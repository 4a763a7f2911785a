"""Batch normalization under the context of training, in one process."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from amodal.encoders.audio.masked_norm import MaskedBatchNorm
from amodal.training.optim.batch_norm import SynchronizedBatchNorm


def test_one_process_computes_what_torch_computes():
    one, two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with SynchronizedBatchNorm():
        got = one(x)
    assert torch.equal(got, two(x))
    assert torch.equal(one.running_var, two.running_var)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_values_use_the_running_statistics(rows):
    layer = nn.BatchNorm1d(3)
    x = torch.randn(rows, 3)
    with SynchronizedBatchNorm():
        got = layer(x)
    assert torch.equal(got, F.batch_norm(x, torch.zeros(3), torch.ones(3), *layer.parameters()))
    assert torch.equal(layer.running_mean, torch.zeros(3))


def test_without_running_statistics_a_single_row_is_refused_as_by_torch():
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    with SynchronizedBatchNorm(), pytest.raises(ValueError, match="more than 1 value"):
        layer(torch.ones(1, 3))


def test_masked_normalization_of_one_process_is_as_before():
    layer, x = MaskedBatchNorm(2), torch.randn(2, 2, 3, 1)
    keep = torch.tensor([[True, True, False], [True, False, False]])
    with SynchronizedBatchNorm():
        y = layer(x, keep)
    assert y.permute(0, 2, 3, 1)[keep].mean().abs() < 1e-6
    assert (y.permute(0, 2, 3, 1)[~keep] == 0).all()
