"""Kernel CCA against linear CCA, the dual problem in numpy, and the kernel itself."""

import numpy as np
import pytest
import scipy.linalg
import torch

from amodal.alignment import kernel_cca as module
from amodal.alignment.cca import fit_cca
from amodal.alignment.kernel_cca import (
    FourierFeatures,
    KernelCCA,
    NystroemFeatures,
    fit_kernel_cca,
    median_distance,
)


def normal(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def pair(n, seed):
    """A circle and its radius-free square: related, but not linearly."""
    angle = normal(n, 1, seed=seed) * 3
    left = torch.cat([angle.cos(), angle.sin()], 1)
    right = torch.cat([(2 * angle).cos(), (2 * angle).sin()], 1)
    return left + 0.1 * normal(n, 2, seed=seed + 1), right + 0.1 * normal(n, 2, seed=seed + 2)


def rbf(x, y, sigma):
    return np.array(
        [[np.exp(-((a - b) ** 2).sum() / (2 * sigma**2)) for b in y.numpy()] for a in x.numpy()]
    )


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_linear_features_give_linear_cca(ridge):
    views = [normal(200, 4, seed=1), normal(200, 5, seed=2)]
    views[1][:, :3] += views[0][:, :3]
    features = [NystroemFeatures.of(v[:20], "linear") for v in views]
    got = fit_kernel_cca(views, 4, features, ridge=ridge)
    want = fit_cca(views, 4, ridge=ridge)
    torch.testing.assert_close(got.cca.correlations, want.correlations, rtol=0, atol=1e-8)
    for i, v in enumerate(views):
        a, b = got.transform(v, i), want.transform(v, i)
        sign = (a * b).sum(0).sign()
        torch.testing.assert_close(a * sign, b, rtol=0, atol=1e-8)


def test_all_rows_as_landmarks_give_the_dual_solution():
    views, n, sigma, ridge = pair(30, 3), 30, 0.8, 0.05
    roots = []
    for v in views:
        k = rbf(v, v, sigma)
        centre = np.eye(n) - 1 / n
        centred = centre @ k @ centre
        rank = NystroemFeatures.of(v, sigma=sigma).width
        c = ridge * np.trace(centred) / rank  # (n - 1) times the shift of a feature variance
        roots.append(scipy.linalg.sqrtm(centred @ np.linalg.inv(centred + c * np.eye(n))).real)
    want = np.linalg.svd(roots[0] @ roots[1], compute_uv=False)[:4]
    features = [NystroemFeatures.of(v, sigma=sigma) for v in views]
    got = fit_kernel_cca(views, 4, features, ridge=ridge).cca.correlations
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_products_of_fourier_features_are_the_kernel():
    x = normal(20, 3, seed=4)
    features = FourierFeatures.draw(3, 20000, 1.5, torch.Generator().manual_seed(0))
    assert features.width == 20000
    got = features(x) @ features(x).T
    # A mean of 10,000 values in [-1, 1]: standard deviation at most 0.01; five of them.
    np.testing.assert_allclose(got, rbf(x, x, 1.5), rtol=0, atol=0.05)


def test_it_finds_a_relation_that_linear_cca_cannot(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 100)  # several chunks
    train, test = pair(600, 5), pair(600, 9)
    linear = fit_cca(train, 2).score(test).total
    generator = torch.Generator().manual_seed(0)
    features = [FourierFeatures.draw(2, 200, median_distance(v), generator) for v in train]
    fourier = fit_kernel_cca(train, 2, features)
    score = fourier.score(test, permutations=19, generator=generator)
    assert linear < 0.3
    assert score.total > 1.5
    assert score.p_total == 0.05
    exact = fit_kernel_cca(
        train, 2, [NystroemFeatures.of(v, sigma=median_distance(v)) for v in train]
    )
    assert score.total > 0.95 * exact.score(test).total


def test_missing_rows_are_as_if_deleted_where_none_has_one_view():
    views = pair(200, 6)
    present = torch.ones(200, 2, dtype=torch.bool)
    present[50:80] = False
    features = [FourierFeatures.draw(2, 20, 1.0, torch.Generator().manual_seed(0))] * 2
    kept = present[:, 0]
    got = fit_kernel_cca(views, 2, features, present=present)
    want = fit_kernel_cca([v[kept] for v in views], 2, features)
    assert torch.equal(got.cca.correlations, want.cca.correlations)


def test_a_saved_fit_is_the_same_fit(tmp_path):
    views = pair(200, 7)
    features = [
        FourierFeatures.draw(2, 20, 1.0, torch.Generator().manual_seed(0)),
        NystroemFeatures.of(views[1][:10], sigma=0.7),
    ]
    fit = fit_kernel_cca(views, 2, features)
    fit.save(tmp_path)
    loaded = KernelCCA.load(tmp_path)
    for i, v in enumerate(views):
        assert torch.equal(loaded.transform(v, i), fit.transform(v, i))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="even"):
        FourierFeatures.draw(2, 3, 1.0)
    with pytest.raises(ValueError, match="feature maps"):
        fit_kernel_cca(pair(20, 8), 2, [])
    with pytest.raises(ValueError, match="different rows"):
        median_distance(torch.ones(5, 2))


def test_the_linear_kernel_keeps_a_column_in_small_units():
    g = torch.Generator().manual_seed(0)
    share = torch.rand(400, 1, generator=g, dtype=torch.float64) * 0.1
    big = torch.randn(400, 1, generator=g, dtype=torch.float64) * 1e5
    noise = torch.randn(400, 2, generator=g, dtype=torch.float64)
    x, y = torch.cat([share, big], 1), torch.cat([share + 0.01 * noise[:, :1], noise[:, 1:]], 1)
    features = [NystroemFeatures.of(v[:50], kernel="linear") for v in (x, y)]
    assert [f.width for f in features] == [2, 2]
    got = fit_kernel_cca([x, y], 2, features, ridge=0.0).cca.correlations
    torch.testing.assert_close(got, fit_cca([x, y], 2).correlations, rtol=0, atol=1e-5)
