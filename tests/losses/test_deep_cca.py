"""Deep CCA against matrix square roots in numpy, closed forms, degenerate batches, gradients."""

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from pydantic import ValidationError
from torch import nn

from amodal.losses.autoencoding import DeepCCAEConfig, deep_ccae_loss, reconstruction_mse
from amodal.losses.deep_cca import (
    FLOOR,
    SMOOTH,
    DeepCCA,
    DeepCCAConfig,
    captured_correlation,
    deep_cca_loss,
)

VARIANTS = ["squared", "trace_norm"]


def normal(*shape, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype)


def related(n, dim, views, seed):
    latent = normal(n, dim, seed=seed)
    return [
        latent @ normal(dim, dim, seed=seed + 10 + i) + normal(n, dim, seed=seed + 20 + i)
        for i in range(views)
    ]


def brute_covariance(views):
    """Joint covariance, one row at a time."""
    rows = np.concatenate([v.double().detach().numpy() for v in views], 1)
    mean = sum(rows) / len(rows)
    return sum(np.outer(r - mean, r - mean) for r in rows) / (len(rows) - 1)


def brute_captured(covariance, m, ridge, variant):
    """The definition with inverse matrix square roots and a singular value decomposition."""
    e, total, pairs = len(covariance) // m, 0.0, 0
    for i in range(m):
        for j in range(i + 1, m):
            roots = []
            for k in (i, j):
                own = covariance[k * e : (k + 1) * e, k * e : (k + 1) * e]
                own = own + (ridge * np.trace(own) / e + FLOOR) * np.eye(e)
                roots.append(scipy.linalg.fractional_matrix_power(own, -0.5).real)
            cross = covariance[i * e : (i + 1) * e, j * e : (j + 1) * e]
            rho = np.linalg.svd(roots[0] @ cross @ roots[1], compute_uv=False)
            squares = rho**2
            total += (
                squares.sum()
                if variant == "squared"
                else (np.sqrt(squares + SMOOTH**2) - SMOOTH).sum()
            )
            pairs += 1
    return total / pairs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("n", [40, 6, 3])
def test_it_equals_the_definition(n, m, ridge, variant):
    views = related(n, 5, m, seed=1)
    want = -brute_captured(brute_covariance(views), m, ridge, variant)
    got = deep_cca_loss(views, ridge=ridge, variant=variant)
    assert got.item() == pytest.approx(want, rel=1e-6 if n < 6 else 1e-9)
    single = deep_cca_loss([v.float() for v in views], ridge=ridge, variant=variant)
    assert single.dtype == torch.float32
    if n == 40:
        assert single.item() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("n", [12, 3])
def test_gradients_match_finite_differences(n, m, variant):
    views = [v.requires_grad_() for v in related(n, 4, m, seed=2)]
    assert torch.autograd.gradcheck(lambda *z: deep_cca_loss(z, ridge=0.05, variant=variant), views)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_rows_and_views_and_linear_maps_of_a_view_change_nothing(variant):
    views = related(60, 4, 3, seed=3)
    base = deep_cca_loss(views, ridge=1e-9, variant=variant)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        deep_cca_loss([v[order] for v in views[::-1]], ridge=1e-9, variant=variant), base
    )
    mapped = [views[0] @ normal(4, 4, seed=9) * 100 + 5, *views[1:]]
    torch.testing.assert_close(
        deep_cca_loss(mapped, ridge=1e-9, variant=variant), base, rtol=1e-5, atol=0
    )


def test_ridge_does_not_depend_on_units():
    views = related(60, 4, 2, seed=4)
    torch.testing.assert_close(
        deep_cca_loss([views[0] * 1e3, views[1] * 1e2], ridge=0.1),
        deep_cca_loss(views, ridge=0.1),
        rtol=1e-6,
        atol=0,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_views_capture_every_dimension(variant):
    z = normal(500, 6, seed=5)
    assert deep_cca_loss([z, z], ridge=1e-9, variant=variant).item() == pytest.approx(-6, abs=1e-3)
    assert deep_cca_loss([z, -3 * z, z + 1], ridge=1e-9).item() == pytest.approx(-6, abs=1e-5)


def test_whitened_views_have_the_closed_form_and_the_gradient_of_distinct_eigenvalues():
    # Orthonormal centred columns: the cross-covariance is diagonal, all own variances are equal.
    q, _ = torch.linalg.qr(torch.cat([torch.ones(32, 1).double(), normal(32, 9, seed=6)], 1))
    basis = q[:, 1:] * 31**0.5  # (32, 9), covariance I
    rho = torch.tensor([0.9, 0.9, 0.2]).double()
    left = basis[:, :3].clone().requires_grad_()
    right = rho * basis[:, :3] + (1 - rho**2).sqrt() * basis[:, 3:6]
    loss = deep_cca_loss([left, right], ridge=1e-9)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * 0.81 + 0.04), abs=1e-6)
    # d(-rho²)/dx of one coordinate: -2 rho (y - rho x) / (n - 1), the others being orthogonal.
    want = -2 * rho * (right - rho * left.detach()) / 31
    torch.testing.assert_close(left.grad, want, rtol=0, atol=1e-7)


