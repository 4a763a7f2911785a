"""Unsupervised alignment: recovered maps, invariances, and known failures."""

import itertools
import math

import numpy as np
import pytest
import torch

from amodal.alignment.procrustes import Procrustes
from amodal.alignment.unsupervised import (
    AdversarialInit,
    OptimalTransportInit,
    PCAInit,
    RandomInit,
    SimilarityProfileInit,
    csls_neighbours,
    profiles,
    refine,
    sinkhorn,
    standardized,
    unsupervised_alignment,
)

CLOSED = {
    "profile": SimilarityProfileInit(quantiles=64),
    "axes": PCAInit(),
    "transport": OptimalTransportInit(quantiles=64),
}
every_closed_start = pytest.mark.parametrize("start", CLOSED.values(), ids=CLOSED.keys())


def rows(n, d, *, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64)


def orthogonal(d, *, seed):
    return torch.linalg.qr(rows(d, d, seed=seed))[0]


def skewed(n, d, *, seed):
    """Exponential coordinates: a distribution without symmetries."""
    g = torch.Generator().manual_seed(seed)
    return -torch.rand(n, d, generator=g, dtype=torch.float64).log() / torch.arange(1, d + 1).sqrt()


def hidden_pairs(n=300, d=8, *, seed, noise=0.05):
    """Left rows, rotated and shuffled right rows, and the right row of each left row."""
    x = skewed(n, d, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    y = (x @ orthogonal(d, seed=seed + 1) + noise * x.std() * rows(n, d, seed=seed + 2))[order]
    return x, y, torch.argsort(order)


def found(x, y, start, *, seed=0, restarts=1, **options):
    generator = torch.Generator().manual_seed(seed)
    return unsupervised_alignment(
        x, y, generator=generator, initializations=[start], restarts=restarts, **options
    )


def hits(result, truth):
    return float((result.match == truth).float().mean())


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_neighbours_are_those_of_the_whole_matrix(chunk):
    x, y, k = rows(9, 4, seed=0), rows(13, 4, seed=1), 3
    a, b = x.numpy().tolist(), y.numpy().tolist()

    def cosine(p, q):
        return sum(i * j for i, j in zip(p, q, strict=True)) / math.hypot(*p) / math.hypot(*q)

    near_a = [np.mean(sorted(cosine(p, q) for q in b)[-k:]) for p in a]
    near_b = [np.mean(sorted(cosine(p, q) for p in a)[-k:]) for q in b]
    score = np.array(
        [
            [2 * cosine(p, q) - near_a[i] - near_b[j] for j, q in enumerate(b)]
            for i, p in enumerate(a)
        ]
    )
    got = csls_neighbours(x, y, neighbours=k, chunk=chunk)
    assert got.of_left.tolist() == score.argmax(1).tolist()
    assert got.of_right.tolist() == score.argmax(0).tolist()
    mutual = [score[:, j].argmax() == i for i, j in enumerate(score.argmax(1))]
    assert got.mutual.tolist() == mutual
    assert np.abs(got.score.numpy() - score.max(1)).max() < 1e-12
    assert got.criterion == pytest.approx(score.max(1)[np.array(mutual)].mean())


def test_the_plan_is_that_of_sinkhorn_in_logarithms():
    cost, entropy = rows(5, 7, seed=0), 0.3
    f, g = np.zeros(5), np.zeros(7)
    for _ in range(200):
        f = -entropy * np.log(np.exp((g - cost.numpy()) / entropy).sum(1) * 5)
        g = -entropy * np.log(np.exp((f[:, None] - cost.numpy()) / entropy).sum(0) * 7)
    want = np.exp((f[:, None] + g - cost.numpy()) / entropy)
    got = sinkhorn(cost, entropy, 200)
    assert np.abs(got.numpy() - want).max() < 1e-9
    assert got.sum(1).numpy() == pytest.approx(1 / 5)
    assert got.sum(0).numpy() == pytest.approx(1 / 7)


def test_a_profile_does_not_change_with_a_rotation_or_the_order_of_rows():
    x = standardized(skewed(50, 4, seed=0))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    turned = x @ orthogonal(4, seed=1).float()
    a, b = profiles(x, turned[order], quantiles=20, chunk=7)
    torch.testing.assert_close(a[order], b, atol=1e-5, rtol=0)
    whole = x.double() @ x.double().T
    values, vectors = torch.linalg.eigh(whole)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T  # (X X')^(1/2)
    place = np.linspace(0, 49, 20).round().astype(int)
    want = np.sort(root.numpy(), axis=1)[:, place]
    want = want * (a.norm() / np.linalg.norm(want - want.mean(0))).item()
    assert np.abs(a.numpy() - (want - want.mean(0))).max() < 1e-4


@every_closed_start
def test_unknown_pairs_are_found(start):
    good = 0
    for seed in range(10):
        x, y, truth = hidden_pairs(seed=seed)
        good += hits(found(x, y, start), truth) >= 0.95
    assert good >= 9


def test_the_map_is_in_the_original_coordinates():
    x, y, truth = hidden_pairs(seed=0, noise=0.0)
    y = 3 * y + rows(1, 8, seed=5)
    result = found(x + 7, y, SimilarityProfileInit(quantiles=64))
    torch.testing.assert_close(result.map.transform(x + 7), y[truth])
    assert result.cycle_error == (0, 0)
    assert result.mutual == 1
    assert result.map.factor == pytest.approx(3)


@every_closed_start
def test_row_order_and_rotations_change_no_match(start):
    x, y, truth = hidden_pairs(n=200, seed=3)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(9))
    again = found(x @ orthogonal(8, seed=4), y[order], start)
    assert torch.equal(order[again.match], found(x, y, start).match)
    assert hits(found(x, y, start), truth) > 0.95


