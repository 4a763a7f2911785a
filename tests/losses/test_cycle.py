"""Cycles against brute force, the permutation that closes them, and known pairs against it."""

import functools
import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.cycle import (
    PATIENCE,
    CycleConfig,
    Translator,
    cycle_loss,
    cycle_miss_rate,
    hashed_keys,
    matching_accuracy,
    soft_nearest_neighbour_cycle,
    soft_nearest_neighbour_supervised_loss,
    translation_loss,
    unexplained_variance,
)

FORMS = ["translate", "soft_nearest_neighbour"]
every_form = pytest.mark.parametrize("form", FORMS)
DIM = 4


def rows(n, d=DIM, *, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype)


def linear(seed):
    w = rows(DIM, seed=seed)
    return lambda x: x @ w.T + 0.3


def mask_of(n, m, seed, share=0.3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, m, generator=g) < share


def brute_variance(x):
    mean = [sum(c) / len(x) for c in zip(*x, strict=True)]
    return sum(math.dist(row, mean) ** 2 for row in x) / len(x)


def brute_softmax(query, candidates, tau):
    weights = [math.exp(-(math.dist(query, c) ** 2) / (2 * tau)) for c in candidates]
    return [w / sum(weights) for w in weights]


def brute_soft_cycle(left, right, same, tau):
    total = 0.0
    for i, a in enumerate(left):
        alpha = brute_softmax(a, right, tau)
        point = [sum(w * b[d] for w, b in zip(alpha, right, strict=True)) for d in range(len(a))]
        beta = brute_softmax(point, left, tau)
        total -= math.log(sum(beta[k] for k in range(len(left)) if k == i or same[i][k]))
    return total / len(left)


def brute_soft_supervised(left, right, known_pairs, tau):
    def one_way(query, candidates, mask):
        terms = [
            -math.log(sum(s for s, yes in zip(shares, known, strict=True) if yes))
            for shares, known in (
                (brute_softmax(q, candidates, tau), known)
                for q, known in zip(query, mask, strict=True)
            )
            if any(known)
        ]
        return sum(terms) / len(terms)

    columns = [list(column) for column in zip(*known_pairs, strict=True)]
    return (one_way(left, right, known_pairs) + one_way(right, left, columns)) / 2


def test_the_cycle_error_equals_its_definition():
    left, right, forth, back = rows(5, seed=0), rows(7, seed=1), linear(2), linear(3)

    def share(there_and_back, x):
        error = sum(math.dist(a, b) ** 2 for a, b in zip(there_and_back, x, strict=True)) / len(x)
        return error / brute_variance(x)

    want = (
        share(back(forth(left)).tolist(), left.tolist())
        + share(forth(back(right)).tolist(), right.tolist())
    ) / 2
    assert cycle_loss(left, right, forth, back).item() == pytest.approx(want, rel=1e-9)


def test_the_supervised_term_equals_its_definition():
    left, right, forth, back = rows(5, seed=0), rows(7, seed=1), linear(2), linear(3)
    known_pairs = mask_of(5, 7, 4)
    pairs = [(i, j) for i in range(5) for j in range(7) if known_pairs[i, j]]
    assert len(pairs) > len({i for i, _ in pairs})  # some row has several partners
    there = [math.dist(forth(left)[i].tolist(), right[j].tolist()) ** 2 for i, j in pairs]
    home = [math.dist(back(right)[j].tolist(), left[i].tolist()) ** 2 for i, j in pairs]
    want = sum(there) / len(pairs) / brute_variance(right.tolist()) / 2
    want += sum(home) / len(pairs) / brute_variance(left.tolist()) / 2
    got = translation_loss(left, right, forth, back, known_pairs)
    assert got.item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 7), (9, 2)])
@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_the_soft_cycle_equals_its_definition(n, m, tau):
    left, right, same = rows(n, seed=0), rows(m, seed=1), mask_of(n, n, 2)
    got = soft_nearest_neighbour_cycle(left, right, same, temperature=tau)
    want = brute_soft_cycle(left.tolist(), right.tolist(), same.tolist(), tau)
    assert got.item() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7), (9, 2)])
def test_the_soft_supervised_term_equals_its_definition(n, m):
    left, right, known_pairs = rows(n, seed=0), rows(m, seed=1), mask_of(n, m, 2)
    got = soft_nearest_neighbour_supervised_loss(left, right, known_pairs, temperature=0.7)
    want = brute_soft_supervised(left.tolist(), right.tolist(), known_pairs.tolist(), 0.7)
    assert got.item() == pytest.approx(want, rel=1e-9)