def degenerate(seed):
    """One of many kinds of batch in which a covariance has no inverse or no gaps."""
    g = torch.Generator().manual_seed(seed)

    def pick(options):
        return options[int(torch.randint(len(options), (), generator=g))]

    kind = pick(
        ["rank 1", "zero", "one zero", "duplicates", "whitened", "few rows", "equal", "constant",
         "tiny", "huge", "dead column", "offset"]
    )  # fmt: skip
    n, d, m = pick([2, 3, 8, 33]), pick([1, 4, 16]), pick([2, 3])
    if kind == "few rows":
        n, d = pick([0, 1, 2, 3]), 16
    views = []
    for i in range(m):
        z = torch.randn(n, d, generator=g)
        if kind == "rank 1":
            z = torch.randn(n, 1, generator=g) * torch.randn(d, generator=g)
        elif kind == "zero" or (kind == "one zero" and i == 0):
            z = torch.zeros(n, d)
        elif kind == "duplicates":
            z = z[:1].repeat(n, 1) if pick([True, False]) else z[torch.arange(n) % 2]
        elif kind == "whitened" and n > d:
            z = torch.linalg.qr(z - z.mean(0))[0] * (n - 1) ** 0.5
        elif kind == "equal":
            z = views[0].clone() if i else z
        elif kind == "constant":
            z = torch.ones(n, d) * 3.7
        elif kind == "tiny":
            z = z * pick([1e-4, 1e-8, 1e-20, 1e-38])
        elif kind == "huge":
            z = z * pick([1e4, 1e10, 1e18])
        elif kind == "dead column":
            z[:, 0] = 0
        elif kind == "offset":
            z = z * 1e-3 + 1e4
        views.append(z)
    dtype = pick([torch.float32, torch.bfloat16, torch.float64])
    return kind, [v.to(dtype).requires_grad_() for v in views]


SETTINGS = [(variant, momentum) for variant in VARIANTS for momentum in (0.0, 0.8)]


# The quick pass gives every batch to one of the four settings in turn, the slow one the others.
@pytest.mark.parametrize("turn", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2, 3))])
def test_a_thousand_degenerate_batches_give_no_value_that_is_not_finite(turn):
    seen = set()
    for seed in range(1000):
        kind, views = degenerate(seed)
        variant, momentum = SETTINGS[(seed + turn) % 4]
        seen.add((kind, variant, momentum))
        loss = DeepCCA(views[0].shape[1], views=len(views), variant=variant, momentum=momentum)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = [loss(views) for _ in range(2)]
        sum(values).backward()
        case = (seed, kind, variant, momentum, tuple(views[0].shape), views[0].dtype)
        assert all(torch.isfinite(value) for value in values), case
        assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in views), case
    assert len(seen) == 12 * 4


def test_half_precision_gradients_of_collapsed_views_are_finite():
    for scale in (1.0, 1e-3, 1e-5, 0.0):
        views = [(normal(16, 4, seed=i) * scale).half().requires_grad_() for i in range(2)]
        deep_cca_loss(views).backward()
        assert all(torch.isfinite(v.grad).all() for v in views)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_fewer_than_two_rows_are_exactly_zero_with_a_gradient_of_zero(n, momentum):
    for variant in VARIANTS:
        views = [normal(n, 3, seed=i).requires_grad_() for i in range(2)]
        loss = DeepCCA(3, variant=variant, momentum=momentum)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = loss(views)
        value.backward()
        assert value.item() == 0
        assert all(torch.equal(v.grad, torch.zeros_like(v)) for v in views)


