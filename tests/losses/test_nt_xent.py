"""NT-Xent against SimCLR's definition, closed forms and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.info_nce import one_way_info_nce
from amodal.losses.nt_xent import NTXentConfig, nt_xent_loss

FORMS = ["exclusive", "mean"]


def unit(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)


def scalar(x):
    return torch.tensor(x, dtype=torch.float64)


def simclr(first, second, tau):
    """Equation 1 of arXiv:2002.05709 over 2N rows, one number at a time."""
    z = [*first.tolist(), *second.tolist()]
    n = len(first)

    def s(i, j):
        return math.exp(sum(a * b for a, b in zip(z[i], z[j], strict=True)) / tau)

    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        total -= math.log(s(i, j) / sum(s(i, k) for k in range(2 * n) if k != i))
    return total / (2 * n)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_two_views_are_simclr(n, form):
    a, b = unit(n, 5, seed=1), unit(n, 5, seed=2)
    group = torch.arange(n)
    got = nt_xent_loss(
        torch.cat([a, b]), torch.cat([group, group]), scalar(-math.log(0.3)), multi_positive=form
    )
    assert got.item() == pytest.approx(simclr(a, b, 0.3), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("form", FORMS)
def test_many_views_equal_the_definition(form):
    z, group, scale = unit(9, 4, seed=1), torch.tensor([5, 5, 5, 2, 2, 9, 7, 7, 7]), 1.7
    rows = []
    for i in range(9):
        s = [math.exp(scale * float(z[i] @ z[k])) for k in range(9)]
        others = [k for k in range(9) if k != i]
        chosen = [k for k in others if group[k] == group[i]]
        terms = []
        for p in chosen:
            rivals = others if form == "mean" else [p, *[k for k in others if group[k] != group[i]]]
            terms.append(-math.log(s[p] / sum(s[k] for k in rivals)))
        if terms:
            rows.append(sum(terms) / len(terms))
    assert len(rows) == 8  # row 5 is alone in its group
    got = nt_xent_loss(z, group, scalar(math.log(scale)), multi_positive=form)
    assert got.item() == pytest.approx(sum(rows) / len(rows), rel=1e-12)


def test_indistinguishable_rows_score_chance():
    z, group = unit(1, 8, seed=0).expand(10, 8), torch.arange(10) // 2
    assert nt_xent_loss(z, group, scalar(2.0)).item() == pytest.approx(math.log(9))


def test_the_order_of_rows_does_not_matter():
    z, group = unit(8, 4, seed=0), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    order = torch.randperm(8)
    torch.testing.assert_close(
        nt_xent_loss(z, group, scalar(1.0)), nt_xent_loss(z[order], group[order], scalar(1.0))
    )


def test_unlike_info_nce_rows_of_one_modality_repel_each_other():
    image, text = torch.eye(2).double(), torch.eye(2).double()
    image = F.normalize(image + 3, dim=1)  # close to each other, but rightly matched
    group = torch.arange(2)
    both = nt_xent_loss(torch.cat([image, text]), torch.cat([group, group]), scalar(2.0))
    assert both > one_way_info_nce(image, text, scalar(2.0))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_match_finite_differences(form):
    group = torch.tensor([0, 0, 1, 1, 1, 2])
    assert torch.autograd.gradcheck(
        lambda z, t: nt_xent_loss(z, group, t, multi_positive=form),
        [unit(6, 3, seed=3).requires_grad_(), scalar(0.7).requires_grad_()],
    )


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_rows_that_are_all_alone_cost_nothing(rows):
    z = unit(rows, 4, seed=0).requires_grad_()
    loss = nt_xent_loss(z, torch.arange(rows), scalar(1.0))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_temperature_returns_to_its_floor_and_still_learns():
    loss = NTXentConfig(mode="cross_modal", temperature=0.1, min_temperature=0.05).build()
    loss.log_scale.data.fill_(50.0)
    loss.constrain_()
    z, group = unit(6, 3, seed=5), torch.arange(6) // 2
    value = loss(z, group)
    torch.testing.assert_close(value, nt_xent_loss(z, group, torch.tensor(math.log(20.0))))
    value.backward()
    assert loss.log_scale.grad.abs() > 0


def test_every_row_needs_a_group():
    with pytest.raises(ValueError, match="4 group keys"):
        nt_xent_loss(unit(4, 3, seed=0), torch.arange(3), scalar(0.0))
