"""The modality game: gradients point the right way, and it closes a gap."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.adversarial import (
    AdversarialConfig,
    Discriminator,
    confusion_loss,
    discriminator_accuracy,
    discriminator_loss,
    gradient_penalty,
    reversal_strength,
    reverse_gradient,
)


def sample(n, d=4, *, seed, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) + shift


def test_the_gradient_is_reversed_and_scaled():
    x = sample(3, seed=0).requires_grad_()
    y = reverse_gradient(x, 0.25)
    assert torch.equal(y, x)
    (y**2).sum().backward()
    assert torch.allclose(x.grad, -0.25 * 2 * x)


def test_the_reversal_grows_from_nothing():
    assert reversal_strength(0) == 0
    assert reversal_strength(0.5) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert reversal_strength(7) == reversal_strength(1) > 0.999


def test_discrimination_confusion_and_accuracy_equal_their_definitions():
    logits = [sample(3, 3, seed=0), sample(5, 3, seed=1), sample(0, 3, seed=2)]

    def share(row, k):
        return math.exp(row[k]) / sum(math.exp(v) for v in row)

    named, mixed, hit = [], [], []
    for m, rows in enumerate(logits[:2]):
        rows = rows.tolist()
        named.append(sum(-math.log(share(r, m)) for r in rows) / len(rows))
        mixed.append(sum(-math.log(share(r, k)) for r in rows for k in range(3)) / len(rows) / 3)
        hit.append(sum(max(range(3), key=r.__getitem__) == m for r in rows) / len(rows))
    assert discriminator_loss(logits).item() == pytest.approx(sum(named) / 2, rel=1e-6)
    assert confusion_loss(logits).item() == pytest.approx(sum(mixed) / 2 - math.log(3), rel=1e-6)
    assert discriminator_accuracy(logits) == pytest.approx(sum(hit) / 2)
    even = [torch.zeros(4, 3), torch.zeros(2, 3)]
    assert discriminator_loss(even).item() == pytest.approx(math.log(3))
    assert confusion_loss(even).item() == pytest.approx(0, abs=1e-6)


def test_layers_descend_and_embeddings_ascend_by_finite_differences():
    torch.manual_seed(0)
    loss = AdversarialConfig(hidden=8, spectral_norm=False, ramp_steps=0, strength=0.5).build(4)
    x, y = (
        sample(6, seed=0).float().requires_grad_(),
        sample(4, seed=1).float().requires_grad_(),
    )
    loss([x, y]).backward()
    plain = [z.detach().clone().requires_grad_() for z in (x, y)]
    logits = [loss.discriminator(z) for z in plain]
    layer = loss.discriminator.layers[0].weight
    discriminator_loss(logits).backward(inputs=[*plain, layer])
    for reversed_, straight in zip((x, y), plain, strict=True):
        torch.testing.assert_close(reversed_.grad, -0.5 * straight.grad)
    assert layer.grad.abs().max() > 0


def test_the_penalty_is_the_mean_squared_gradient():
    torch.manual_seed(0)
    net = Discriminator(4, 2, hidden=8, spectral=False).double()
    samples = [sample(3, seed=0), sample(2, seed=1)]
    want = []
    for m, z in enumerate(samples):
        for row in z:

            def named(r, m=m):
                return net(r[None]).log_softmax(1)[0, m]

            want.append(torch.autograd.functional.jacobian(named, row).square().sum().item())
    assert gradient_penalty(net, samples).item() == pytest.approx(sum(want) / 5)
    gradient_penalty(net, samples).backward()
    assert net.layers[0].weight.grad.isfinite().all()


def test_spectral_norm_bounds_every_layer():
    torch.manual_seed(0)
    net = Discriminator(6, 2, hidden=16, spectral=True).train()
    for layer in net.layers[::2]:
        for _ in range(30):
            _ = layer.weight  # one power iteration each
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=0.05)


def test_the_game_closes_a_gap():
    torch.manual_seed(0)
    base = F.normalize(sample(256, 8, seed=0).float(), dim=1)
    shift = torch.nn.Parameter(0.8 * F.normalize(torch.ones(8), dim=0))
    loss = AdversarialConfig(hidden=32, ramp_steps=100).build(8).train()
    other = F.normalize(sample(256, 8, seed=1).float(), dim=1)
    optimizer = torch.optim.Adam(
        [{"params": [shift], "lr": 0.003}, {"params": loss.parameters(), "lr": 0.01}],
        betas=(0.5, 0.99),
    )
    seen = []
    for _ in range(400):
        optimizer.zero_grad()
        loss([base, other + shift]).backward()
        optimizer.step()
        seen.append(loss.metrics()["accuracy"])
    assert max(seen[:100]) > 0.8
    assert shift.detach().norm() < 0.3
    assert loss.metrics()["chance"] == 0.5


@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_degenerate_sets_stay_finite(n, penalty):
    loss = AdversarialConfig(hidden=8, gradient_penalty=penalty).build(4)
    for make in (torch.zeros, torch.ones):
        x = make(n, 4, dtype=torch.bfloat16).requires_grad_()
        y = make(3, 4, dtype=torch.bfloat16).requires_grad_()
        value = loss([x, y])
        value.backward()
        assert value.isfinite()
        assert x.grad is None or x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_the_ramp_is_remembered_and_wrong_input_is_refused():
    loss = AdversarialConfig(hidden=8).build(4).train()
    loss([sample(3, seed=0), sample(3, seed=1)])
    assert int(loss.state_dict()["step"]) == 1
    with pytest.raises(ValueError, match="built for 2 modalities, got 3"):
        loss([sample(3, seed=0)] * 3)
    with pytest.raises(ValueError, match="needs the width"):
        AdversarialConfig().build()


def alternating(**more):
    torch.manual_seed(0)
    config = AdversarialConfig(
        updates="alternating", discriminator_steps=2, hidden=8, ramp_steps=0, **more
    )
    return config.build(4).train()


def test_alternating_updates_move_one_side_at_a_time():
    loss = alternating(gradient_penalty=1.0)
    g = torch.Generator().manual_seed(1)
    turns = []
    for _ in range(6):
        samples = [torch.randn(5, 4, generator=g).requires_grad_() for _ in range(2)]
        loss.zero_grad()
        loss(samples).backward()
        of_rows = max(float(z.grad.abs().max()) for z in samples)
        of_layers = max(float(p.grad.abs().max()) for p in loss.discriminator.parameters())
        turns.append((of_rows > 0, of_layers > 0))
    assert turns == [(False, True), (False, True), (True, False)] * 2


def test_the_embeddings_turn_is_the_confusion_of_the_discriminator_as_it_stands():
    loss = alternating(spectral_norm=False)
    loss.step += 2
    samples = [torch.randn(5, 4).requires_grad_(), torch.randn(3, 4).requires_grad_()]
    logits = [loss.discriminator(z) for z in samples]
    assert torch.allclose(loss(samples), confusion_loss(logits))


def test_alternating_updates_make_two_sets_indistinguishable():
    torch.manual_seed(0)
    x, y = torch.randn(200, 4), torch.randn(200, 4) + torch.tensor([3.0, 0, 0, 0])
    shift = torch.nn.Parameter(torch.zeros(4))
    loss = alternating()
    optimizer = torch.optim.Adam([shift, *loss.parameters()], lr=0.02, betas=(0.5, 0.9))
    for _ in range(600):
        optimizer.zero_grad()
        loss([x, y + shift]).backward()
        optimizer.step()
    assert (shift + torch.tensor([3.0, 0, 0, 0])).norm() < 1.0