def test_statistics_are_in_double_precision_under_autocast():
    views = [v.float() for v in related(64, 8, 2, seed=7)]
    want = deep_cca_loss(views)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(deep_cca_loss(views), want)
    half = deep_cca_loss([v.bfloat16() for v in views])
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(want.item(), abs=0.05)


def test_selected_rows_are_all_that_counts():
    views, keep = related(40, 4, 2, seed=8), torch.arange(40) % 3 > 0
    torn = [v.masked_fill(~keep[:, None], float("nan")) for v in views]
    assert torch.equal(
        deep_cca_loss([v[keep] for v in torn]), deep_cca_loss([v[keep] for v in views])
    )


def brute_running(batches, momentum):
    """Running joint covariance of standardised batches, in numpy."""
    scatter, weight = 0.0, 0.0
    for views in batches:
        rows = np.concatenate([v.double().numpy() for v in views], 1)
        scaled = (rows - rows.mean(0)) / np.sqrt(rows.var(0, ddof=1) + FLOOR)
        scatter = momentum * scatter + scaled.T @ scaled
        weight = momentum * weight + len(rows) - 1
    return scatter / weight


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_running_loss_equals_the_definition_at_the_running_covariance(m, variant):
    batches = [related(n, 4, m, seed=50 * s) for s, n in enumerate((20, 9, 32, 5))]
    loss = DeepCCA(4, views=m, ridge=0.01, variant=variant, momentum=0.7).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = [loss(views).item() for views in batches]
    for t, value in enumerate(got, start=1):
        want = -brute_captured(brute_running(batches[:t], 0.7), m, 0.01, variant)
        assert value == pytest.approx(want, rel=1e-6)


def test_the_running_gradient_is_that_of_the_batch_at_the_running_covariance():
    first, second = (related(n, 3, 2, seed=s) for s, n in ((1, 30), (2, 16)))
    loss = DeepCCA(3, ridge=0.02, momentum=0.6).double()
    loss(first)
    views = [v.clone().requires_grad_() for v in second]
    loss(views).backward()
    at = torch.tensor(brute_running([first, second], 0.6)).requires_grad_()
    (slope,) = torch.autograd.grad(captured_correlation(at, 2, ridge=0.02), at)

    def linear(x, y):
        rows = torch.cat([x, y], 1)
        scaled = (rows - rows.mean(0)) / (rows.var(0) + FLOOR).sqrt()
        return -(slope * torch.cov(scaled.T)).sum()

    again = [v.clone().requires_grad_() for v in second]
    linear(*again).backward()
    for v, w in zip(views, again, strict=True):
        torch.testing.assert_close(v.grad, w.grad, rtol=1e-7, atol=1e-10)


