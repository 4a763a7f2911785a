"""Every figure of the geometry report against loops in float64, and cases with a known answer."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import skew, spearmanr
from sklearn.linear_model import LogisticRegression

from amodal.metrics.geometry import (
    EmbeddingSet,
    GeometryOptions,
    effective_rank,
    geometry_metrics,
    item_means,
    one_row_each,
    second_moment,
    singular_values,
    uniformity,
)
from amodal.metrics.hubness import hubness_metrics, k_occurrence, mixed_gallery, neighbour_shares
from amodal.metrics.modality_gap import (
    PROBE_PENALTY,
    centroid_gap,
    energy_statistics,
    energy_test,
    modality_probe,
)
from amodal.metrics.similarity import (
    BINS,
    CosineHistogram,
    alignment,
    cosine_histogram,
    linear_cka,
    random_alignment,
    rsa,
)
from amodal.reports.geometry_plots import input_colours, similarity_figure, write_plots
from amodal.reports.plots import ON_PAPER

FAST = GeometryOptions(permutations=20, bootstrap=50)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def unit(n, e, *, seed):
    return F.normalize(normal(n, e, seed=seed), dim=1)


X, X_ITEM = unit(9, 4, seed=1), torch.tensor([30, 10, 20, 50, 40, 60, 70, 80, 90])
Y, Y_ITEM = (
    unit(14, 4, seed=2),
    torch.tensor([10, 20, 30, 40, 10, 20, 5, 5, 60, 60, 70, 80, 90, 30]),
)


# Alignment and uniformity


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_the_mean_over_the_pairs_of_an_item(alpha):
    x, y = X.numpy(), Y.numpy()
    every = [
        (np.sqrt(((x[i] - y[j]) ** 2).sum()) ** alpha, X_ITEM[i] == Y_ITEM[j])
        for i in range(9)
        for j in range(14)
    ]
    values, items = alignment(X, X_ITEM, Y, Y_ITEM, alpha=alpha)
    assert values.mean().item() == pytest.approx(np.mean([v for v, own in every if own]), abs=1e-12)
    assert sorted(items.tolist()) == sorted(i for i in Y_ITEM.tolist() if i in X_ITEM)
    by_chance = random_alignment(X, Y, alpha=alpha)
    assert by_chance == pytest.approx(np.mean([v for v, _ in every]), abs=1e-12)


def test_modalities_without_a_common_item_have_no_pair_to_align():
    values, items = alignment(X, X_ITEM, Y, Y_ITEM + 1000)
    assert len(values) == len(items) == 0


@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_over_pairs_of_different_items(t, chunk):
    y = Y.numpy()
    values = [
        math.exp(-t * ((y[i] - y[j]) ** 2).sum())
        for i in range(14)
        for j in range(14)
        if Y_ITEM[i] != Y_ITEM[j]
    ]
    assert uniformity(Y, Y_ITEM, t=t, chunk=chunk) == pytest.approx(math.log(np.mean(values)))
    single = uniformity(Y.float(), Y_ITEM, t=t, chunk=chunk)
    assert single == pytest.approx(math.log(np.mean(values)), abs=1e-6)


def test_uniformity_of_a_point_is_zero_and_does_not_underflow_for_steep_kernels():
    assert uniformity(X[:1].expand(5, 4), torch.arange(5)) == pytest.approx(0, abs=1e-12)
    two = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(two, torch.arange(2), t=1000.0) == pytest.approx(-4000.0)
    with pytest.raises(ValueError, match="two items"):
        uniformity(X, torch.zeros(9, dtype=torch.int64))


# Modality gap


def test_the_gap_is_between_centroids_and_its_chance_keeps_items_together():
    x, y = X.numpy(), Y.numpy()
    distance, noise = centroid_gap(X, X_ITEM, Y, Y_ITEM)
    assert distance == pytest.approx(np.linalg.norm(x.mean(0) - y.mean(0)), abs=1e-12)
    items = sorted({*X_ITEM.tolist(), *Y_ITEM.tolist()})
    total = 0.0
    for item in items:
        own_x = (x[(item == X_ITEM).numpy()] - x.mean(0)).sum(0) / 9
        own_y = (y[(item == Y_ITEM).numpy()] - y.mean(0)).sum(0) / 14
        total += ((own_x - own_y) ** 2).sum()
    n = len(items)
    assert noise == pytest.approx(math.sqrt(total * n / (n - 1)), abs=1e-12)


def test_without_a_gap_the_centroids_are_as_far_apart_as_its_chance_says():
    squares, chances = [], []
    item = torch.arange(50)
    for seed in range(200):
        x, y = normal(50, 6, seed=2 * seed), normal(50, 6, seed=2 * seed + 1)
        y = 0.6 * x + 0.8 * y  # paired rows resemble each other
        distance, noise = centroid_gap(x, item, y, item)
        squares.append(distance**2)
        chances.append(noise**2)
    # |d|²/E[|d|²] has a variance of about 2/6: the mean of 200 has a standard error of 4 %.
    assert np.mean(squares) / np.mean(chances) == pytest.approx(1, abs=0.16)


def brute_energy(x, y):
    """Mean over i ≠ j of 2|x_i - y_j| - |x_i - x_j| - |y_i - y_j| of the centred sets of rows."""
    n = len(x)
    x, y = x - x.mean(0), y - y.mean(0)
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += 2 * np.linalg.norm(x[i] - y[j])
                total -= np.linalg.norm(x[i] - x[j]) + np.linalg.norm(y[i] - y[j])
    return total / (n * (n - 1))


def brute_swapped(x, y, signs):
    """Energies after centred rows changed sides and both sides were centred again."""
    x, y = x - x.mean(0), y - y.mean(0)
    sides = [row[:, None] > 0 for row in signs]
    return [brute_energy(np.where(s, x, y), np.where(s, y, x)) for s in sides]


@pytest.mark.parametrize("strip", [1, 1 << 30])
def test_energy_equals_its_definition_as_found_and_after_every_swap(strip, monkeypatch):
    monkeypatch.setattr("amodal.metrics.modality_gap.CHUNK_BYTES", strip)
    x, y = normal(7, 3, seed=1) + 5, normal(7, 3, seed=2) * 2
    signs = torch.tensor([[1, -1, 1, 1, -1, -1, 1], [-1, 1, 1, -1, 1, 1, 1], [-1] * 7])
    want = [brute_energy(x.numpy(), y.numpy())]
    want += brute_swapped(x.numpy(), y.numpy(), signs.numpy())
    got, across = energy_statistics(x, y, signs)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-10)
    assert got[3] == pytest.approx(float(got[0]), abs=1e-10)  # all swapped: the same two sets
    centred = (x - x.mean(0)).numpy(), (y - y.mean(0)).numpy()
    pairs = [np.linalg.norm(centred[0][i] - centred[1][j]) for i in range(7) for j in range(7)
             if i != j]  # fmt: skip
    assert across == pytest.approx(np.mean(pairs), abs=1e-10)


def test_the_corrected_energy_is_the_found_less_the_mean_of_the_swapped():
    x, y = normal(8, 3, seed=1), normal(8, 3, seed=2) * 2
    flips = torch.randint(0, 2, (30, 8), generator=seeded(4)) * 2 - 1
    null = brute_swapped(x.numpy(), y.numpy(), flips.numpy())
    found = brute_energy(x.numpy(), y.numpy())
    test = energy_test(x, y, permutations=30, generator=seeded(4))
    assert test.value == pytest.approx(found - np.mean(null), abs=1e-10)
    assert test.p == pytest.approx((1 + sum(v >= found for v in null)) / 31)


def test_shifted_sets_differ_in_their_centroid_only():
    shift = torch.tensor([3.0, 0, 0, 0, 0])
    x = normal(40, 5, seed=1)
    distance, _ = centroid_gap(x, torch.arange(40), x + shift, torch.arange(40))
    assert distance == pytest.approx(3)
    test = energy_test(x, x + shift, permutations=50, generator=seeded())
    assert test.value == pytest.approx(0, abs=1e-9)
    assert test.p == 1


def test_energy_of_equal_shapes_is_zero_on_average_and_its_p_values_are_even():
    values, ps = [], []
    for seed in range(150):
        x, y = normal(30, 4, seed=2 * seed), normal(30, 4, seed=2 * seed + 1) + 1
        test = energy_test(x, y, permutations=19, generator=seeded(seed))
        values.append(test.value)
        ps.append(test.p)
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(150)
    # P(p <= 0.2) = 0.2, with a standard error of 0.033.
    assert 0.2 - 0.13 < np.mean(np.array(ps) <= 0.2) < 0.2 + 0.13


def test_energy_sees_a_difference_in_width():
    test = energy_test(
        normal(200, 4, seed=1), 2 * normal(200, 4, seed=2), permutations=99, generator=seeded()
    )
    assert test.p == 0.01
    assert 0 < test.coefficient < 1


def test_energy_of_two_points_is_zero():
    same = torch.ones(5, 3)
    assert energy_test(same, same + 1, permutations=9, generator=seeded()) == (0, 0, 1)


# Modality probe


def test_the_probe_equals_logistic_regression_on_the_same_folds():
    n, e, folds = 40, 5, 4
    x, y = normal(n, e, seed=1), normal(n, e, seed=2) + 0.5
    item = torch.arange(n)
    right, items = modality_probe(x, item, y, item, folds=folds, generator=seeded(3))
    assert items.tolist() == [*range(n), *range(n)]
    fold = (torch.randperm(n, generator=seeded(3)) % folds).numpy()
    want = np.zeros(2 * n)
    z, target = torch.cat([x, y]).numpy(), np.repeat([0, 1], n)
    for i in range(folds):
        held = np.concatenate([fold, fold]) == i
        mean = z[~held].mean(0)
        scale = np.sqrt(((z[~held] - mean) ** 2).mean())
        # Two mirrored weight vectors under λ/2 (|w|² + |w|²) are one under λ/4 of their
        # difference; scikit-learn's C is for the sum over rows.
        model = LogisticRegression(C=2 / (PROBE_PENALTY * (~held).sum()), tol=1e-9, max_iter=1000)
        model.fit((z[~held] - mean) / scale, target[~held])
        want[held] = model.predict((z[held] - mean) / scale) == target[held]
    np.testing.assert_array_equal(right.numpy(), want)


def test_the_probe_is_at_chance_on_one_distribution_and_on_identical_sets():
    item = torch.arange(1000)
    x, y = unit(1000, 8, seed=1), unit(1000, 8, seed=2)
    right, _ = modality_probe(x, item, y, item, folds=5, generator=seeded())
    assert right.mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))
    right, _ = modality_probe(x, item, x, item, folds=5, generator=seeded())
    assert right.mean().item() == pytest.approx(0.5, abs=1e-12)


def test_the_probe_finds_a_shift_and_counts_modalities_alike():
    x, y = unit(200, 8, seed=1), unit(600, 8, seed=2)
    item, three = torch.arange(200), torch.arange(200).repeat(3)
    right, _ = modality_probe(x + 3, item, y, three, folds=5, generator=seeded())
    assert right.mean().item() == pytest.approx(1)
    right, _ = modality_probe(x * 0, item, y * 0, three, folds=5, generator=seeded())
    # Nothing to see: all rows are taken for the larger class, and chance is still 1/2.
    assert right.mean().item() == pytest.approx(0.5)


# CKA and RSA


def brute_cka(x, y):
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def biased(k, m):
        return np.trace(k @ h @ m @ h)

    def unbiased(k, m):
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        value = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (value - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return [f(k, m) / math.sqrt(f(k, k) * f(m, m)) for f in (biased, unbiased)]


@pytest.mark.parametrize(("n", "strip"), [(12, 1), (200, 1 << 30)])
def test_cka_equals_its_definition_by_gram_matrices(n, strip, monkeypatch):
    monkeypatch.setattr("amodal.metrics.similarity.CHUNK_BYTES", strip)
    x = normal(n, 5, seed=1) + 2
    y = x[:, :3] + 0.5 * normal(n, 3, seed=2) - 7
    want = brute_cka(x.numpy(), y.numpy())
    assert list(linear_cka(x, y)) == pytest.approx(want, abs=1e-10)
    assert list(linear_cka(x.float(), y.float())) == pytest.approx(want, abs=1e-5)


def test_cka_is_one_for_rotated_scaled_and_shifted_copies():
    x = normal(30, 6, seed=1)
    rotation = torch.linalg.qr(normal(6, 6, seed=2)).Q
    assert list(linear_cka(x, x)) == pytest.approx([1, 1])
    assert list(linear_cka(x, 3 * x @ rotation + 5)) == pytest.approx([1, 1])


def test_unrelated_sets_have_no_debiased_cka_but_a_biased_one():
    values = [
        linear_cka(normal(40, 60, seed=2 * s), normal(40, 60, seed=2 * s + 1)) for s in range(50)
    ]
    debiased = np.array([value.debiased for value in values])
    assert abs(debiased.mean()) < 4 * debiased.std() / math.sqrt(50)
    assert min(value.biased for value in values) > 0.5


def test_a_single_point_has_no_similarity():
    point = torch.full((9, 4), 0.1)
    assert linear_cka(point, X) == (0, 0)
    assert rsa(point, X, permutations=9, generator=seeded()) == (0, 1)


def test_rsa_is_the_rank_correlation_of_distances_and_p_counts_permutations():
    x, y = normal(12, 4, seed=1), normal(12, 3, seed=2)
    y[:, 0] += x[:, 0]
    y[3], y[5] = y[4], y[6]  # ties

    def distances(z):
        return [np.linalg.norm(z[i] - z[j]) for i in range(12) for j in range(i)]

    test = rsa(x, y, permutations=40, generator=seeded(3))
    want = spearmanr(distances(x.numpy()), distances(y.numpy())).statistic
    assert test.value == pytest.approx(want, abs=1e-10)
    generator, reached = seeded(3), 1
    for _ in range(40):
        order = torch.randperm(12, generator=generator).numpy()
        reached += spearmanr(distances(x.numpy()), distances(y.numpy()[order])).statistic >= want
    assert test.p == pytest.approx(reached / 41)


def test_rsa_of_a_shifted_copy_is_one():
    x = normal(20, 4, seed=1)
    assert rsa(x, x + 3, permutations=19, generator=seeded()) == pytest.approx((1, 0.05))


# Neighbours


def brute_shares(scores, k):
    """Share of random orders of equal scores in which an entry is among the first k."""
    shares = np.zeros_like(scores)
    for i, row in enumerate(scores):
        for j, value in enumerate(row):
            above, tied = (row > value).sum(), (row == value).sum()
            shares[i, j] = min(max((k - above) / tied, 0), 1)
    return shares


@pytest.mark.parametrize("k", [1, 3, 6])
def test_places_are_shared_between_equal_scores(k):
    scores = torch.randint(0, 4, (20, 6), generator=seeded()).double()
    got = neighbour_shares(scores, k)
    np.testing.assert_allclose(got.numpy(), brute_shares(scores.numpy(), k), atol=1e-12)


@pytest.mark.parametrize("chunk", [2, None])
def test_k_occurrence_and_its_metrics_equal_their_definitions(chunk):
    gallery = torch.cat([Y, Y[:3]])  # duplicates tie
    got = k_occurrence(X, gallery, 3, chunk=chunk)
    want = brute_shares((X @ torch.cat([Y, Y[:3]]).T).numpy().round(12), 3).sum(0)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)
    metrics = hubness_metrics(got, 9, 3)
    assert metrics.skew == pytest.approx(skew(want), abs=1e-10)
    assert metrics.antihubs == (want == 0).mean()
    assert metrics.largest_hub == pytest.approx(want.max() / 9)


def test_chance_of_hubness_is_that_of_random_neighbours():
    queries, size, k = 300, 60, 5
    skews, antihubs = [], []
    generator = np.random.default_rng(0)
    for _ in range(100):
        drawn = generator.random((queries, size)).argsort(1)[:, :k]
        found = hubness_metrics(
            torch.bincount(torch.tensor(drawn).flatten(), minlength=size), queries, k
        )
        skews.append(found.skew)
        antihubs.append(found.antihubs)
    assert found.skew_chance == pytest.approx(np.mean(skews), abs=0.12)  # 4 standard errors
    few = hubness_metrics(torch.zeros(60), 20, 5)
    assert few.antihubs_chance == pytest.approx((55 / 60) ** 20)


def test_a_planted_hub_is_found():
    query = F.normalize(normal(100, 20, seed=1) + 1, dim=1)
    gallery = unit(50, 20, seed=2)
    gallery[17] = F.normalize(query.mean(0), dim=0)
    occurrence = k_occurrence(query, gallery, 1)
    metrics = hubness_metrics(occurrence, 100, 1)
    assert occurrence.argmax() == 17
    assert metrics.largest_hub > 0.9
    assert metrics.antihubs > 0.8
    assert metrics.skew > 5


def test_a_constant_gallery_has_no_hub():
    occurrence = k_occurrence(X, X[:1].expand(7, 4), 3)
    np.testing.assert_allclose(occurrence.numpy(), 9 * 3 / 7)
    assert hubness_metrics(occurrence, 9, 3)[0] == 0


@pytest.mark.parametrize("chunk", [2, None])
def test_the_mixed_gallery_leaves_out_the_query_alone(chunk):
    samples = {"a": X, "b": Y, "c": torch.cat([X[:2], Y[:2]])}
    every = torch.cat(list(samples.values()))
    kind = np.repeat([0, 1, 2], [9, 14, 4])
    scores = (every @ every.T).numpy().round(12)
    np.fill_diagonal(scores, -np.inf)
    shares = brute_shares(scores, 5)
    got = mixed_gallery(samples, 5, chunk=chunk)
    for number, name in enumerate(samples):
        want = shares[kind == number][:, kind == number].sum(1) / 5
        np.testing.assert_allclose(got[name][0].numpy(), want, atol=1e-12)


def test_a_constant_embedding_mixes_by_chance_and_separate_sets_not_at_all():
    samples = {"a": torch.ones(4, 3), "b": torch.ones(7, 3)}
    for share, chance in mixed_gallery(samples, 3).values():
        np.testing.assert_allclose(share.numpy(), chance)
    assert mixed_gallery(samples, 3)["b"][1] == pytest.approx(6 / 10)
    apart = {"a": torch.eye(2)[:1].expand(9, 2), "b": torch.eye(2)[1:].expand(9, 2)}
    assert all(bool((share == 1).all()) for share, _ in mixed_gallery(apart, 3).values())


def test_k_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"1…14, got 15"):
        k_occurrence(X, Y, 15)
    with pytest.raises(ValueError, match=r"1…22, got 23"):
        mixed_gallery({"a": X, "b": Y}, 23)


# Effective rank


def test_singular_values_are_those_of_the_centred_sets_each_counting_alike():
    # A cloud repeated until both have as many rows weighs as the cloud itself.
    x, y = (X + 1).numpy(), Y.numpy()
    rows = np.concatenate([np.repeat(x, 14, 0), np.repeat(y, 9, 0)])
    want = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    got = singular_values([X + 1, Y]).numpy()
    np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=1e-10)
    share = want / want.sum()
    assert effective_rank(torch.tensor(got)) == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in share)), abs=1e-9
    )
    moment, centre = second_moment([X + 1, Y])
    np.testing.assert_allclose(centre.numpy(), rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(moment.numpy(), np.cov(rows.T, ddof=0), atol=1e-12)


def test_effective_rank_of_known_shapes():
    cross = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(singular_values([cross])) == pytest.approx(5)
    line = torch.linspace(-1, 1, 30)[:, None] * unit(1, 64, seed=1).float() + 0.3
    assert effective_rank(singular_values([line])) == pytest.approx(1, abs=0.02)
    assert effective_rank(singular_values([torch.full((30, 8), 0.1)])) == 0


# Rows of items


def test_items_with_several_rows_give_their_mean_or_one_of_them():
    items = torch.tensor([10, 20, 60])
    sample = EmbeddingSet(Y, Y_ITEM)
    want = torch.stack([Y[i == Y_ITEM].mean(0) for i in items])
    torch.testing.assert_close(item_means(sample, items), want)
    seen = set()
    for seed in range(20):
        drawn = one_row_each(sample, items, seeded(seed))
        assert drawn.item.tolist() == [10, 20, 60]
        places = [int((z == Y).all(1).nonzero()) for z in drawn.z]
        assert Y_ITEM[places].tolist() == [10, 20, 60]
        seen.add(places[0])
    assert seen == {0, 4}


def test_the_histogram_holds_every_pair_once():
    got = cosine_histogram(3 * X, Y, X_ITEM, Y_ITEM, chunk=2)
    cosine = (X @ Y.T).numpy()
    own = (X_ITEM[:, None] == Y_ITEM).numpy()
    for counts, values in ((got.true, cosine[own]), (got.other, cosine[~own])):
        want, _ = np.histogram(values, bins=BINS, range=(-1, 1))
        np.testing.assert_array_equal(counts.numpy(), want)


# The whole report


def three_sets(seed=0):
    x = unit(30, 6, seed=seed)
    return {
        "image": EmbeddingSet(x, torch.arange(30)),
        "text": EmbeddingSet(
            F.normalize(x.repeat_interleave(2, 0) + 0.3 * normal(60, 6, seed=seed + 1), dim=1),
            torch.arange(30).repeat_interleave(2),
        ),
        "audio": EmbeddingSet(unit(25, 6, seed=seed + 2), torch.arange(5, 30)),
    }


def test_the_report_covers_each_modality_pair_and_direction():
    samples = three_sets()
    result = geometry_metrics(samples, FAST)
    pairs = ["image_text", "image_audio", "text_audio"]
    assert {n.split("/")[1] for n in result.metrics if n.startswith("cka")} == set(pairs)
    assert {n.split("/")[1] for n in result.metrics if n.startswith("hubness")} == {
        f"{a}_to_{b}" for a in samples for b in samples if a != b
    }
    assert {n.split("/")[1] for n in result.metrics if n.startswith("effective")} == {
        *samples,
        "joint",
    }
    assert result["shared_items/text_audio"] == 25
    assert all(math.isfinite(value) for value in result.to_dict().values())
    image, text = samples["image"], samples["text"]
    assert result["alignment/image_text"] == pytest.approx(alignment(*image, *text)[0].mean())
    assert result["uniformity/text"] == uniformity(*text)
    estimate = result.metrics["mixed_gallery/text/same_modality_share"]
    shares = mixed_gallery({name: sample.z for name, sample in samples.items()}, 10)
    assert estimate.value == pytest.approx(shares["text"][0].mean())
    assert estimate.low < estimate.value < estimate.high


def test_equal_seeds_give_equal_reports():
    first = geometry_metrics(three_sets(), FAST, seed=5).to_dict()
    assert geometry_metrics(three_sets(), FAST, generator=seeded(5)).to_dict() == first
    assert geometry_metrics(three_sets(), FAST, seed=6).to_dict() != first


def test_the_order_of_the_rows_changes_no_figure_without_chance():
    samples = three_sets()
    shuffled = {}
    for name, (z, item) in samples.items():
        order = torch.randperm(len(z), generator=seeded(9))
        shuffled[name] = EmbeddingSet(z[order], item[order])
    options = GeometryOptions(permutations=1, bootstrap=0)
    first, second = (
        geometry_metrics(samples, options).to_dict(),
        geometry_metrics(shuffled, options).to_dict(),
    )
    drawn = ("energy", "probe", "/p")  # rows, folds and permutations are drawn
    for name, value in first.items():
        if not any(part in name for part in drawn):
            assert second[name] == pytest.approx(value, abs=1e-10), name


def test_identical_sets_have_no_gap():
    sample = EmbeddingSet(unit(40, 5, seed=1).float(), torch.arange(40))
    result = geometry_metrics({"a": sample, "b": sample}, FAST)
    assert result["alignment/a_b"] == 0
    assert result["gap/a_b/centroid"] == 0
    assert result["gap/a_b/energy"] == pytest.approx(0, abs=1e-6)
    assert result["modality_probe/a_b/accuracy"] == pytest.approx(0.5)
    assert result["cka/a_b/biased"] == pytest.approx(1)
    assert result["cka/a_b/debiased"] == pytest.approx(1)
    assert result["rsa/a_b"] == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collapsed_embeddings_give_finite_metrics(dtype):
    point = F.normalize(torch.full((20, 5), 0.3), dim=1).to(dtype)
    samples = {
        "a": EmbeddingSet(point, torch.arange(20)),
        "b": EmbeddingSet(0 * point, torch.arange(20)),
    }
    result = geometry_metrics(samples, FAST)
    assert all(math.isfinite(value) for value in result.to_dict().values())
    assert result["effective_rank/a"] == 0
    assert result["cka/a_b/debiased"] == 0
    assert result["gap/a_b/centroid"] == pytest.approx(1, abs=0.01)


def test_modalities_that_share_no_item_are_still_compared_as_sets():
    samples = {"a": EmbeddingSet(X, X_ITEM), "b": EmbeddingSet(Y, Y_ITEM + 1000)}
    result = geometry_metrics(samples, FAST)
    assert result["shared_items/a_b"] == 0
    assert "gap/a_b/centroid" in result.metrics
    assert "modality_probe/a_b/accuracy" in result.metrics
    for name in ("alignment/a_b", "cka/a_b/biased", "rsa/a_b", "gap/a_b/energy"):
        assert name not in result.metrics


def test_more_items_than_the_limit_are_drawn_from():
    samples = three_sets()
    options = GeometryOptions(permutations=9, bootstrap=0, max_items=12, folds=3)
    result = geometry_metrics(samples, options)
    assert all(math.isfinite(value) for value in result.to_dict().values())
    image, text = samples["image"], samples["text"]
    means = [item_means(sample, torch.arange(30)) for sample in (image, text)]
    assert result["cka/image_text/biased"] == pytest.approx(linear_cka(*means).biased)  # of all


def test_bad_input_is_refused():
    sample = EmbeddingSet(X, X_ITEM)
    with pytest.raises(ValueError, match="two modalities"):
        geometry_metrics({"a": sample})
    with pytest.raises(ValueError, match="widths"):
        geometry_metrics({"a": sample, "b": EmbeddingSet(X[:, :3], X_ITEM)})
    bad = X.clone()
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="b: 1 of 9 embeddings are not finite"):
        geometry_metrics({"a": sample, "b": EmbeddingSet(bad, X_ITEM)})
    with pytest.raises(ValueError, match="5 folds need at least as many items, got 3"):
        geometry_metrics({"a": sample, "b": EmbeddingSet(X[:3], X_ITEM[:3])})
    with pytest.raises(ValueError, match="as many items"):
        geometry_metrics({"a": sample, "b": EmbeddingSet(X, X_ITEM[:3])})
    with pytest.raises(ValueError, match="folds must be at least 2"):
        GeometryOptions(folds=1)
    with pytest.raises(ValueError, match="positive"):
        GeometryOptions(t=0)


@pytest.mark.parametrize("low", [-1.0, 0.97])
def test_the_drawn_similarities_have_an_area_of_one(low):
    true, other = torch.zeros(BINS, dtype=torch.int64), torch.zeros(BINS, dtype=torch.int64)
    first = int((low + 1) / 2 * BINS)
    true[first:] = 3
    other[first : BINS - 1] = torch.arange(BINS - 1 - first)
    figure = similarity_figure(CosineHistogram(true, other), "a", "b")
    drawn = [patch.get_data() for patch in figure.axes[0].patches]
    assert len(drawn) == 4  # of each the area and its outline
    for data in drawn:
        assert (data.values * np.diff(data.edges)).sum() == pytest.approx(1)
        assert data.edges[0] == pytest.approx(low, abs=2 / BINS)
        assert data.edges[-1] == pytest.approx(1)


def test_plots_are_written_for_each_pair(tmp_path):
    samples = three_sets()
    samples["point"] = EmbeddingSet(torch.zeros(6, 6, dtype=torch.float64), torch.arange(6))
    files = write_plots(tmp_path / "plots", samples, geometry_metrics(samples, FAST))
    names = {file.name for file in files}
    assert {"map.png", "spectrum.png", "gap_image_text.png", "k_occurrence_text_audio.png"} <= names
    assert len(names) == 2 + 3 * 6
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    colours = input_colours(["image", "text", *"abcdefgh"], ON_PAPER)
    assert (colours["image"], colours["text"]) == (ON_PAPER.first, ON_PAPER.second)
    json.dumps(geometry_metrics(samples, FAST).to_dict(), allow_nan=False)


# Held-out correlation


def test_held_out_correlation_sees_what_two_sets_share_and_nothing_where_they_share_nothing():
    n, shared = 600, normal(600, 3, seed=1)
    turned = torch.linalg.qr(normal(8, 8, seed=2))[0]
    related = torch.cat([shared, normal(n, 5, seed=3)], 1) @ turned
    view = torch.cat([shared, normal(n, 5, seed=4)], 1)
    item = torch.arange(n)

    def found(other):
        samples = {
            name: EmbeddingSet(F.normalize(z, dim=1), item)
            for name, z in (("image", view), ("text", other))
        }
        return geometry_metrics(samples, FAST, seed=0)

    close, apart = found(related), found(normal(n, 8, seed=5))
    name = "held_out_correlation/image_text/total"
    assert 2.5 < close[name] < 3.5
    assert close[name + "/p"] == pytest.approx(1 / 21)
    assert abs(apart[name]) < 0.6
    assert apart[name + "/p"] > 0.05
    assert close["held_out_correlation/image_text/components"] == 8


def test_held_out_correlation_of_a_constant_cloud_is_nothing():
    item = torch.arange(20)
    samples = {
        "image": EmbeddingSet(unit(20, 4, seed=0), item),
        "text": EmbeddingSet(torch.ones(20, 4).double() / 2, item),
    }
    assert geometry_metrics(samples, FAST)["held_out_correlation/image_text/total"] == 0
