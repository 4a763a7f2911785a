"""Sigmoid, decoupled and triplet losses against brute force, and what holds for all of them."""

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from amodal.losses import sigmoid as sigmoid_module
from amodal.losses.decoupled import DecoupledConfig, decoupled_loss
from amodal.losses.sigmoid import SigmoidConfig, sigmoid_loss
from amodal.losses.triplet import TripletConfig, spread, triplet_loss

CONFIGS = {
    "sigmoid": SigmoidConfig(bias=-2.0),
    "decoupled": DecoupledConfig(),
    "triplet all": TripletConfig(mining="all"),
    "triplet semi_hard": TripletConfig(mining="semi_hard"),
    "triplet hardest": TripletConfig(mining="hardest"),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def unit(*shape, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=dtype), dim=-1)


def mask_of(n, m, seed, share=0.3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, m, generator=g) < share


def loops(left, right):
    """Cosines as plain numbers."""
    return [
        [sum(a * b for a, b in zip(x, y, strict=True)) for y in right.tolist()]
        for x in left.tolist()
    ]


def brute_sigmoid(left, right, log_scale, bias, positives):
    total = 0.0
    for i, row in enumerate(loops(left, right)):
        for j, cosine in enumerate(row):
            sign = 1 if positives[i][j] else -1
            total += math.log(1 + math.exp(-sign * (math.exp(log_scale) * cosine + bias)))
    return total / ((len(left) + len(right)) / 2)


def brute_decoupled(left, right, log_scale, positives):
    def one_way(s, related):
        rows = []
        for cosines, here in zip(s, related, strict=True):
            logits = [math.exp(log_scale) * c for c in cosines]
            held = [x for x, yes in zip(logits, here, strict=True) if yes]
            rivals = [x for x, yes in zip(logits, here, strict=True) if not yes]
            if held and rivals:
                lse = math.log(sum(math.exp(x) for x in rivals))
                rows.append(lse - sum(held) / len(held))
        return sum(rows) / len(rows) if rows else 0.0

    forth = one_way(loops(left, right), positives.tolist())
    return (forth + one_way(loops(right, left), positives.T.tolist())) / 2


def brute_triplet(left, right, positives, margin, mining):
    def one_way(s, related):
        terms = []
        for cosines, here in zip(s, related, strict=True):
            rivals = [x for x, yes in zip(cosines, here, strict=True) if not yes]
            for lead in [x for x, yes in zip(cosines, here, strict=True) if yes]:
                if not rivals:
                    continue
                if mining == "all":
                    terms.append(sum(max(0.0, margin - lead + r) for r in rivals))
                    continue
                behind = [r for r in rivals if r < lead]
                rival = max(rivals)
                if mining == "semi_hard":
                    rival = max(behind) if behind else min(rivals)
                terms.append(max(0.0, margin - lead + rival))
        return sum(terms) / len(terms) if terms else 0.0

    forth = one_way(loops(left, right), positives.tolist())
    return (forth + one_way(loops(right, left), positives.T.tolist())) / 2


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 7), (9, 2)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("strip", [1 << 24, 6])
def test_sigmoid_equals_its_definition(n, m, share, strip, monkeypatch):
    monkeypatch.setattr(sigmoid_module, "STRIP", strip)
    left, right, positives = unit(n, 6, seed=1), unit(m, 6, seed=2), mask_of(n, m, 3, share)
    got = sigmoid_loss(left, right, torch.tensor(1.2), torch.tensor(-0.7), positives)
    assert got.item() == pytest.approx(brute_sigmoid(left, right, 1.2, -0.7, positives), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 7), (9, 2)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_decoupled_equals_its_definition(n, m, share):
    left, right, positives = unit(n, 6, seed=1), unit(m, 6, seed=2), mask_of(n, m, 3, share)
    got = decoupled_loss(left, right, torch.tensor(1.2, dtype=torch.float64), positives)
    want = brute_decoupled(left, right, 1.2, positives)
    assert got.item() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (4, 7), (9, 2)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mining", ["all", "semi_hard", "hardest"])
