"""Losses at prefixes of the embedding."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from amodal.losses.info_nce import InfoNCEConfig, info_nce_loss
from amodal.losses.matryoshka import MatryoshkaConfig, truncate_embedding
from amodal.losses.sigmoid import SigmoidConfig
from amodal.losses.triplet import TripletConfig


def unit(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1)


def test_it_is_the_weighted_mean_of_the_loss_at_each_prefix():
    loss = MatryoshkaConfig(dims=(2, 8), weights=(3, 1), loss=InfoNCEConfig(temperature=0.5))
    left, right = unit(6, 8, 0), unit(6, 8, 1)
    scale = -torch.tensor(0.5).log().double()
    short = [z[:, :2] / z[:, :2].square().sum(1, keepdim=True).sqrt() for z in (left, right)]
    want = (3 * info_nce_loss(*short, scale) + info_nce_loss(left, right, scale)) / 4
    got = loss.build(8)(left, right)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


@pytest.mark.parametrize("inner", [InfoNCEConfig(), SigmoidConfig(), TripletConfig(mining="all")])
def test_gradients_are_those_of_finite_differences_and_the_mask_is_passed_on(inner):
    loss = MatryoshkaConfig(dims=(2, 4), loss=inner).build(4).double().eval()
    item = torch.tensor([0, 1, 1, 2, 3])
    arguments = [unit(5, 4, 0).requires_grad_(), unit(5, 4, 1).requires_grad_()]

    def masked(left, right):
        return loss(left, right, item[:, None] == item)

    assert torch.autograd.gradcheck(masked, arguments)
    assert masked(*arguments) != loss(*arguments)


def test_prefixes_of_nothing_are_finite():
    z = torch.zeros(3, 8, requires_grad=True)
    value = MatryoshkaConfig(dims=(2, 8)).build(8)(z, z)
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()
    assert truncate_embedding(unit(3, 8, 0), 2).norm(dim=1) == pytest.approx(torch.ones(3))


def test_the_temperature_of_the_inner_loss_is_kept_in_its_bounds():
    loss = MatryoshkaConfig(dims=(2,)).build(4)
    loss.log_scale.data.fill_(9.0)
    loss.constrain_()
    assert loss.log_scale.exp().item() == pytest.approx(100)
    assert MatryoshkaConfig(dims=(2,), loss=TripletConfig()).build(4).log_scale is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"dims \[2, 8\] do not fit embeddings of 4"):
        MatryoshkaConfig(dims=(2, 8)).build(4)
    for wrong in (
        {"dims": ()},
        {"dims": (2, 2)},
        {"dims": (2, 4), "weights": (1,)},
        {"dims": (2,), "loss": {"kind": "info_nce", "weight": 2}},
        {"dims": (2,), "loss": {"kind": "info_nce", "queue_size": 8}},
        {"dims": (2,), "loss": {"kind": "deep_cca"}},
    ):
        with pytest.raises(ValidationError):
            MatryoshkaConfig.model_validate(wrong)
