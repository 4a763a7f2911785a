"""CCA against scipy's generalised eigenproblem, QR factors, loops, deletion and closed forms."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_digits

from amodal.alignment.cca import (
    CCA,
    Moments,
    fit_cca,
    fit_cca_from_moments,
    null_correlations,
    refit_last_layer,
)
from amodal.alignment.correlation import (
    adjusted_captured,
    corrected_correlations,
    held_out_correlation,
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def related(n, dims, *, seed, shared=3, ranks=None, offset=0.0):
    """Views that share `shared` latent variables; `ranks` caps the rank of each view."""
    g = generator(seed)
    latent = torch.randn(n, shared, generator=g, dtype=torch.float64)
    views = []
    for i, d in enumerate(dims):
        r = ranks[i] if ranks else d
        own = torch.randn(n, r, generator=g, dtype=torch.float64)
        own = own + latent @ torch.randn(shared, r, generator=g, dtype=torch.float64)
        if r < d:
            own = own @ torch.randn(r, d, generator=g, dtype=torch.float64)
        views.append(own + offset)
    return views


def eigenproblem(views, ridge):
    """(falling ρ, vectors) of A w = ρ D w, from numpy's covariance and scipy's solver."""
    whole = np.cov(np.concatenate([v.numpy() for v in views], 1), rowvar=False)
    a, d, start = whole.copy(), np.zeros_like(whole), 0
    for v in views:
        part = slice(start, start + v.shape[1])
        a[part, part] = 0
        mean_variance = np.trace(whole[part, part]) / v.shape[1]
        d[part, part] = whole[part, part] + ridge * mean_variance * np.eye(v.shape[1])
        start = part.stop
    values, vectors = scipy.linalg.eigh(a, d)
    return values[::-1], vectors[:, ::-1]


def fit_quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_cca(*args, **kwargs)


@pytest.mark.parametrize("dims", [(5, 4), (3, 7), (4, 5, 3), (3, 2, 4, 3)])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_it_solves_the_generalised_eigenproblem(dims, ridge):
    views = related(200, dims, seed=1)
    cca = fit_cca(views, min(dims), ridge=ridge)
    values, vectors = eigenproblem(views, ridge)
    k, m = min(dims), len(dims)
    np.testing.assert_allclose(cca.correlations, values[:k] / (m - 1), rtol=0, atol=1e-10)
    got = torch.cat(cca.weights).numpy()
    want = vectors[:, :k] * np.sqrt(m)
    want *= np.sign((got * want).sum(0))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [8, 20, 60])
@pytest.mark.parametrize("dims", [(9, 12), (6, 5, 7)])
def test_with_ridge_it_solves_the_eigenproblem_where_rows_are_fewer_than_columns(n, dims):
    views = related(n, dims, seed=2)
    cca = fit_cca(views, 4, ridge=0.05)
    values, _ = eigenproblem(views, 0.05)
    np.testing.assert_allclose(cca.correlations, values[:4] / (len(dims) - 1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("ranks", [(2, 6), (5, 3), (1, 1), (6, 7)])
def test_any_rank_gives_the_cosines_between_the_column_spaces(ranks):
    views = related(100, (6, 7), seed=3, ranks=ranks)
    bases = []
    for v, r in zip(views, ranks, strict=True):
        q, _, _ = scipy.linalg.qr((v - v.mean(0)).numpy(), mode="economic", pivoting=True)
        bases.append(q[:, :r])
    want = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    cca = fit_cca(views, 7)
    assert cca.ranks == ranks
    np.testing.assert_allclose(cca.correlations, want, rtol=0, atol=1e-8)
    scores = [cca.transform(v, i) for i, v in enumerate(views)]
    measured = [np.corrcoef(scores[0][:, c], scores[1][:, c])[0, 1] for c in range(min(ranks))]
    np.testing.assert_allclose(measured, want, rtol=0, atol=1e-8)


def test_scores_of_two_views_have_variance_one_and_are_uncorrelated():
    views = related(300, (5, 6), seed=4, offset=7.0)
    cca = fit_cca(views, 5)
    scores = torch.cat([cca.transform(v, i) for i, v in enumerate(views)], 1)
    want = torch.eye(10, dtype=torch.float64)
    want[:5, 5:] = want[5:, :5] = torch.diag(cca.correlations)
    torch.testing.assert_close(torch.cov(scores.T), want, rtol=0, atol=1e-10)
    torch.testing.assert_close(scores.mean(0), torch.zeros(10).double(), rtol=0, atol=1e-10)
    weight, bias = cca.linear(1)
    torch.testing.assert_close(
        torch.nn.functional.linear(views[1], weight, bias), scores[:, 5:], rtol=0, atol=1e-10
    )


def test_units_rotations_and_the_order_of_rows_change_nothing():
    views = related(150, (4, 5), seed=5)
    base = fit_cca(views, 4).correlations
    mixing = torch.randn(5, 5, generator=generator(0), dtype=torch.float64)
    order = torch.randperm(150, generator=generator(1))
    moved = [views[0][order] * 1e3 - 5, (views[1] @ mixing + 2)[order]]
    torch.testing.assert_close(fit_cca(moved, 4).correlations, base, rtol=0, atol=1e-9)
    torch.testing.assert_close(fit_cca(views[::-1], 4).correlations, base, rtol=0, atol=1e-10)
    ridged = fit_cca(views, 4, ridge=0.3)
    scaled = fit_cca([views[0] * 1e3, views[1] * 1e-3], 4, ridge=0.3)
    torch.testing.assert_close(scaled.correlations, ridged.correlations, rtol=0, atol=1e-10)


def chunked(views, sizes, present=None, missing="pairwise"):
    moments, start = Moments([v.shape[1] for v in views], missing=missing), 0
    for size in sizes:
        part = slice(start, start + size)
        moments.update([v[part] for v in views], None if present is None else present[part])
        start += size
    return moments


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_running_statistics_give_the_fit_in_memory(offset):
    views = related(257, (5, 4, 6), seed=6, offset=offset)
    whole = fit_cca(views, 4)
    parts = fit_cca_from_moments(chunked(views, [1, 0, 100, 7, 149]), 4)
    left, right = chunked([v[:90] for v in views], [90]), chunked([v[90:] for v in views], [167])
    left.merge(right)
    for other in (parts, fit_cca_from_moments(left, 4)):
        torch.testing.assert_close(other.correlations, whole.correlations, rtol=0, atol=1e-10)
        for i in range(3):
            torch.testing.assert_close(other.weights[i], whole.weights[i], rtol=0, atol=1e-9)


def holes(n, m, seed):
    return torch.rand(n, m, generator=generator(seed)) < 0.7


def test_complete_is_bit_equal_to_deleting_the_rows():
    views, present = related(200, (4, 5, 3), seed=7), holes(200, 3, 0)
    kept = present.all(1)
    got = fit_cca(views, 3, present=present, missing="complete")
    want = fit_cca([v[kept] for v in views], 3)
    assert got.n == int(kept.sum()) < 200
    assert torch.equal(got.correlations, want.correlations)
    assert all(torch.equal(a, b) for a, b in zip(got.weights, want.weights, strict=True))


def test_pairwise_moments_equal_loops_and_never_read_a_missing_row():
    views, present = related(60, (3, 2, 2), seed=8), holes(60, 3, 1)
    torn = [v.masked_fill(~present[:, i : i + 1], float("nan")) for i, v in enumerate(views)]
    moments = chunked(torn, [13, 47], present)
    for i in range(3):
        for j in range(3):
            rows = [r for r in range(60) if present[r, i] and present[r, j]]
            left = np.array([views[i][r].numpy() for r in rows])
            right = np.array([views[j][r].numpy() for r in rows])
            want = (left - left.mean(0)).T @ (right - right.mean(0)) / (len(rows) - 1)
            np.testing.assert_allclose(moments.covariance(i, j), want, rtol=0, atol=1e-12)
            assert moments.count(i, j) == len(rows)
    assert torch.isfinite(fit_cca_from_moments(moments, 2).correlations).all()


def test_views_joined_only_through_a_third_are_fitted():
    views = related(800, (4, 4, 4), seed=9, shared=1)
    train, test = [v[:400] for v in views], [v[400:] for v in views]
    present = torch.ones(400, 3, dtype=torch.bool)
    present[:200, 2] = present[200:, 1] = False
    cca = fit_cca(train, 1, present=present)
    unjoined = held_out_correlation([cca.transform(test[i], i) for i in (1, 2)])
    best = fit_cca([train[1], train[2]], 1).score([test[1], test[2]])
    assert cca.n == 200
    assert unjoined.total > 0.9 * best.total > 0.5
    with pytest.raises(ValueError, match=r"views \[2\]"):
        fit_cca(train, 1, present=torch.tensor([True, True, False]).expand(400, 3))


def test_a_saved_fit_is_the_same_fit(tmp_path):
    views = related(100, (4, 5, 3), seed=10)
    cca = fit_cca(views, 2, ridge=0.1)
    cca.save(tmp_path / "fit")
    loaded = CCA.load(tmp_path / "fit")
    assert sorted(p.suffix for p in (tmp_path / "fit").iterdir()) == [".json", ".safetensors"]
    assert (loaded.ranks, loaded.n, loaded.ridge) == (cca.ranks, cca.n, cca.ridge)
    assert torch.equal(loaded.correlations, cca.correlations)
    for i, v in enumerate(views):
        assert torch.equal(loaded.transform(v, i), cca.transform(v, i))


def test_too_few_rows_are_refused_or_warned_of():
    views = related(40, (10, 6), seed=11)
    with pytest.warns(UserWarning, match=r"width 10 from 40 rows: below 50"):
        fit_cca(views, 2)
    with pytest.raises(ValueError, match=r"10 rows cannot fit CCA of width 10"):
        fit_cca([v[:10] for v in views], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_cca([v[:10] for v in views], 2, ridge=0.1)
        fit_cca(related(50, (10, 6), seed=11), 2)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_are_refused(n):
    with pytest.raises(ValueError, match=r"no common rows|2 or more common rows"):
        fit_cca([torch.randn(n, 3), torch.randn(n, 2)], 1, ridge=0.1)


def test_bad_input_is_refused():
    views = related(100, (4, 5), seed=12)
    with pytest.raises(ValueError, match="constant"):
        fit_cca([views[0], torch.ones(100, 5)], 2)
    with pytest.raises(ValueError, match="matched rows"):
        fit_cca([views[0], views[1][:50]], 2)
    with pytest.raises(ValueError, match="present must be bool"):
        fit_cca(views, 2, present=torch.ones(100, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="width 4"):
        fit_cca(views, 2).transform(views[1], 0)
    with pytest.raises(ValueError, match="components"):
        fit_cca(views, 0)


@pytest.mark.parametrize("case", ["duplicates", "rank one", "bf16", "tiny", "huge"])
def test_degenerate_rows_give_finite_fits(case):
    views = related(100, (4, 5), seed=13)
    views = {
        "duplicates": [v[:3].repeat(34, 1) for v in views],
        "rank one": [v[:, :1] * torch.ones_like(v) for v in views],
        "bf16": [v.bfloat16() for v in views],
        "tiny": [v * 1e-30 for v in views],
        "huge": [v * 1e30 for v in views],
    }[case]
    for ridge in (0.0, 0.1):
        cca = fit_cca(views, 4, ridge=ridge)
        assert torch.isfinite(cca.correlations).all()
        assert all(torch.isfinite(cca.transform(v, i)).all() for i, v in enumerate(views))


def test_the_held_out_score_equals_numpy_correlations_of_the_pairs():
    g = generator(14)
    scores = [torch.randn(50, 3, generator=g) for _ in range(3)]
    scores[1] += scores[0]
    present = holes(50, 3, 2)
    want = np.zeros(3)
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        rows = present[:, i] & present[:, j]
        for c in range(3):
            want[c] += np.corrcoef(scores[i][rows, c], scores[j][rows, c])[0, 1] / 3
    got = held_out_correlation(scores, present)
    np.testing.assert_allclose(got.correlations, want, rtol=0, atol=1e-12)
    assert got.total == pytest.approx(want.sum())
    assert got.p_total is None


def test_a_constant_score_counts_as_zero():
    scores = [torch.ones(20, 1) * 0.1, torch.randn(20, 1, generator=generator(0))]
    assert held_out_correlation(scores).total == 0


def test_the_p_value_equals_a_count_over_permutations():
    g = generator(15)
    a = torch.randn(12, 2, generator=g, dtype=torch.float64)
    b = a + 2 * torch.randn(12, 2, generator=g, dtype=torch.float64)
    got = held_out_correlation([a, b], permutations=99, generator=generator(3))
    again = generator(3)
    reached = np.zeros(3)
    for _ in range(99):
        shuffled = b[torch.randperm(12, generator=again)]
        null = [np.corrcoef(a[:, c], shuffled[:, c])[0, 1] for c in range(2)]
        reached += [*(np.array(null) >= got.correlations.numpy()), sum(null) >= got.total]
    np.testing.assert_allclose(got.p_values, (1 + reached[:2]) / 100)
    assert got.p_total == (1 + reached[2]) / 100


def test_independent_views_get_uniform_p_values_and_related_ones_the_smallest():
    g, small, runs = generator(16), 0, 300
    for _ in range(runs):
        scores = [torch.randn(20, 2, generator=g) for _ in range(2)]
        p = held_out_correlation(scores, permutations=19, generator=g).p_total
        small += p <= 0.1
    # Binomial(300, 0.1): mean 30, standard deviation 5.2; five of them either way.
    assert 4 <= small <= 56
    views = related(100, (3, 3), seed=17)
    cca = fit_cca([v[:50] for v in views], 2)
    score = cca.score([v[50:] for v in views], permutations=99, generator=generator(0))
    assert score.p_total == 0.01
    assert (score.p_values == 0.01).all()


def test_the_adjusted_sum_is_the_adjusted_r_squared_of_a_regression():
    x, y = related(60, (5, 1), seed=18)
    design = np.concatenate([np.ones((60, 1)), x.numpy()], 1)
    residual = y.numpy() - design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    r_squared = 1 - (residual**2).sum() / ((y.numpy() - y.numpy().mean()) ** 2).sum()
    want = 1 - (1 - r_squared) * 59 / 54
    cca = fit_cca([x, y], 1)
    assert adjusted_captured(cca.correlations, 60, cca.ranks) == pytest.approx(want, rel=1e-10)


def test_the_adjusted_sum_is_zero_on_average_where_the_views_are_independent():
    g = generator(19)
    values = []
    for _ in range(200):
        views = [torch.randn(30, d, generator=g, dtype=torch.float64) for d in (6, 4)]
        cca = fit_quietly(views, 4)
        values.append(adjusted_captured(cca.correlations, 30, cca.ranks))
    standard_error = np.std(values) / 200**0.5
    assert abs(np.mean(values)) < 4 * standard_error
    assert standard_error < 0.1
    one = torch.ones(4).double()
    assert adjusted_captured(one, 30, (4, 6)) == pytest.approx(4)
    assert adjusted_captured(one, 7, (4, 6)) == float("-inf")
    with pytest.raises(ValueError, match="all 4"):
        adjusted_captured(one[:2], 30, (4, 6))


@pytest.mark.parametrize("dims", [(5, 4), (4, 3, 3)])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_null_correlations_are_fits_to_shuffled_rows(dims, ridge):
    views = related(80, dims, seed=20)
    got = null_correlations(views, 3, ridge=ridge, permutations=4, generator=generator(1))
    again = generator(1)
    for row in got:
        shuffled = [views[0], *(v[torch.randperm(80, generator=again)] for v in views[1:])]
        want = fit_cca(shuffled, 3, ridge=ridge).correlations
        torch.testing.assert_close(row, want, rtol=0, atol=1e-9)


def test_the_corrected_correlation_is_near_the_held_out_one():
    views = related(4000, (12, 12), seed=21, shared=2)
    few = [v[:80] for v in views]
    cca = fit_cca(few, 12, ridge=1e-6)
    null = null_correlations(few, 12, ridge=1e-6, generator=generator(0))
    corrected = corrected_correlations(cca.correlations, null)
    truth = fit_cca(views, 12).correlations
    assert cca.correlations.sum() > truth.sum() + 2
    assert abs(corrected.sum() - truth.sum()) < 0.35 * (cca.correlations.sum() - truth.sum())
    exact = torch.tensor([1.0, 0.5])
    none = torch.tensor([[0.3, 0.5], [0.4, 0.5]])
    torch.testing.assert_close(
        corrected_correlations(exact, none), torch.tensor([1.0, 0.0]).double()
    )
    assert corrected_correlations(exact[:1], torch.ones(3, 1)).item() == 0


def test_the_last_layer_undoes_any_mixing_of_the_embeddings():
    views = related(500, (3, 3), seed=22)
    g = generator(0)
    mixed = [v @ torch.randn(3, 3, generator=g, dtype=torch.float64) for v in views]
    refit = refit_last_layer([v.float() for v in mixed], 3, ridge=0.0)
    want = fit_cca(views, 3).correlations
    torch.testing.assert_close(refit.correlations, want, rtol=0, atol=1e-5)
    scores = [refit.transform(v, i) for i, v in enumerate(mixed)]
    measured = [np.corrcoef(scores[0][:, c], scores[1][:, c])[0, 1] for c in range(3)]
    np.testing.assert_allclose(measured, want, rtol=0, atol=1e-5)


def test_halves_of_real_digits_correlate_by_5_82_held_out():
    pixels = torch.tensor(load_digits().images) / 16
    pixels = pixels[torch.randperm(len(pixels), generator=generator(0))]
    views = [pixels[:, :, :4].flatten(1), pixels[:, :, 4:].flatten(1)]
    cca = fit_cca([v[:1200] for v in views], 10, ridge=3e-3)
    assert cca.score([v[1200:] for v in views]).total == pytest.approx(5.82, abs=0.02)


def share_and_income(n=500):
    """Columns in different units: a share of about 0.03 that both views have, and an income."""
    random = np.random.default_rng(0)
    share = random.uniform(size=(n, 1)) * 0.1
    x = np.hstack([share, random.normal(size=(n, 1)) * 1e5])
    y = np.hstack([share + random.normal(size=(n, 1)) * 0.01, random.normal(size=(n, 1))])
    return torch.from_numpy(x), torch.from_numpy(y)


def standardized(x):
    return (x - x.mean(0)) / x.std(0)


def test_a_column_in_small_units_is_not_left_out():
    x, y = share_and_income()
    fit = fit_cca([x, y], 2)
    assert fit.ranks == (2, 2)
    assert float(fit.correlations[0]) == pytest.approx(0.9440, abs=5e-5)
    want = fit_cca([standardized(x), standardized(y)], 2)
    torch.testing.assert_close(fit.correlations, want.correlations, rtol=0, atol=1e-10)
    held_out = fit.score([x, y]).correlations
    torch.testing.assert_close(held_out, fit.correlations, rtol=0, atol=1e-8)


@pytest.mark.parametrize("views", [2, 3])
def test_the_fit_does_not_depend_on_the_units_of_columns(views):
    rows = related(300, [4, 3, 5][:views], seed=3, offset=2.0)
    units = [10.0 ** torch.linspace(-9, 9, v.shape[1], dtype=torch.float64) for v in rows]
    plain, scaled = fit_cca(rows, 3), fit_cca([v * u for v, u in zip(rows, units, strict=True)], 3)
    torch.testing.assert_close(scaled.correlations, plain.correlations, rtol=0, atol=1e-9)
    for i, (v, u) in enumerate(zip(rows, units, strict=True)):
        got, want = scaled.transform(v * u, i), plain.transform(v, i)
        torch.testing.assert_close(got.abs(), want.abs(), rtol=0, atol=1e-7)
    null = [
        null_correlations(given, 3, permutations=2, generator=generator(0))
        for given in (rows, [v * u for v, u in zip(rows, units, strict=True)])
    ]
    torch.testing.assert_close(*null, rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9, 1 / 3 * 1e-9])
def test_a_constant_column_has_no_weight_whatever_its_size(value):
    x, y = share_and_income()
    plain = fit_cca([x, y], 2)
    fit = fit_cca([torch.cat([x, torch.full((len(x), 1), value).double()], 1), y], 2)
    assert fit.ranks == (2, 2)
    assert fit.weights[0][2].abs().max() == 0
    torch.testing.assert_close(fit.correlations, plain.correlations)


def test_a_ridge_over_columns_in_different_units_warns():
    x, y = share_and_income()
    with pytest.warns(UserWarning, match="columns of view 0 differ in variance"):
        fit_cca([x, y], 2, ridge=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_cca([standardized(x), standardized(y)], 2, ridge=1e-3)
