"""Distances between sets of rows against brute force, and what must hold for all of them."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.moments import (
    CMDConfig,
    CORALConfig,
    MMDConfig,
    cmd,
    coral,
    median_distance,
    mmd,
)

CONFIGS = {
    "mmd": MMDConfig(),
    "mmd biased": MMDConfig(bandwidth=0.7, unbiased=False),
    "coral": CORALConfig(),
    "cmd": CMDConfig(),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def sample(n, d=3, *, seed, shift=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) * scale + shift


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_equals_its_definition(unbiased):
    x, y, h, factors = (
        sample(5, seed=0),
        sample(7, seed=1, shift=0.5),
        0.8,
        (0.5, 2.0),
    )

    def kernel(a, b):
        square = sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))
        return sum(math.exp(-square / (2 * (f * h) ** 2)) for f in factors) / len(factors)

    def within(rows):
        terms = [
            kernel(a, b)
            for (i, a), (j, b) in itertools.product(enumerate(rows), enumerate(rows))
            if i != j or not unbiased
        ]
        return sum(terms) / len(terms)

    across = [kernel(a, b) for a in x for b in y]
    want = within(x) + within(y) - 2 * sum(across) / len(across)
    got = mmd(x, y, h, factors=factors, unbiased=unbiased)
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_the_bandwidth_is_the_median_distance():
    x, y = sample(4, seed=0), sample(3, seed=1)
    rows = torch.cat([x, y])
    every = sorted(math.dist(a, b) for a, b in itertools.combinations(rows.tolist(), 2))
    assert median_distance(x, y).item() == pytest.approx(every[(len(every) - 1) // 2])
    assert median_distance(x[:1], x[:1]).item() == 1
    assert median_distance(x[:1], x[:0]).item() == 1


def test_coral_equals_its_definition_and_ignores_means():
    x, y = sample(6, seed=0), sample(9, seed=1, scale=2)

    def covariance(rows):
        means = [sum(c) / len(rows) for c in zip(*rows, strict=True)]
        return [
            [
                sum((r[i] - means[i]) * (r[j] - means[j]) for r in rows) / (len(rows) - 1)
                for j in range(3)
            ]
            for i in range(3)
        ]

    a, b = covariance(x.tolist()), covariance(y.tolist())
    want = sum((a[i][j] - b[i][j]) ** 2 for i in range(3) for j in range(3)) / (4 * 9)
    assert coral(x, y).item() == pytest.approx(want, rel=1e-9)
    assert coral(x + 5, y).item() == pytest.approx(want, rel=1e-9)


def test_coral_vanishes_after_whitening_and_colouring():
    x, y = sample(50, seed=0), sample(60, seed=1, scale=3) @ sample(3, seed=2)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    white = (x - x.mean(0)) @ vectors / values.sqrt()
    coloured = white @ torch.linalg.cholesky(torch.cov(y.T)).T
    assert coral(x, y).item() > 0.1
    assert coral(coloured, y).item() == pytest.approx(0, abs=1e-20)


def test_cmd_equals_its_definition():
    x, y = sample(6, seed=0), sample(4, seed=1, shift=0.3)

    def central(rows, k):
        columns = list(zip(*rows.tolist(), strict=True))
        means = [sum(c) / len(c) for c in columns]
        if k == 1:
            return means
        return [sum((v - m) ** k for v in c) / len(c) for c, m in zip(columns, means, strict=True)]

    want = sum(math.dist(central(x, k), central(y, k)) / 1.5**k for k in range(1, 5))
    assert cmd(x, y, moments=4, width=1.5).item() == pytest.approx(want, rel=1e-6)


@every_loss
def test_gradients_are_those_of_finite_differences(config):
    # The median heuristic is detached, so its bandwidth must not move here.
    config = MMDConfig(bandwidth=0.7) if config.kind == "mmd" and config.unbiased else config
    loss = config.build()
    arguments = [
        sample(5, seed=0).requires_grad_(),
        sample(4, seed=1, shift=1).requires_grad_(),
    ]
    assert torch.autograd.gradcheck(lambda x, y: loss([x, y]), arguments)


@every_loss
def test_only_the_sets_count_not_the_order_of_rows_or_modalities(config):
    loss = config.build()
    x, y, z = sample(5, seed=0), sample(4, seed=1), sample(6, seed=2)
    want = loss([x, y, z]).item()
    assert loss([x[torch.randperm(5)], y, z]).item() == pytest.approx(want)
    assert loss([z, x, y]).item() == pytest.approx(want)
    pairs = [loss([x, y]), loss([x, z]), loss([y, z])]
    assert want == pytest.approx(torch.stack(pairs).mean().item())


@every_loss
def test_it_grows_with_the_distance_of_the_sets(config):
    loss = config.build()
    x, y = sample(200, seed=0), sample(200, seed=1)
    stretch = [1.0, 1.5, 3.0]
    values = [loss([x, y * s + (s - 1)]).item() for s in stretch]
    assert values == sorted(values)
    assert values[-1] > 5 * abs(values[0])


@every_loss
def test_no_batch_gives_a_loss_or_gradient_that_is_not_finite(config):
    count = 0
    for n, m, dtype, kind, seed in itertools.product(
        [0, 1, 2, 16],
        [1, 5, 12],
        [torch.float32, torch.bfloat16],
        ["rank 1", "zeros", "duplicates", "whitened", "equal"],
        range(9),
    ):
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(n, 8, generator=g), torch.randn(m, 8, generator=g)
        if kind == "rank 1":
            x = x[:, :1] * torch.ones(8)
        elif kind == "zeros":
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        elif kind == "duplicates":
            y = y[:1].expand(m, 8).clone()
        elif kind == "whitened":
            x = torch.linalg.qr(x)[0] if n else x
            x = F.pad(x, (0, 8 - x.shape[1]))
        elif kind == "equal":
            x = y[torch.arange(n) % m].clone()
        x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
        value = config.build()([x, y])
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()
        assert y.grad.isfinite().all()
        count += 1
    assert count == 1080


@every_loss
def test_wrong_input_is_refused(config):
    with pytest.raises(ValueError, match="2 or more modalities"):
        config.build()([sample(3, seed=0)])
    with pytest.raises(ValueError, match="expected"):
        config.build()([sample(3, seed=0), sample(3, 4, seed=0)])
    with pytest.raises(ValueError, match="bandwidth must be above 0"):
        mmd(sample(3, seed=0), sample(3, seed=1), 0.0)


@pytest.mark.slow
def test_the_unbiased_estimate_raises_false_alarms_as_often_as_promised():
    generator = torch.Generator().manual_seed(0)
    alarms, draws, permutations, n = 0, 1000, 199, 20
    for _ in range(draws):
        rows = torch.randn(2 * n, 2, generator=generator, dtype=torch.float64)
        square = torch.cdist(rows, rows).square()
        kernel = torch.exp(-square / 2).fill_diagonal_(0)
        signs = torch.ones(permutations + 1, 2 * n, dtype=torch.float64)
        for p in range(permutations + 1):
            order = torch.arange(2 * n) if p == 0 else torch.randperm(2 * n, generator=generator)
            signs[p, order[n:]] = -1
        same = (((signs @ kernel) * signs).sum(1) + kernel.sum()) / 2  # within both halves
        across = kernel.sum() - same
        values = same / (n * (n - 1)) - across / (n * n)
        first = mmd(rows[:n], rows[n:], 1.0, factors=(1.0,))
        assert first.item() == pytest.approx(values[0].item(), abs=1e-9)
        alarms += int((values >= values[0] - 1e-12).sum() <= 0.05 * (permutations + 1))
    # 5 % of 1,000 with a standard deviation of 6.9; three of them on either side.
    assert 29 <= alarms <= 71
