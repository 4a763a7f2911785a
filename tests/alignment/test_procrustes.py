"""Procrustes against a search over rotations, degenerate rows, and its inverse."""

import itertools
import math

import numpy as np
import pytest
import torch

from amodal.alignment.procrustes import Procrustes, orthogonal_procrustes


def rows(n, d, *, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)


def orthogonal(d, *, seed):
    return torch.linalg.qr(rows(d, d, seed=seed))[0]


@pytest.mark.parametrize("proper", [False, True])
def test_no_rotation_or_reflection_of_the_plane_is_better(proper):
    x, y, w = rows(7, 2, seed=0), rows(7, 2, seed=1), rows(7, 1, seed=2)[:, 0].abs()

    def error(matrix):
        moved = x.numpy() @ np.asarray(matrix)
        return float((w.numpy() * ((moved - y.numpy()) ** 2).sum(1)).sum())

    found = orthogonal_procrustes(x, y, weight=w, proper=proper)
    best = math.inf
    for step in range(10000):
        c, s = math.cos(step * math.pi / 5000), math.sin(step * math.pi / 5000)
        for sign in (1,) if proper else (1, -1):
            best = min(best, error([[c, s], [-s * sign, c * sign]]))
    assert error(found) <= best + 1e-9
    assert error(found) == pytest.approx(best, rel=1e-5)
    if proper:
        assert torch.linalg.det(found).item() == pytest.approx(1)


def test_it_is_the_polar_factor_found_by_newtons_iteration():
    x, y = rows(30, 5, seed=0), rows(30, 5, seed=1)
    factor = np.einsum("ni,nj->ij", x.numpy(), y.numpy())
    for _ in range(60):
        factor = (factor + np.linalg.inv(factor).T) / 2
    assert np.abs(orthogonal_procrustes(x, y).numpy() - factor).max() < 1e-9


@pytest.mark.parametrize(("e_left", "e_right"), [(4, 4), (3, 6), (6, 3)])
def test_a_similarity_transform_is_recovered(e_left, e_right):
    wide = max(e_left, e_right)
    turn = orthogonal(wide, seed=1)[:e_left, :e_right]
    if e_left <= e_right:
        x = rows(40, e_left, seed=0)
        y = 2.5 * x @ turn + rows(1, e_right, seed=2)
    else:
        y = rows(40, e_right, seed=0)
        x = (y @ turn.T) / 2.5 + rows(1, e_left, seed=2)
    fit = Procrustes(scale=True).fit(x, y)
    torch.testing.assert_close(fit.transform(x), y)
    torch.testing.assert_close(fit.inverse(y), x)
    torch.testing.assert_close(fit.weight, turn)
    assert fit.factor == pytest.approx(2.5)
    fewer = min(e_left, e_right)
    gram = fit.weight @ fit.weight.T if e_left <= e_right else fit.weight.T @ fit.weight
    torch.testing.assert_close(gram, torch.eye(fewer, dtype=torch.float64))


def test_the_scale_is_that_of_least_squares():
    x, y = rows(30, 3, seed=0), rows(30, 3, seed=1)
    w = rows(30, 1, seed=2)[:, 0].abs()
    fit = Procrustes(scale=True).fit(x, y, w)

    def error(factor):
        moved = factor * (x - fit.left_mean) @ fit.weight + fit.right_mean
        return float((w[:, None] * (moved - y).square()).sum())

    assert error(fit.factor) < min(error(fit.factor * 1.001), error(fit.factor * 0.999))


def test_a_weight_counts_rows():
    x, y = rows(6, 3, seed=0), rows(6, 3, seed=1)
    times = torch.tensor([0, 1, 2, 3, 1, 0])
    repeated = Procrustes(scale=True).fit(
        x.repeat_interleave(times, 0), y.repeat_interleave(times, 0)
    )
    weighted = Procrustes(scale=True).fit(x, y, times)
    torch.testing.assert_close(weighted.weight, repeated.weight)
    torch.testing.assert_close(weighted.left_mean, repeated.left_mean)
    assert weighted.factor == pytest.approx(repeated.factor)