def test_triplet_equals_its_definition(n, m, share, mining):
    left, right, positives = unit(n, 6, seed=1), unit(m, 6, seed=2), mask_of(n, m, 3, share)
    got = triplet_loss(left, right, positives, margin=0.3, mining=mining)
    want = brute_triplet(left, right, positives, 0.3, mining)
    assert got.item() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_decoupled_is_info_nce_without_the_positive_in_the_denominator():
    left, right = unit(6, 4, seed=1), unit(6, 4, seed=2)
    s = left @ right.T * 3
    rivals = s.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf)
    want = -2 * s.diagonal() + rivals.logsumexp(1) + rivals.T.logsumexp(1)
    got = decoupled_loss(left, right, torch.tensor(math.log(3), dtype=torch.float64))
    assert got.item() == pytest.approx(want.mean().item() / 2)


@every_loss
def test_gradients_are_those_of_finite_differences(config):
    loss = config.build().double().eval()
    left, right = unit(5, 4, seed=1), unit(6, 4, seed=2)
    positives = mask_of(5, 6, 4)
    arguments = [left.requires_grad_(), right.requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, positives), arguments)


@every_loss
def test_the_order_of_the_pairs_does_not_matter(config):
    loss = config.build().double().eval()
    left, right, order = unit(7, 4, seed=1), unit(7, 4, seed=2), torch.randperm(7)
    assert loss(left[order], right[order]).item() == pytest.approx(loss(left, right).item())
    assert loss(right, left).item() == pytest.approx(loss(left, right).item())


def degenerate(rows, kind, seed, dtype):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 8, generator=g)
    if kind == "rank 1":
        z = torch.randn(rows, 1, generator=g) * z[:1] if rows else z
    elif kind == "zeros":
        z = torch.zeros(rows, 8)
    elif kind == "duplicates":
        z = z[torch.randint(0, max(1, rows // 2), (rows,), generator=g)] if rows else z
    elif kind == "whitened" and rows:
        z = torch.linalg.qr(z)[0]
    return F.normalize(z, dim=1).to(dtype).requires_grad_()


@every_loss
def test_no_batch_gives_a_loss_or_gradient_that_is_not_finite(config):
    kinds = ["rank 1", "zeros", "duplicates", "whitened", "random"]
    count = 0
    for kind, n, dtype in itertools.product(
        kinds, [0, 1, 2, 5, 16], [torch.float32, torch.bfloat16]
    ):
        for seed in range(20):
            left, right = (degenerate(n, kind, 2 * seed + side, dtype) for side in (0, 1))
            value = config.build()(left, right)
            value.backward()
            assert value.isfinite(), (kind, n, seed)
            assert left.grad.isfinite().all(), (kind, n, seed)
            assert right.grad.isfinite().all(), (kind, n, seed)
            count += 1
    assert count == 1000


@every_loss
def test_wrong_shapes_are_refused(config):
    loss = config.build()
    with pytest.raises(ValueError, match="paired embeddings differ"):
        loss(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"positives must be \(2, 2\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool))


@pytest.mark.parametrize("config", [SigmoidConfig(), DecoupledConfig()], ids=lambda c: c.kind)
def test_the_temperature_keeps_its_floor(config):
    loss = config.build()
    loss.log_scale.data.fill_(9.0)
    loss.constrain_()
    assert loss.log_scale.item() == pytest.approx(-math.log(0.01))


def test_mining_hardens_after_its_steps_and_remembers_them():
    loss = TripletConfig(mining="scheduled", semi_hard_steps=2).build().train()
    left, right = unit(9, 4, seed=1), unit(9, 4, seed=2)
    got = [loss(left, right).item() for _ in range(4)]
    soft, hard = (triplet_loss(left, right, mining=m).item() for m in ("semi_hard", "hardest"))
    assert soft != hard
    assert got == [soft, soft, hard, hard]
    again = TripletConfig(mining="scheduled", semi_hard_steps=2).build()
    again.load_state_dict(loss.state_dict())
    assert again.eval()(left, right).item() == hard


def test_a_collapse_is_told_once_and_spread_out_rows_are_not():
    loss = TripletConfig(mining="hardest").build().train()
    point = unit(1, 4, seed=0).expand(6, 4)
    assert spread(point).item() == pytest.approx(0, abs=1e-6)
    assert spread(torch.tensor([[1.0, 0], [-1, 0]])).item() == 1
    with pytest.warns(UserWarning, match="embeddings have collapsed") as before:
        values = [loss(point, point).item() for _ in range(80)]
    assert values == pytest.approx([0.2] * 80)
    assert len(before) == 1
    assert loss.collapsed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(80):
            loss(unit(6, 4, seed=1), unit(6, 4, seed=2))
    assert not loss.collapsed