def test_sets_with_partial_overlap_are_aligned():
    x, y, truth = hidden_pairs(n=600, d=6, seed=1, noise=0.02)
    keep = truth[:400].sort().values  # left rows 400 and above have no partner
    result = found(x, y[keep], PCAInit(), restarts=4)
    assert float((keep[result.match[:400]] == truth[:400]).float().mean()) > 0.95
    assert result.cycle_error[0] >= 1 / 3
    assert result.cycle_error[1] < 0.05


def test_a_wider_right_space_is_filled_by_a_semi_orthogonal_map():
    x, y, truth = hidden_pairs(n=300, d=6, seed=2)
    wide = torch.cat([y, 0 * y[:, :2]], 1) @ orthogonal(8, seed=7)
    result = found(x, wide, SimilarityProfileInit(quantiles=64))
    assert hits(result, truth) > 0.95
    assert result.map.weight.shape == (6, 8)


def test_the_restart_with_the_best_criterion_is_chosen_and_is_correct():
    x, y, truth = hidden_pairs(seed=4)
    result = unsupervised_alignment(
        x,
        y,
        generator=torch.Generator().manual_seed(0),
        initializations=[RandomInit(), PCAInit(), RandomInit()],
        restarts=5,
    )
    names = [restart.start for restart in result.restarts]
    assert names == ["RandomInit", "PCAInit", "RandomInit", "RandomInit", "PCAInit"]
    criteria = [restart.criterion for restart in result.restarts]
    assert result.selected == criteria.index(max(criteria))
    assert names[result.selected] == "PCAInit"
    assert hits(result, truth) > 0.95
    prepared = standardized(x), standardized(y)
    lost = csls_neighbours(prepared[0] @ result.restarts[0].weight, prepared[1])
    assert float((lost.of_left == truth).float().mean()) < 0.1  # so there was something to choose


def test_equal_generators_give_equal_results_and_the_global_one_is_not_touched():
    x, y, _ = hidden_pairs(n=60, d=4, seed=0)
    for start in (*CLOSED.values(), RandomInit(), AdversarialInit(steps=2)):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = found(x, y, start, restarts=2)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        two = found(x, y, start, restarts=2)
        assert all(
            torch.equal(a.weight, b.weight) for a, b in zip(one.restarts, two.restarts, strict=True)
        )


def test_symmetric_data_have_a_small_cycle_error_and_chance_accuracy():
    # Two circles of 12 points: 144 items with 144 rotational symmetries.
    angle = torch.arange(12) * (2 * math.pi / 12)
    circle = torch.stack([angle.cos(), angle.sin()], 1).double()
    x = torch.cat([2 * circle.repeat_interleave(12, 0), circle.repeat(12, 1)], 1)
    right = 0
    for seed in range(10):
        order = torch.randperm(144, generator=torch.Generator().manual_seed(seed))
        # Without noise, shared rounding errors would identify the rows.
        y = (x @ orthogonal(4, seed=seed) + 1e-3 * rows(144, 4, seed=seed + 50))[order]
        result = found(x, y, PCAInit(), seed=seed, neighbours=3, iterations=30)
        assert max(result.cycle_error) == 0
        assert result.mutual == 1
        moved = result.map.transform(x)
        torch.testing.assert_close(moved, y[result.match], atol=1e-2, rtol=0)  # all meet
        right += int((result.match == torch.argsort(order)).sum())
    assert right / 1440 < 0.1  # 1/144 expected, the chance level