def test_matching_and_its_chance_are_counted():
    left, right, positives = rows(9, seed=0), rows(6, seed=1), mask_of(9, 6, 2)
    hits, guesses, known = 0, 0.0, 0
    for i, partners in enumerate(positives.tolist()):
        if any(partners):
            distances = [math.dist(left[i].tolist(), b) for b in right.tolist()]
            hits += partners[distances.index(min(distances))]
            guesses += sum(partners) / 6
            known += 1
    accuracy, chance, n = matching_accuracy(left, right, positives)
    assert 0 < known < 9
    assert (accuracy, chance, n) == (
        pytest.approx(hits / known),
        pytest.approx(guesses / known),
        known,
    )


def test_gradients_are_those_of_finite_differences():
    left, right = rows(5, seed=0).requires_grad_(), rows(4, seed=1).requires_grad_()
    weights = [rows(DIM, seed=s).requires_grad_() for s in (2, 3)]
    known_pairs, same = mask_of(5, 4, 4), mask_of(5, 5, 5)

    def translate(x, y, w, v):
        forth, back = (lambda r: r @ w), (lambda r: r @ v)
        known = translation_loss(x, y, forth, back, known_pairs)
        return cycle_loss(x, y, forth, back) + known

    def soft(x, y):
        cycle = soft_nearest_neighbour_cycle(x, y, same, temperature=0.8)
        return cycle + soft_nearest_neighbour_supervised_loss(x, y, known_pairs, temperature=0.8)

    assert torch.autograd.gradcheck(translate, [left, right, *weights])
    assert torch.autograd.gradcheck(soft, [left, right])


def test_the_cycle_error_has_no_scale_and_no_origin():
    x, estimate = rows(6, seed=0), rows(6, seed=1)
    want = unexplained_variance(estimate, x).item()
    assert unexplained_variance(estimate * 50 + 7, x * 50 + 7).item() == pytest.approx(
        want, rel=1e-9
    )
    assert unexplained_variance(x.mean(0).expand(6, DIM), x).item() == pytest.approx(1)


def built(form, known_pairs="all", *, dtype=torch.float64, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"temperature": 0.5, "ramp_steps": 0, **options}
        loss = CycleConfig(form=form, known_pairs=known_pairs, **options).build(DIM).to(dtype)
        with torch.no_grad():  # away from the identity, so that there is something to lose
            for p in loss.parameters():
                p += 0.3 * torch.randn_like(p)
    return loss


@every_form
@pytest.mark.parametrize("hidden", [0, 8])
def test_the_order_of_rows_and_the_names_of_both_sides_do_not_matter(form, hidden):
    loss = built(form, hidden=hidden)
    left, right = rows(6, seed=0), rows(5, seed=1)
    item_l, item_r = torch.tensor([1, 2, 2, 3, 4, 9]), torch.tensor([3, 1, 1, 2, 7])
    want = loss(left, right, left_item=item_l, right_item=item_r).item()
    metrics = loss.metrics()
    p, q = torch.tensor([4, 2, 0, 1, 5, 3]), torch.tensor([1, 4, 0, 2, 3])
    got = loss(left[p], right[q], left_item=item_l[p], right_item=item_r[q]).item()
    assert got == pytest.approx(want, rel=1e-9)
    assert loss.metrics() == pytest.approx(metrics)
    if form == "translate":
        loss.forth, loss.back = loss.back, loss.forth
    got = loss(right, left, left_item=item_r, right_item=item_l).item()
    assert got == pytest.approx(want, rel=1e-9)
    assert loss.metrics() == pytest.approx(metrics)


@every_form
def test_pairs_that_are_no_seeds_are_as_if_nobody_knew_them(form):
    item = torch.arange(40)
    left, right = rows(40, seed=0), rows(40, seed=1)
    known = hashed_keys(item) < int(0.4 * 2**53)
    assert 5 < known.sum() < 30
    by_share = built(form, 0.4)(left, right, left_item=item, right_item=item)
    alone = built(form)(left, right, torch.diag(known))
    assert by_share.item() == alone.item()
    # Rows of different items may belong together too; then both items must have known pairs.
    mask = mask_of(40, 40, 2)
    by_share = built(form, 0.4)(left, right, mask, left_item=item, right_item=item).item()
    cut = built(form)
    cut._known_pairs = lambda positives, *_: positives & torch.outer(known, known)
    assert by_share == cut(left, right, mask, left_item=item, right_item=item).item()