def test_the_order_of_the_pairs_does_not_matter():
    x, y, order = rows(20, 4, seed=0), rows(20, 4, seed=1), torch.randperm(20)
    torch.testing.assert_close(
        orthogonal_procrustes(x, y), orthogonal_procrustes(x[order], y[order])
    )


def test_a_direction_without_data_is_unchanged():
    turn = orthogonal(2, seed=1)
    x = torch.cat([rows(10, 2, seed=0), torch.zeros(10, 2, dtype=torch.float64)], 1)
    y = torch.cat([x[:, :2] @ turn, torch.zeros(10, 2, dtype=torch.float64)], 1)
    want = torch.block_diag(turn, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(orthogonal_procrustes(x, y), want)
    torch.testing.assert_close(orthogonal_procrustes(x * 0, y), torch.eye(4, dtype=torch.float64))


def test_the_map_does_not_depend_on_the_basis_that_the_svd_returns():
    # Rank 2 of 5, seen in rotated coordinates: the free part must come out the same up to rounding
    # when the rows change by rounding only.
    x, y = rows(9, 2, seed=0) @ rows(2, 5, seed=1), rows(9, 2, seed=2) @ rows(2, 5, seed=3)
    want = orthogonal_procrustes(x, y)
    for seed in range(20):
        again = orthogonal_procrustes(x * (1 + 1e-15 * rows(9, 5, seed=seed)), y)
        torch.testing.assert_close(again, want, atol=1e-9, rtol=0)


def test_every_input_gives_a_finite_orthogonal_map():
    for n, (e_left, e_right), kind, dtype, proper in itertools.product(
        [1, 2, 9],
        [(1, 1), (4, 4), (3, 5), (5, 3)],
        ["zeros", "rank 1", "duplicates", "whitened", "huge", "tiny"],
        [torch.float64, torch.bfloat16],
        [False, True],
    ):
        if proper and e_left != e_right:
            continue
        x, y = rows(n, e_left, seed=n), rows(n, e_right, seed=n + 1)
        if kind == "zeros":
            x = x * 0
        elif kind == "rank 1":
            x, y = x[:, :1].expand(n, e_left), y[:, :1].expand(n, e_right)
        elif kind == "duplicates":
            x = x[:1].expand(n, e_left)
        elif kind == "whitened":
            x = y = torch.linalg.qr(y)[0]
        elif kind == "huge":
            x = x * 1e30
        elif kind == "tiny":
            x = x * 1e-30
        for center, scale in itertools.product([False, True], repeat=2):
            fit = Procrustes(center=center, scale=scale, proper=proper)
            fit.fit(x.to(dtype), y.to(dtype))
            w = fit.weight
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64))
            assert fit.transform(x.to(dtype)).isfinite().all()
            assert fit.inverse(y.to(dtype)).isfinite().all()
            if proper:
                assert torch.linalg.det(w) > 0


def test_saving_and_loading_changes_no_bit(tmp_path):
    fit = Procrustes(scale=True).fit(rows(9, 3, seed=0), rows(9, 4, seed=1))
    fit.save(tmp_path / "map")
    again = Procrustes.load(tmp_path / "map")
    x = rows(5, 3, seed=2)
    assert torch.equal(again.transform(x), fit.transform(x))
    assert (again.center, again.scale, again.proper) == (True, True, False)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="matched rows"):
        orthogonal_procrustes(rows(3, 2, seed=0), rows(4, 2, seed=0))
    with pytest.raises(ValueError, match="N >= 1"):
        orthogonal_procrustes(rows(0, 2, seed=0), rows(0, 2, seed=0))
    with pytest.raises(ValueError, match="one width"):
        orthogonal_procrustes(rows(3, 2, seed=0), rows(3, 3, seed=0), proper=True)
    with pytest.raises(ValueError, match="not all 0"):
        orthogonal_procrustes(rows(3, 2, seed=0), rows(3, 2, seed=1), weight=torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        orthogonal_procrustes(rows(3, 2, seed=0) / 0, rows(3, 2, seed=1))
    with pytest.raises(ValueError, match="fit first"):
        Procrustes().transform(rows(3, 2, seed=0))
    with pytest.raises(ValueError, match=r"expected rows \(N, 2\)"):
        Procrustes().fit(rows(3, 2, seed=0), rows(3, 3, seed=1)).transform(rows(3, 3, seed=0))