def test_an_isotropic_gaussian_with_noise_is_not_aligned():
    for seed in range(3):
        x = rows(400, 20, seed=seed)
        turn = orthogonal(20, seed=seed + 10)
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        y = (x @ turn + 0.6 * rows(400, 20, seed=seed + 20))[order]
        truth = torch.argsort(order)
        supervised = Procrustes().fit(x, y[truth]).transform(x)
        reachable = csls_neighbours(supervised, y).of_left
        result = unsupervised_alignment(x, y, generator=torch.Generator().manual_seed(0))
        assert float((reachable == truth).float().mean()) > 0.9
        assert hits(result, truth) < 0.1
        assert result.mutual > 0.4  # a wrong map has many mutual neighbours all the same


def test_refinement_has_a_fixed_point_at_the_truth_and_returns_to_it():
    x, y, truth = hidden_pairs(seed=6)
    a, b = standardized(x), standardized(y)
    right = Procrustes(center=False).fit(a, b[truth]).weight.float()
    near = torch.linalg.qr(right + 0.1 * rows(8, 8, seed=1).float())[0]
    near = near * (near * right).sum(0).sign()
    weight, neighbours, iterations = refine(a, b, near, iterations=20)
    assert float((neighbours.of_left == truth).float().mean()) > 0.95
    assert iterations < 20
    again, _, one = refine(a, b, weight, iterations=20)
    assert one == 1
    torch.testing.assert_close(again, weight, atol=1e-5, rtol=0)


def test_every_input_gives_a_finite_map():
    initializations = [*CLOSED.values(), RandomInit(), AdversarialInit(steps=1, batch_size=4)]
    for start, n, m, kind, dtype in itertools.product(
        initializations,
        [2, 12],
        [2, 5],
        ["zeros", "rank 1", "duplicates", "whitened", "huge"],
        [torch.float32, torch.bfloat16],
    ):
        x, y = rows(n, 4, seed=n), rows(m, 3, seed=m)
        if kind == "zeros":
            x = x * 0
        elif kind == "rank 1":
            x = x[:, :1].expand(n, 4)
        elif kind == "duplicates":
            y = y[:1].expand(m, 3)
        elif kind == "whitened":
            x = torch.linalg.qr(x)[0]
        elif kind == "huge":
            x = x * 1e30
        result = found(x.to(dtype), y.to(dtype), start, restarts=1 + (n == 12))
        assert result.map.weight.isfinite().all()
        assert result.map.transform(x.to(dtype)).isfinite().all()
        assert all(restart.weight.isfinite().all() for restart in result.restarts)
        assert all(0 <= error <= 1 for error in result.cycle_error)


def test_the_adversarial_start_corrects_a_near_rotation():
    x, y, truth = hidden_pairs(n=500, d=3, seed=0, noise=0.01)
    a, b = standardized(x), standardized(y)
    right = Procrustes(center=False).fit(a, b[truth]).weight.float()
    skew = rows(3, 3, seed=0).float()
    away = torch.matrix_exp(1.2 * (skew - skew.T) / (skew - skew.T).norm()) @ right

    def near(left, right, restart, generator):
        return away

    start = AdversarialInit(first=near, steps=300)
    weight = start(a, b, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight @ weight.T, torch.eye(3), atol=1e-5, rtol=0)
    assert float((away * right).sum()) / 3 < 0.92
    assert float((weight * right).sum()) / 3 > 0.98


def test_wrong_input_is_refused():
    x = rows(5, 3, seed=0)
    g = torch.Generator()
    with pytest.raises(ValueError, match="left rows"):
        unsupervised_alignment(x[:1], x, generator=g)
    with pytest.raises(ValueError, match="right rows must be finite"):
        unsupervised_alignment(x, x / 0, generator=g)
    with pytest.raises(ValueError, match="1 or more"):
        unsupervised_alignment(x, x, generator=g, restarts=0)
    with pytest.raises(ValueError, match="initializations is empty"):
        unsupervised_alignment(x, x, generator=g, initializations=[])
    with pytest.raises(ValueError, match="rows on both sides"):
        csls_neighbours(x, x[:0])
    with pytest.raises(ValueError, match=r"got \(5, 3\) and \(5, 2\)"):
        csls_neighbours(x, x[:, :2])
    with pytest.raises(ValueError, match="entropy"):
        sinkhorn(x, 0.0, 3)