@every_form
@pytest.mark.parametrize("known_pairs", ["none", 0])
def test_without_known_pairs_only_metrics_use_at_the_pairs(form, known_pairs):
    left, right = rows(6, seed=0), rows(6, seed=1)
    loss = built(form, known_pairs)
    straight = loss(left, right).item()
    before = loss.metrics()
    assert loss(left, right, torch.eye(6).bool()[:, torch.randperm(6)]).item() == straight
    assert loss(left, right, torch.zeros(6, 6).bool()).item() == straight
    assert set(loss.metrics()) == {"cycle_error"}
    assert set(before) == {"cycle_error", "matching_accuracy", "chance"}


@every_form
def test_the_known_pairs_weigh_as_asked(form):
    left, right = rows(6, seed=0), rows(6, seed=1)
    none = built(form, "none")(left, right).item()
    once = built(form)(left, right).item()
    thrice = built(form, supervised_weight=3.0)(left, right).item()
    assert once > none
    assert thrice - none == pytest.approx(3 * (once - none), rel=1e-9)


@every_form
def test_the_cycle_gains_its_weight_in_training_where_pairs_are_known(form):
    left, right = rows(6, seed=0), rows(6, seed=1)
    cycle = built(form, "none", ramp_steps=4)(left, right).item()
    both = built(form)(left, right).item()
    loss = built(form, ramp_steps=4)
    for share in (0, 0.25, 0.5, 0.75, 1, 1):
        assert loss(left, right).item() == pytest.approx(both - (1 - share) * cycle, rel=1e-9)
    late = built(form, ramp_steps=4).eval()
    assert late(left, right).item() == both


def test_rows_of_one_item_count_together():
    # Both rows of item 0 stand in one place: coming back to either is right.
    left, right = torch.eye(4)[[0, 0, 1]] * 9, torch.eye(4)[[0, 1]] * 9
    assert soft_nearest_neighbour_cycle(left, right, temperature=1.0) > 0.4
    item_l, item_r = torch.tensor([0, 0, 1]), torch.tensor([0, 1])
    loss = built("soft_nearest_neighbour", "none")
    assert loss(left, right, left_item=item_l, right_item=item_r).item() < 1e-6
    assert loss(left, right, item_l[:, None] == item_r).item() < 1e-6


def test_seeds_by_number_are_the_first_items_met_and_stay():
    loss = built("soft_nearest_neighbour", 3).train()

    def known():
        return set(loss.known_items[: int(loss.known_count)].tolist())

    def step(left, right):
        item_l, item_r = torch.tensor(left), torch.tensor(right)
        value = loss(
            rows(len(left), seed=0), rows(len(right), seed=1), left_item=item_l, right_item=item_r
        )
        return value.item()

    step([5, 6], [6, 7])  # only item 6 has both sides
    assert known() == {6}
    loss.eval()
    step([1, 2], [1, 2])
    assert known() == {6}
    loss.train()
    step([11, 12, 13, 6], [13, 12, 11, 6])
    lowest = sorted((11, 12, 13), key=lambda k: int(hashed_keys(torch.tensor([k]))))[:2]
    assert known() == {6, *lowest}
    step([21, 22], [22, 21])
    assert known() == {6, *lowest}
    again = built("soft_nearest_neighbour", 3)
    again.load_state_dict(loss.state_dict())
    loss = again
    assert known() == {6, *lowest}


def test_the_hash_of_a_key_is_that_of_splitmix():
    def reference(key):
        full = 2**64 - 1
        x = (key + 0x9E3779B97F4A7C15) & full
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & full
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & full
        return (x ^ (x >> 31)) >> 11

    keys = [0, 1, 2, -1, -5, 2**62, 2**63 - 1, -(2**63), 123456789]
    assert hashed_keys(torch.tensor(keys)).tolist() == [reference(k) for k in keys]


def test_a_share_of_seeds_is_about_that_share_of_the_items():
    n = 20_000
    found = int((hashed_keys(torch.arange(n)) < int(0.1 * 2**53)).sum())
    assert abs(found - 0.1 * n) < 4 * (n * 0.1 * 0.9) ** 0.5


