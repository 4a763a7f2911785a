"""InfoNCE against brute force in plain Python, closed forms, invariances, finite differences."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from amodal.losses import info_nce as module
from amodal.losses.info_nce import InfoNCEConfig, info_nce_explicit, info_nce_loss, one_way_info_nce

FORMS = ["exclusive", "mean"]


def unit(*shape, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=dtype), dim=-1)


def scalar(x, dtype=torch.float64):
    return torch.tensor(x, dtype=dtype)


def mask_of(n, m, seed, share=0.3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, m, generator=g) < share


def brute_one_way(query, candidates, log_scale, positives, keep, form):
    """The definition, one number at a time, in float64."""
    query, candidates = query.double().tolist(), candidates.double().tolist()
    rows = []
    for i, q in enumerate(query):
        s = [
            math.exp(float(log_scale) * 1.0) * sum(a * b for a, b in zip(q, c, strict=True))
            for c in candidates
        ]
        inside = [j for j in range(len(candidates)) if keep is None or keep[i][j]]
        chosen = [j for j in inside if positives[i][j]]
        negatives = [j for j in inside if not positives[i][j]]
        terms = []
        for p in chosen:
            rivals = [p, *negatives] if form == "exclusive" else inside
            terms.append(-math.log(math.exp(s[p]) / sum(math.exp(s[j]) for j in rivals)))
        if terms:
            rows.append(sum(terms) / len(terms))
    return sum(rows) / len(rows) if rows else 0.0


def brute(left, right, log_scale, positives, form, keep=None):
    transposed = None if keep is None else keep.T
    forth = brute_one_way(left, right, log_scale, positives, keep, form)
    return (forth + brute_one_way(right, left, log_scale, positives.T, transposed, form)) / 2


@pytest.fixture(params=["whole", "strips"])
def strips(request, monkeypatch):
    if request.param == "strips":
        monkeypatch.setattr(module, "STRIP", 12)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 7), (9, 2)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_it_equals_the_definition(n, m, share, form):
    left, right = unit(n, 6, seed=1), unit(m, 6, seed=2)
    positives = mask_of(n, m, 3, share)
    want = brute(left, right, scalar(1.2), positives, form)
    got = info_nce_loss(left, right, scalar(1.2), positives, multi_positive=form)
    assert got.item() == pytest.approx(want, rel=1e-12, abs=1e-15)
    single = info_nce_loss(
        left.float(), right.float(), scalar(1.2).float(), positives, multi_positive=form
    )
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(want, abs=1e-6)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", FORMS)
def test_masked_pairs_are_as_if_deleted(form):
    left, right, positives = unit(6, 4, seed=1), unit(8, 4, seed=2), mask_of(6, 8, 3)
    keep = mask_of(6, 8, 4, 0.6)
    got = info_nce_loss(left, right, scalar(0.8), positives, multi_positive=form, keep=keep)
    assert got.item() == pytest.approx(
        brute(left, right, scalar(0.8), positives, form, keep), rel=1e-12
    )
    there, here = torch.tensor([0, 2, 3]), torch.tensor([1, 4, 5, 6])
    rows = torch.zeros(6, 8, dtype=torch.bool)
    rows[there[:, None], here] = True
    masked = info_nce_loss(left, right, scalar(0.8), positives, multi_positive=form, keep=rows)
    deleted = info_nce_loss(
        left[there],
        right[here],
        scalar(0.8),
        positives[there][:, here],
        multi_positive=form,
    )
    torch.testing.assert_close(masked, deleted, rtol=1e-12, atol=0)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", FORMS)
def test_without_positives_row_i_belongs_to_row_i(form):
    left, right = unit(7, 4, seed=1), unit(7, 4, seed=2)
    eye = torch.eye(7, dtype=torch.bool)
    want = info_nce_loss(left, right, scalar(2.0), eye, multi_positive=form)
    got = info_nce_loss(left, right, scalar(2.0), multi_positive=form)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    keep = mask_of(7, 7, 5, 0.7)
    torch.testing.assert_close(
        info_nce_loss(left, right, scalar(2.0), multi_positive=form, keep=keep),
        info_nce_loss(left, right, scalar(2.0), eye, multi_positive=form, keep=keep),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_orthonormal_pairs_have_the_closed_form(n, scale):
    z = torch.eye(n, dtype=torch.float64)
    want = math.log1p((n - 1) * math.exp(-scale))
    assert info_nce_loss(z, z, scalar(math.log(scale))).item() == pytest.approx(want, rel=1e-12)


def test_indistinguishable_items_score_chance():
    z = unit(1, 8, seed=0).expand(5, 8)
    assert info_nce_loss(z, z, scalar(2.0)).item() == pytest.approx(math.log(5))


def test_one_pair_alone_costs_nothing():
    z = unit(1, 8, seed=0).requires_grad_()
    loss = info_nce_loss(z, unit(1, 8, seed=1), scalar(2.0), torch.ones(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_duplicates_can_reach_zero_only_where_positives_do_not_compete():
    # Two copies of each of two orthogonal items, at a scale where negatives vanish.
    z = torch.eye(2, dtype=torch.float64).repeat_interleave(2, 0)
    item = torch.tensor([0, 0, 1, 1])
    positives = item[:, None] == item[None]
    scale = scalar(math.log(100.0))
    assert info_nce_loss(z, z, scale, positives).item() < 1e-40
    mean = info_nce_loss(z, z, scale, positives, multi_positive="mean")
    assert mean.item() == pytest.approx(math.log(2))
    assert info_nce_loss(z, z, scale).item() == pytest.approx(
        math.log(2)
    )  # duplicates as negatives


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", FORMS)
def test_swapping_modalities_or_shuffling_rows_changes_nothing(form):
    a, b, t = unit(6, 4, seed=1), unit(8, 4, seed=2), scalar(1.5)
    p = mask_of(6, 8, 0)
    i, j = torch.randperm(6), torch.randperm(8)
    base = info_nce_loss(a, b, t, p, multi_positive=form)
    torch.testing.assert_close(base, info_nce_loss(b, a, t, p.T, multi_positive=form))
    torch.testing.assert_close(base, info_nce_loss(a[i], b[j], t, p[i][:, j], multi_positive=form))


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_match_finite_differences(form, masked):
    positives = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]]).bool()
    keep = torch.tensor([[1, 1, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1]]).bool()
    args = (unit(4, 3, seed=3), unit(3, 3, seed=4), scalar(0.7))

    def loss(left, right, log_scale):
        return info_nce_loss(
            left,
            right,
            log_scale,
            positives,
            multi_positive=form,
            keep=keep if masked else None,
        )

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in args])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "m"), [(3, 4), (0, 4), (3, 0), (0, 0)])
def test_nothing_to_average_is_exactly_zero_with_a_gradient(n, m, form):
    left, right = unit(n, 4, seed=1).requires_grad_(), unit(m, 4, seed=2).requires_grad_()
    log_scale = scalar(1.0).requires_grad_()
    none = torch.zeros(n, m, dtype=torch.bool)
    loss = info_nce_loss(left, right, log_scale, none, multi_positive=form)
    loss.backward()
    assert loss.item() == 0
    for x in (left, right, log_scale):
        assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("form", FORMS)
def test_a_row_in_which_nothing_is_left_gives_no_nan(form):
    left = unit(3, 4, seed=1).requires_grad_()
    keep = torch.ones(3, 3, dtype=torch.bool)
    keep[1] = keep[:, 1] = False
    info_nce_loss(left, unit(3, 4, seed=2), scalar(4.0), multi_positive=form, keep=keep).backward()
    assert torch.isfinite(left.grad).all()
    assert torch.equal(left.grad[1], torch.zeros(4))


def test_the_softmax_is_in_single_precision_under_autocast():
    left, right = unit(64, 32, seed=1).float(), unit(64, 32, seed=2).float()
    want = info_nce_loss(left, right, scalar(math.log(100.0)).float())
    with torch.autocast("cpu", torch.bfloat16):
        got = info_nce_loss(left, right, scalar(math.log(100.0)).float())
    assert torch.equal(got, want)
    half = info_nce_loss(left.bfloat16(), right.bfloat16(), scalar(0.0).bfloat16())
    assert half.dtype == torch.float32


def test_strips_give_the_gradient_of_the_whole(monkeypatch):
    args = (unit(37, 5, seed=1), unit(23, 5, seed=2), scalar(1.0))
    positives = mask_of(37, 23, 0, 0.1)
    for x in args:
        x.requires_grad_()
    whole = torch.autograd.grad(info_nce_loss(*args, positives), args)
    monkeypatch.setattr(module, "STRIP", 64)
    strips = torch.autograd.grad(info_nce_loss(*args, positives), args)
    torch.testing.assert_close(strips, whole, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("shared", [True, False])
def test_explicit_negatives_equal_the_definition(shared):
    query, positive, t = unit(4, 5, seed=1), unit(4, 5, seed=2), scalar(1.1)
    negatives = unit(6, 5, seed=3) if shared else unit(4, 6, 5, seed=3)
    keep = mask_of(4, 6, 4, 0.6)
    total = 0.0
    for i in range(4):
        others = negatives if shared else negatives[i]
        s = [math.exp(math.exp(1.1) * float(query[i] @ o)) for o in others[keep[i]]]
        p = math.exp(math.exp(1.1) * float(query[i] @ positive[i]))
        total -= math.log(p / (p + sum(s))) / 4
    got = info_nce_explicit(query, positive, negatives, t, keep)
    assert got.item() == pytest.approx(total, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda q, p, n, s: info_nce_explicit(q, p, n, s, keep),
        [x.requires_grad_() for x in (query, positive, negatives, t)],
    )


def test_explicit_negatives_that_are_the_batch_give_one_direction_of_info_nce():
    a, b, t = unit(5, 4, seed=1), unit(5, 4, seed=2), scalar(1.0)
    got = info_nce_explicit(a, b, b, t, keep=~torch.eye(5, dtype=torch.bool))
    torch.testing.assert_close(got, one_way_info_nce(a, b, t), rtol=1e-12, atol=0)


def test_no_negatives_cost_nothing():
    a = unit(3, 4, seed=1).requires_grad_()
    loss = info_nce_explicit(a, unit(3, 4, seed=2), torch.zeros(0, 4).double(), scalar(1.0))
    loss.backward()
    assert loss.item() == 0
    none = torch.zeros(3, 2, dtype=torch.bool)
    b = unit(3, 4, seed=1).requires_grad_()
    loss = info_nce_explicit(b, unit(3, 4, seed=2), unit(2, 4, seed=3), scalar(1.0), none)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(b.grad, torch.zeros(3, 4).double())


def test_temperature_returns_to_its_floor_and_still_learns():
    loss = InfoNCEConfig(temperature=0.07, min_temperature=0.05).build()
    loss.log_scale.data.fill_(50.0)
    loss.constrain_()
    a, b = unit(4, 3, seed=5), unit(4, 3, seed=6)
    value = loss(a, b)
    torch.testing.assert_close(value, info_nce_loss(a, b, torch.tensor(math.log(20.0))))
    value.backward()
    assert loss.log_scale.grad.abs() > 0


def test_it_starts_at_the_temperature_of_its_configuration():
    a, b = unit(4, 3, seed=5), unit(4, 3, seed=6)
    loss = InfoNCEConfig(temperature=0.2, multi_positive="mean").build()
    item = torch.tensor([0, 0, 1, 2])
    want = brute(a, b, -math.log(0.2), item[:, None] == item[None], "mean")
    assert loss(a, b, left_item=item, right_item=item).item() == pytest.approx(want, rel=1e-6)


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="min_temperature"):
        InfoNCEConfig(temperature=0.005)
    with pytest.raises(ValidationError):
        InfoNCEConfig(temprature=0.1)
    with pytest.raises(ValueError, match="build"):
        InfoNCEConfig(queue_size=8).build()


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        info_nce_loss(unit(3, 4, seed=0), unit(2, 4, seed=0), scalar(0.0))
    with pytest.raises(ValueError, match=r"positives must be \(3, 2\)"):
        info_nce_loss(unit(3, 4, seed=0), unit(2, 4, seed=0), scalar(0.0), torch.ones(2, 3).bool())
    with pytest.raises(ValueError, match="4 queries"):
        info_nce_explicit(
            unit(4, 4, seed=0), unit(4, 4, seed=0), unit(3, 2, 4, seed=0), scalar(0.0)
        )


LARGE = """
import resource, torch, time
from amodal.losses.info_nce import info_nce_loss
torch.manual_seed(0)
n = 16384
a = torch.nn.functional.normalize(torch.randn(n, 64), dim=1).requires_grad_()
b = torch.nn.functional.normalize(torch.randn(n, 64), dim=1).requires_grad_()
info_nce_loss(a[:64], b[:64], torch.tensor(2.0)).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
info_nce_loss(a, b, torch.tensor(2.0)).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
print(time.perf_counter() - start)
"""


@pytest.mark.slow
def test_sixteen_thousand_pairs_need_no_full_matrix():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    megabytes, _ = map(float, done.stdout.split())
    assert megabytes < 600  # the similarities alone are 1,024


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [False, True])
def test_smoothing_is_cross_entropy_with_soft_targets(form, given):
    query, candidates, e = unit(4, 6, seed=1), unit(7, 6, seed=2), 0.2
    positives = mask_of(4, 7, 3) if given else torch.eye(4, 7, dtype=torch.bool)
    keep = mask_of(4, 7, 5, 0.7) | positives if given else None
    rows = []
    for i in range(4):
        s = [math.exp(1.2) * float(query[i] @ c) for c in candidates]
        inside = [j for j in range(7) if keep is None or keep[i][j]]
        rivals = [j for j in inside if not positives[i][j]]
        terms = []
        for p in [j for j in inside if positives[i][j]]:
            among = [p, *rivals] if form == "exclusive" else inside
            total = math.log(sum(math.exp(s[j]) for j in among))
            spread = sum(total - s[j] for j in rivals) / len(rivals)
            terms.append((1 - e) * (total - s[p]) + e * spread)
        if terms:
            rows.append(sum(terms) / len(terms))
    got = one_way_info_nce(
        query,
        candidates,
        scalar(1.2),
        positives if given else None,
        multi_positive=form,
        keep=keep,
        label_smoothing=e,
    )
    assert got.item() == pytest.approx(sum(rows) / len(rows), rel=1e-9)


def test_smoothing_without_negatives_is_nothing_and_its_gradient_is_right():
    z = unit(3, 4, seed=0)
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert info_nce_loss(z, z, scalar(1.0), everything, label_smoothing=0.3).item() == 0
    left, right = unit(4, 5, seed=1).requires_grad_(), unit(4, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: info_nce_loss(a, b, scalar(1.0), label_smoothing=0.3), [left, right]
    )
    with pytest.raises(ValueError, match="label_smoothing must be"):
        info_nce_loss(z, z, scalar(1.0), label_smoothing=1.0)
    loss = InfoNCEConfig(label_smoothing=0.3).build()
    want = info_nce_loss(left.detach(), right.detach(), loss.log_scale, label_smoothing=0.3)
    assert loss(left, right).item() == pytest.approx(want.item())


def test_queued_rows_count_from_the_step_that_was_asked_for():
    plain = InfoNCEConfig().build()
    queued = InfoNCEConfig(queue_size=32, queue_start_step=2).build(4).train()
    values = []
    for step in range(3):
        left, right = unit(6, 4, seed=step), unit(6, 4, seed=step + 50)
        item = torch.arange(6) + 100 * step
        values.append((queued(left, right, left_item=item, right_item=item), plain(left, right)))
    for a, b in values[:2]:  # not to the last bit: the order of sums is the processor's
        assert a.item() == pytest.approx(b.item(), rel=1e-6)
    assert values[2][0] > values[2][1]  # 12 further negatives
