"""Shared and private codes: each term by hand, and what the whole does on a small world."""

import itertools
import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.shared_private import (
    SharedPrivateConfig,
    agreement_loss,
    difference_loss,
    normalized_hsic,
    unexplained_share,
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
    assert difference_loss([(a, b)]).item() == pytest.approx(want, rel=1e-12)
    assert difference_loss([(a, b), (a, b)]).item() == pytest.approx(2 * want, rel=1e-12)


def test_difference_is_nothing_for_unrelated_columns_and_most_for_a_copy():
    angle = torch.arange(64, dtype=torch.float64) / 64 * 2 * math.pi
    a = torch.stack([angle.cos(), angle.sin()], 1)
    b = torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1)
    assert difference_loss([(a, b)]).item() == pytest.approx(0, abs=1e-12)
    copied = normal(64, 1, seed=0)
    assert difference_loss([(copied, copied)]).item() == pytest.approx(1)


def test_dependence_equals_the_sum_over_quadruples():
    a, b = normal(6, 2, seed=0), normal(6, 3, seed=1)

    def kernel(rows):
        rows = rows.tolist()
        square = {
            (i, j): math.dist(rows[i], rows[j]) ** 2 for i in range(6) for j in range(6) if i != j
        }
        width = statistics.median_low(square.values())
        return {pair: math.exp(-value / width) for pair, value in square.items()}

    def hsic(f, g):
        # over distinct items
        terms = [
            f[i, j] * g[i, j] + f[i, j] * g[q, r] - 2 * f[i, j] * g[i, q]
            for i, j, q, r in itertools.permutations(range(6), 4)
        ]
        return sum(terms) / len(terms)

    f, g = kernel(a), kernel(b)
    want = hsic(f, g) / math.sqrt(hsic(f, f) * hsic(g, g))
    assert normalized_hsic(a, b).item() == pytest.approx(want, rel=1e-6)


def test_dependence_sees_what_difference_does_not():
    angle = torch.arange(64, dtype=torch.float64) / 64 * 2 * math.pi
    a = torch.stack([angle.cos(), angle.sin()], 1)
    b = torch.stack([(2 * angle).cos(), (2 * angle).sin()], 1)
    assert difference_loss([(a, b)]).item() == pytest.approx(0, abs=1e-12)
    assert normalized_hsic(a, b).item() > 0.1
    assert normalized_hsic(a, a).item() == pytest.approx(1)


def test_dependence_of_independent_rows_is_zero_on_average():
    values = torch.stack(
        [normalized_hsic(normal(20, 2, seed=s), normal(20, 2, seed=1000 + s)) for s in range(400)]
    )
    # Four standard errors of the mean of 400 draws; no single draw is near 0 by construction.
    assert abs(values.mean()) < 4 * values.std() / 20
    assert values.std() > 0.01


def test_gradients_of_dependence_are_finite_differences_at_a_fixed_bandwidth():
    # The bandwidth is detached, so rows are moved while one pair keeps the median in place.
    a = torch.tensor([[0.0], [1.0], [3.0], [7.0], [12.0]], dtype=torch.float64)
    b = normal(5, 2, seed=3).requires_grad_()
    step, target = 1e-6, normal(5, 2, seed=4)
    loss = normalized_hsic(a, b)
    (slope,) = torch.autograd.grad(loss, b)
    assert slope.isfinite().all()
    # Turning and moving b changes no distance, so neither the loss nor the bandwidth may follow.
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert (slope * (b.detach() @ turn)).sum().item() == pytest.approx(0, abs=1e-10)
    assert slope.sum(0).abs().max().item() == pytest.approx(0, abs=1e-10)
    # A row that is in no median pair moves the loss along its gradient.
    distance = torch.cdist(b.detach(), b.detach())
    median = distance[~torch.eye(5, dtype=torch.bool)].median()
    free = [i for i in range(5) if not torch.isclose(distance[i], median).any()]
    assert free
    for i in free:
        moved = b.detach().clone()
        moved[i] += step * target[i]
        want = (normalized_hsic(a, moved) - loss).item() / step
        assert (slope[i] @ target[i]).item() == pytest.approx(want, rel=1e-3)


def test_agreement_is_the_mean_squared_distance():
    a, b, c = (F.normalize(normal(5, 3, seed=s), dim=1) for s in range(3))
    want = [
        sum(((x[i] - y[i]) ** 2).sum().item() for i in range(5)) / 5
        for x, y in ((a, b), (a, c), (b, c))
    ]
    assert agreement_loss([a, b, c]).item() == pytest.approx(sum(want) / 3)
    assert agreement_loss([a, a]).item() == 0


def test_reconstruction_is_the_unexplained_share():
    x = normal(50, 3, seed=0)
    assert unexplained_share(x, x).item() == 0
    assert unexplained_share(x.mean(0).expand_as(x), x).item() == pytest.approx(1)
    assert unexplained_share(x * 9 + 1, x * 9 + 2).item() == pytest.approx(
        unexplained_share(x + 1 / 9, x + 2 / 9).item()
    )