def permuted(n=160, seed=0):
    """Rows, and their partners: the same with the coordinates in another order."""
    left = F.normalize(rows(n, 8, seed=seed, dtype=torch.float32), dim=1)
    return left, left[:, [1, 2, 3, 4, 5, 6, 7, 0]]


def test_a_permutation_closes_the_translated_cycle_with_matching_at_chance():
    left, right = permuted()
    loss = CycleConfig(form="translate", known_pairs="none").build(8)
    value = loss(left, right)
    value.backward()
    metrics = loss.metrics()
    assert value.item() < 1e-12
    assert max(p.grad.abs().max() for p in loss.parameters()) < 1e-6  # there is no way out
    assert metrics["cycle_error"] < 1e-12
    assert metrics["chance"] == pytest.approx(1 / 160)
    assert metrics["matching_accuracy"] < 5 / 160


def test_a_permutation_closes_the_soft_cycle_with_matching_at_chance():
    n = 32
    left = torch.eye(n)
    right = left[torch.arange(n).roll(1)]  # row i of right looks like row i - 1 of left
    loss = CycleConfig(known_pairs="none", temperature=0.02).build()
    assert loss(left, right).item() < 1e-6
    assert loss.metrics() == {
        "cycle_error": 0,
        "matching_accuracy": 0,
        "chance": pytest.approx(1 / n),
    }


@functools.cache
def trained_on_24_of_160(ramp_steps, steps=300):
    left, right = permuted()
    item = torch.arange(160)
    loss = CycleConfig(form="translate", known_pairs=24, ramp_steps=ramp_steps).build(8)
    optimizer = torch.optim.Adam(loss.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        optimizer.zero_grad()
        loss(left, right, left_item=item, right_item=item).backward()
        optimizer.step()
    fresh, partners = permuted(seed=1)
    loss.eval()(fresh, partners, left_item=item, right_item=item)
    return loss


def test_seeds_resolve_the_permutation_for_rows_they_do_not_name():
    loss = trained_on_24_of_160(ramp_steps=150)
    assert int(loss.known_count) == 24
    assert loss.metrics()["cycle_error"] < 1e-3
    assert loss.metrics()["matching_accuracy"] > 0.99


def test_without_the_ramp_a_determinant_of_the_wrong_sign_may_stay():
    # Moving 8 coordinates round is an odd permutation: its determinant is -1, that of the start 1.
    stuck, free = (trained_on_24_of_160(ramp_steps=r) for r in (0, 150))
    assert torch.linalg.det(stuck.forth.linear.weight) > 0.1
    assert torch.linalg.det(free.forth.linear.weight) < -0.9
    assert stuck.metrics()["matching_accuracy"] < 0.9


def test_seeds_resolve_the_permutation_of_the_soft_cycle():
    n = 24
    left = torch.eye(n).requires_grad_()
    right = torch.eye(n)[torch.arange(n).roll(1)].requires_grad_()
    loss = CycleConfig(temperature=0.1, ramp_steps=0).build()
    optimizer = torch.optim.Adam([left, right], lr=0.05)
    assert loss(left, right) > 1
    for _ in range(200):
        optimizer.zero_grad()
        loss(left, right).backward()
        optimizer.step()
    loss(left, right)
    assert loss.metrics() == {
        "cycle_error": 0,
        "matching_accuracy": 1,
        "chance": pytest.approx(1 / n),
    }


@every_form
def test_a_closed_cycle_at_chance_is_warned_of_once(form):
    left, right = permuted(64)
    if form == "soft_nearest_neighbour":
        left = torch.eye(64)
        right = left.roll(1, 0)
    loss = CycleConfig(form=form, known_pairs="none", temperature=0.02).build(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PATIENCE - 1):
            loss(left, right)
        loss.eval()(left, right)
        loss.train()
    with pytest.warns(UserWarning, match="at chance|is chance"):
        loss(left, right)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2 * PATIENCE):
            loss(left, right)


@every_form
def test_no_warning_where_rows_match_or_are_too_few_to_tell(form):
    loss = CycleConfig(form=form, known_pairs="none", temperature=0.02).build(64)
    same, few = torch.eye(64), torch.eye(64)[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PATIENCE + 1):
            loss(same, same)
        for _ in range(PATIENCE + 1):
            loss(few, few.roll(1, 0))
            loss(same, same.roll(1, 0), torch.zeros(64, 64).bool())


