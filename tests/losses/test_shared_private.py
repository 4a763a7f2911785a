"""Shared and private codes: each term by hand, and what the whole does on a small world."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.shared_private import (
    SharedPrivateConfig,
    agreement,
    difference,
    reconstruction,
)


def normal(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def test_difference_equals_the_sum_over_columns():
    a, b = normal(6, 3, seed=0), normal(6, 4, seed=1)

    def ready(rows):
        mean = [sum(r[k] for r in rows) / len(rows) for k in range(len(rows[0]))]
        rows = [[x - m for x, m in zip(r, mean, strict=True)] for r in rows]
        return [[x / math.sqrt(sum(y * y for y in r)) for x in r] for r in rows]

    left, right = ready(a.tolist()), ready(b.tolist())
    want = sum(
        (sum(left[n][i] * right[n][j] for n in range(6)) / 6) ** 2
        for i in range(3)
        for j in range(4)
    )
    assert difference([(a, b)]).item() == pytest.approx(want, rel=1e-12)
    assert difference([(a, b), (a, b)]).item() == pytest.approx(2 * want, rel=1e-12)


def test_difference_is_nothing_for_unrelated_columns_and_most_for_a_copy():
    angle = torch.arange(64, dtype=torch.float64) / 64 * 2 * math.pi
    a = torch.stack([angle.cos(), angle.sin()], 1)
    b = torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1)
    assert difference([(a, b)]).item() == pytest.approx(0, abs=1e-12)
    copied = normal(64, 1, seed=0)
    assert difference([(copied, copied)]).item() == pytest.approx(1)


def test_agreement_is_the_mean_squared_distance():
    a, b, c = (F.normalize(normal(5, 3, seed=s), dim=1) for s in range(3))
    want = [
        sum(((x[i] - y[i]) ** 2).sum().item() for i in range(5)) / 5
        for x, y in ((a, b), (a, c), (b, c))
    ]
    assert agreement([a, b, c]).item() == pytest.approx(sum(want) / 3)
    assert agreement([a, a]).item() == 0


def test_reconstruction_is_the_unexplained_share():
    x = normal(50, 3, seed=0)
    assert reconstruction(x, x).item() == 0
    assert reconstruction(x.mean(0).expand_as(x), x).item() == pytest.approx(1)
    assert reconstruction(x * 9 + 1, x * 9 + 2).item() == pytest.approx(
        reconstruction(x + 1 / 9, x + 2 / 9).item()
    )


@pytest.mark.parametrize("similarity", ["pairs", "cmd"])
@pytest.mark.parametrize("cross", [True, False])
def test_the_loss_is_the_weighted_sum_in_any_order_of_the_items(similarity, cross):
    torch.manual_seed(0)
    config = SharedPrivateConfig(
        shared=3, private=2, hidden=8, similarity=similarity, cross=cross, agreement_weight=0.5
    )
    module = config.build({"image": 5, "text": 4, "audio": 6}).double()
    x = {m: normal(7, d, seed=d) for m, d in module.widths.items()}
    found = module.terms(x)
    want = (
        found["similarity"]
        + 0.5 * found["agreement"]
        + found["difference"]
        + found["reconstruction"]
    )
    assert module(x).item() == pytest.approx(want.item())
    order = torch.randperm(7)
    assert module({m: v[order] for m, v in x.items()}).item() == pytest.approx(want.item())


def test_gradients_equal_finite_differences_and_reach_every_parameter():
    torch.manual_seed(0)
    module = SharedPrivateConfig(shared=2, private=2, hidden=5).build({"a": 3, "b": 4}).double()
    x, y = normal(5, 3, seed=0).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: module({"a": a, "b": b}), (x, y))
    module({"a": x, "b": y}).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_degenerate_features_give_finite_losses_and_gradients(n):
    module = SharedPrivateConfig(shared=4, private=3, hidden=5).build({"a": 3, "b": 4})
    for make in (torch.zeros, torch.ones, lambda *s: torch.randn(s[0], 1) * torch.ones(*s)):
        x = {"a": make(n, 3).requires_grad_(), "b": make(n, 4).requires_grad_()}
        module.zero_grad()
        loss = module(x)
        loss.backward()
        assert loss.isfinite()
        grads = [p.grad for p in [*module.parameters(), *x.values()] if p.grad is not None]
        assert all(g.isfinite().all() for g in grads)


def test_what_does_not_fit_is_refused():
    module = SharedPrivateConfig().build({"a": 3, "b": 4})
    with pytest.raises(ValueError, match="expected matched features"):
        module({"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="expected matched features"):
        module({"a": torch.zeros(2, 3), "b": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match="2 or more modalities"):
        SharedPrivateConfig().build({"a": 3})


def test_shared_codes_are_given_for_one_modality_alone():
    module = SharedPrivateConfig(shared=6).build({"a": 3, "b": 4})
    codes = module.encode({"b": torch.randn(5, 4)})
    assert codes.shared["b"].shape == (5, 6)
    torch.testing.assert_close(codes.shared["b"].norm(dim=1), torch.ones(5))