def test_memory_makes_small_batches_follow_the_gradient_of_all_rows():
    inputs = [v @ normal(4, 12, seed=i) for i, v in enumerate(related(6400, 4, 2, seed=3))]
    inputs = [x + 2 * normal(6400, 12, seed=7 + i) for i, x in enumerate(inputs)]
    maps = [normal(12, 8, seed=30 + i).requires_grad_() for i in range(2)]

    def gradient(loss, batches):
        total = [torch.zeros_like(w) for w in maps]
        for rows in batches:
            value = loss([x[rows] @ w for x, w in zip(inputs, maps, strict=True)])
            for t, g in zip(total, torch.autograd.grad(value, maps), strict=True):
                t += g / len(batches)
        return torch.cat([t.flatten() for t in total])

    def distance(a, b):
        return float((a - b).norm() / b.norm())

    whole = gradient(DeepCCA(8), [torch.arange(6400)])
    batches = list(torch.arange(6400).split(16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forgetful = gradient(DeepCCA(8), batches)
        loss = DeepCCA(8, momentum=0.98).double()
        gradient(loss, batches[:200])  # fill the memory
        remembering = gradient(loss, batches)
    assert distance(remembering, whole) < 0.5 * distance(forgetful, whole)


def test_memory_is_kept_in_the_state_dict_and_left_alone_in_evaluation():
    loss = DeepCCA(4, momentum=0.9)
    loss(related(32, 4, 2, seed=1))
    state = {k: v.clone() for k, v in loss.state_dict().items()}
    assert set(state) == {"scatter", "degrees"}
    again = DeepCCA(4, momentum=0.9)
    again.load_state_dict(state)
    batch = related(32, 4, 2, seed=2)
    assert torch.equal(again(batch), loss(batch))
    loss.load_state_dict(state)
    loss.eval()
    assert torch.equal(loss(batch), deep_cca_loss(batch))
    assert all(torch.equal(v, state[k]) for k, v in loss.state_dict().items())
    assert not DeepCCA(4).state_dict()


def test_a_small_batch_is_warned_of_once_with_the_numbers():
    loss, batch = DeepCCA(10), related(32, 10, 2, seed=1)
    with pytest.warns(UserWarning, match=r"width 10 uses about 32 rows .*below 50"):
        loss(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(batch)
        DeepCCA(10, momentum=0.8)(batch)  # about 160 rows
        DeepCCA(10).eval()(batch)
        DeepCCA(6)(related(32, 6, 2, seed=1))


def test_unit_norm_rows_can_capture_every_dimension():
    z = torch.nn.functional.normalize(normal(500, 6, seed=5), dim=1)
    assert deep_cca_loss([z, z], ridge=1e-9).item() == pytest.approx(-6, abs=1e-3)


def test_the_configuration_builds_what_it_says_and_refuses_nonsense():
    loss = DeepCCAConfig(ridge=0.1, variant="trace_norm", momentum=0.5, views=3).build(7)
    assert (loss.dim, loss.views, loss.ridge, loss.variant, loss.momentum) == (
        7, 3, 0.1, "trace_norm", 0.5,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"build\(dim\)"):
        DeepCCAConfig().build()
    for bad in ({"ridge": 0}, {"momentum": 1.0}, {"views": 1}, {"variant": "log"}, {"rigde": 1}):
        with pytest.raises(ValidationError):
            DeepCCAConfig(**bad)


def test_mismatched_views_are_refused():
    a = normal(4, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        deep_cca_loss([a, a[:2]])
    with pytest.raises(ValueError, match="one shape"):
        deep_cca_loss([a])
    with pytest.raises(ValueError, match="2 views of width 5"):
        DeepCCA(5)([a, a])
    with pytest.raises(ValueError, match="no joint covariance"):
        captured_correlation(torch.eye(5), 2)


def test_the_autoencoding_loss_adds_the_reconstruction_of_every_view():
    views = related(40, 4, 2, seed=1)
    decoded = [normal(40, d, seed=d).requires_grad_() for d in (5, 7)]
    targets = [normal(40, d, seed=d + 1).requires_grad_() for d in (5, 7)]
    want = deep_cca_loss(views).item()
    for a, b in zip(decoded, targets, strict=True):
        want += 0.3 * ((a - b).detach().numpy() ** 2).mean()
    got = deep_ccae_loss(deep_cca_loss(views), decoded, targets, reconstruction_weight=0.3)
    assert got.item() == pytest.approx(want, rel=1e-10)
    got.backward()
    assert all(t.grad is None for t in targets)
    assert torch.autograd.gradcheck(lambda x: reconstruction_mse(x, targets[0]), decoded[:1])
    assert reconstruction_mse(decoded[0][:0], targets[0][:0]).item() == 0
    with pytest.raises(ValueError, match="differ"):
        reconstruction_mse(decoded[0], targets[1])


def test_the_autoencoder_module_trains_its_decoders():
    loss = DeepCCAEConfig(reconstruction_weight=1.0, hidden=16).build(4, [5, 7])
    views = [v.float().requires_grad_() for v in related(40, 4, 2, seed=1)]
    targets = [normal(40, d, seed=d, dtype=torch.float32) for d in (5, 7)]
    loss(views, targets).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert all(torch.isfinite(v.grad).all() for v in views)
    assert isinstance(loss.decoders[0], nn.Sequential)
    with pytest.raises(ValueError, match="2 views"):
        loss(views[:1], targets[:1])


@pytest.mark.slow
def test_deep_cca_of_real_digits_captures_more_than_8_6_held_out(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "split_digits.py"
    spec = importlib.util.spec_from_file_location("split_digits", path)
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "split_digits", benchmark)
    spec.loader.exec_module(benchmark)
    views = benchmark.halves()
    train, test = [v[:1200] for v in views], [v[1200:] for v in views]
    networks = benchmark.train(train, benchmark.FULL_BATCH, 200, seed=0)
    assert benchmark.total(networks, train, test) > 8.6