@every_form
@pytest.mark.parametrize("known_pairs", ["all", "none"])
def test_no_batch_gives_a_loss_or_gradient_that_is_not_finite(form, known_pairs):
    count = 0
    for n, m, dtype, kind in itertools.product(
        [0, 1, 2, 12],
        [0, 1, 5, 12],
        [torch.float32, torch.bfloat16],
        ["random", "rank 1", "zeros", "duplicates", "whitened", "equal", "large"],
    ):
        x = rows(n, 8, seed=0, dtype=torch.float32)
        y = rows(m, 8, seed=1, dtype=torch.float32)
        if kind == "rank 1":
            x = x[:, :1] * torch.ones(8)
        elif kind == "zeros":
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        elif kind == "duplicates":
            y = y[:1].expand(m, 8).clone()
        elif kind == "whitened" and n:
            x = torch.linalg.qr(x)[0]
            x = F.pad(x, (0, 8 - x.shape[1]))
        elif kind == "equal" and m:
            x = y[torch.arange(n) % m].clone()
        elif kind == "large":
            x, y = x * 1e4, y * 1e4
        x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
        config = CycleConfig(form=form, known_pairs=known_pairs, hidden=4)
        loss = config.build(8)
        value = loss(x, y, torch.arange(n)[:, None] == torch.arange(m))
        value.backward()
        assert value.isfinite()
        for part in (x, y, *loss.parameters()):
            assert part.grad is None or part.grad.isfinite().all()
        assert x.grad is not None
        assert y.grad is not None
        assert all(math.isfinite(v) for v in loss.metrics().values())
        count += 1
    assert count == 224


def test_no_pair_and_no_row_give_exactly_zero():
    x, y, none = rows(4, seed=0), rows(3, seed=1), rows(0, seed=2)
    empty = torch.zeros(4, 3).bool()
    assert translation_loss(x, y, linear(2), linear(3), empty).item() == 0
    assert soft_nearest_neighbour_supervised_loss(x, y, empty, temperature=1.0).item() == 0
    assert soft_nearest_neighbour_cycle(x, none, temperature=1.0).item() == 0
    assert cycle_loss(none, none, linear(2), linear(3)).item() == 0
    one_point = torch.ones(5, DIM)
    assert unexplained_variance(one_point * 3, one_point).item() == 0
    assert cycle_miss_rate(x, none, temperature=1.0) == 0


def test_a_side_without_rows_does_not_count():
    x, forth, back = rows(4, seed=0), linear(2), linear(3)
    want = unexplained_variance(back(forth(x)), x).item()
    assert cycle_loss(x, rows(0, seed=1), forth, back).item() == want
    assert cycle_loss(rows(0, seed=1), x, back, forth).item() == want


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_new_translator_does_nothing(hidden):
    x = rows(5, seed=0, dtype=torch.float32)
    assert torch.equal(Translator(DIM, hidden)(x), x)


def test_wrong_input_is_refused():
    x, y = rows(3, seed=0), rows(2, seed=1)
    loss = built("soft_nearest_neighbour")
    with pytest.raises(ValueError, match=r"expected \(N, E\)"):
        loss(x, rows(3, 5, seed=1))
    with pytest.raises(ValueError, match="3 and 2 rows need a mask"):
        loss(x, y)
    with pytest.raises(ValueError, match=r"must be \(3, 2\), got \(2, 3\)"):
        loss(x, y, torch.zeros(2, 3).bool())
    with pytest.raises(ValueError, match=r"same must be \(3, 3\)"):
        soft_nearest_neighbour_cycle(x, y, torch.zeros(2, 2).bool(), temperature=1.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        soft_nearest_neighbour_cycle(x, y, temperature=0.0)
    with pytest.raises(ValueError, match="known_pairs: 5 needs the item keys"):
        built("soft_nearest_neighbour", 5)(x, x)
    with pytest.raises(ValueError, match=r"build\(dim\)"):
        CycleConfig(form="translate").build()


@pytest.mark.parametrize("known_pairs", [1.0, -1, 1.5, "some"])
def test_known_pairs_that_mean_nothing_are_refused(known_pairs):
    with pytest.raises(ValueError, match="known_pairs"):
        CycleConfig(known_pairs=known_pairs)