@pytest.mark.parametrize("similarity", ["info_nce", "cmd", "mmd"])
@pytest.mark.parametrize("cross", [True, False])
def test_the_loss_is_the_weighted_sum_in_any_order_of_the_items(similarity, cross):
    torch.manual_seed(0)
    config = SharedPrivateConfig(
        shared_dim=3,
        private_dim=2,
        hidden=8,
        similarity=similarity,
        cross_reconstruction=cross,
        agreement_weight=0.5,
    )
    module = config.build({"image": 5, "text": 4, "audio": 6}).double()
    x = {m: normal(7, d, seed=d) for m, d in module.widths.items()}
    found = module.terms(x)
    want = (
        found["similarity"]
        + 0.5 * found["agreement"]
        + found["difference"]
        + 3 * found["dependence"]
        + found["reconstruction"]
    )
    assert module(x).item() == pytest.approx(want.item())
    order = torch.randperm(7)
    assert module({m: v[order] for m, v in x.items()}).item() == pytest.approx(want.item())


def test_gradients_equal_finite_differences_and_reach_every_parameter():
    torch.manual_seed(0)
    # Without dependence, whose bandwidth is detached.
    config = SharedPrivateConfig(shared_dim=2, private_dim=2, hidden=5, dependence_weight=0)
    module = config.build({"a": 3, "b": 4}).double()
    x, y = normal(5, 3, seed=0).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: module({"a": a, "b": b}), (x, y))
    module({"a": x, "b": y}).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize("similarity", ["info_nce", "cmd", "mmd", "adversarial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["zeros", "ones", "rank 1", "duplicates", "whitened", "plain"])
def test_degenerate_features_give_finite_losses_and_gradients(similarity, dtype, kind):
    torch.manual_seed(0)
    config = SharedPrivateConfig(shared_dim=4, private_dim=3, hidden=5, similarity=similarity)
    module = config.build({"a": 3, "b": 9})
    for n in (0, 1, 2, 6):
        x = {}
        for m, d in module.widths.items():
            rows = torch.randn(n, d)
            if kind in ("zeros", "ones"):
                rows = torch.full((n, d), float(kind == "ones"))
            elif kind == "rank 1":
                rows = rows[:, :1] * torch.ones(d)
            elif kind == "duplicates":
                rows = rows[:1].expand(n, d).clone()
            elif kind == "whitened" and n >= d:
                rows = torch.linalg.qr(rows)[0]
            x[m] = rows.to(dtype).requires_grad_()
        module.zero_grad()
        loss = module(x)
        loss.backward()
        assert loss.isfinite()
        assert loss.dtype == torch.float32
        grads = [p.grad for p in [*module.parameters(), *x.values()] if p.grad is not None]
        assert all(g.isfinite().all() for g in grads)


def test_items_with_a_missing_modality_count_as_if_they_had_never_been_there():
    module = SharedPrivateConfig(shared_dim=4, private_dim=3, hidden=5).build({"a": 3, "b": 4})
    x = {m: normal(8, d, seed=d).float() for m, d in module.widths.items()}
    keep = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)
    damaged = {m: v.clone() for m, v in x.items()}
    damaged["b"][~keep] = torch.nan  # what a missing row holds must not matter
    want = module(
        {m: torch.stack([r for r, k in zip(v, keep, strict=True) if k]) for m, v in x.items()}
    )
    assert torch.equal(module({m: v[keep] for m, v in damaged.items()}), want)


def test_the_discriminator_learns_against_the_codes():
    torch.manual_seed(0)
    config = SharedPrivateConfig(shared_dim=4, private_dim=3, hidden=8, similarity="adversarial")
    module = config.build({"a": 3, "b": 4})
    x = {m: normal(6, d, seed=d).float() for m, d in module.widths.items()}
    module.adversary.step.fill_(10_000)  # past the ramp
    module.terms(x)["similarity"].backward()
    of_codes = [p.grad.clone() for p in module.shared.parameters()]
    assert any(p.grad.abs().max() > 0 for p in module.adversary.parameters())
    # Along the gradient that the codes get, the discriminator's loss rises.
    module.eval()
    before = module.terms(x)["similarity"].item()
    with torch.no_grad():
        for p, g in zip(module.shared.parameters(), of_codes, strict=True):
            p -= 1e-2 * g
    assert module.terms(x)["similarity"].item() > before


def test_what_does_not_fit_is_refused():
    module = SharedPrivateConfig().build({"a": 3, "b": 4})
    with pytest.raises(ValueError, match="expected paired features"):
        module({"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="expected paired features"):
        module({"a": torch.zeros(2, 3), "b": torch.zeros(3, 4)})
    with pytest.raises(ValueError, match="paired rows"):
        normalized_hsic(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="2 or more modalities"):
        SharedPrivateConfig().build({"a": 3})


def test_shared_codes_are_given_for_one_modality_alone():
    module = SharedPrivateConfig(shared_dim=6).build({"a": 3, "b": 4})
    codes = module.encode({"b": torch.randn(5, 4)})
    assert codes.shared["b"].shape == (5, 6)
    torch.testing.assert_close(codes.shared["b"].norm(dim=1), torch.ones(5))
