"""Distillation against sums over plain numbers, and what it must leave alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.distillation import (
    Distillation,
    DistillationConfig,
    feature_distillation,
    similarity_distillation,
)


def unit(*shape, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=dtype), dim=-1)


def scalar(x):
    return torch.tensor(x, dtype=torch.float64)


def softmax(values):
    top = max(values)
    exps = [math.exp(v - top) for v in values]
    return [e / sum(exps) for e in exps]


def brute(left, right, teacher_left, teacher_right, scale, temperature):
    def cosines(a, b):
        return [[sum(x * y for x, y in zip(p, q, strict=True)) for q in b] for p in a]

    def divergence(student, teacher):
        total = 0.0
        for of_student, of_teacher in zip(student, teacher, strict=True):
            s = softmax([v * math.exp(scale) for v in of_student])
            t = softmax([v / temperature for v in of_teacher])
            total += sum(p * (math.log(p) - math.log(q)) for p, q in zip(t, s, strict=True))
        return total / len(student)

    a, b, ta, tb = (x.tolist() for x in (left, right, teacher_left, teacher_right))
    forth = divergence(cosines(a, b), cosines(ta, tb))
    return (forth + divergence(cosines(b, a), cosines(tb, ta))) / 2


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 4), (3, 7)])
def test_it_equals_the_divergence_summed_by_hand(n, m):
    rows = unit(n, 5, seed=1), unit(m, 5, seed=2), unit(n, 9, seed=3), unit(m, 9, seed=4)
    got = similarity_distillation(*rows, scalar(2.0), temperature=0.2)
    assert got.item() == pytest.approx(brute(*rows, 2.0, 0.2), rel=1e-10, abs=1e-12)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    left, right = unit(6, 5, seed=1).requires_grad_(), unit(6, 5, seed=2).requires_grad_()
    loss = similarity_distillation(
        left, right, left.detach(), right.detach(), scalar(-math.log(0.1)), temperature=0.1
    )
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert left.grad.abs().max() < 1e-12


def test_a_rotated_copy_of_the_teacher_is_as_good_for_similarities_and_not_for_features():
    left, right = unit(6, 5, seed=1), unit(6, 5, seed=2)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    same = similarity_distillation(
        left @ turn, right @ turn, left, right, scalar(-math.log(0.1)), temperature=0.1
    )
    assert same.item() == pytest.approx(0, abs=1e-10)
    assert feature_distillation(left, left).item() == pytest.approx(0, abs=1e-12)
    assert feature_distillation(left @ turn, left).item() > 0.01


def test_features_are_compared_by_cosine():
    student, teacher = unit(4, 3, seed=1), unit(4, 3, seed=2) * 7  # the length does not matter
    want = sum(
        1 - sum(a * b for a, b in zip(s, t, strict=True)) / math.sqrt(sum(b * b for b in t))
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    )
    assert feature_distillation(student, teacher).item() == pytest.approx(want / 4, rel=1e-12)


@pytest.mark.parametrize("form", ["similarity", "feature"])
def test_gradients_equal_finite_differences(form):
    loss = Distillation(form=form, temperature=0.3).double()
    left, right = unit(3, 4, seed=1).requires_grad_(), unit(5, 4, seed=2).requires_grad_()
    teacher = unit(3, 4, seed=3), unit(5, 4, seed=4)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, *teacher), (left, right))


@pytest.mark.parametrize("form", ["similarity", "feature"])
def test_the_order_of_the_rows_does_not_matter(form):
    loss = Distillation(form=form, temperature=0.3).double()
    left, right = unit(6, 4, seed=1), unit(6, 4, seed=2)
    t_left, t_right = unit(6, 4, seed=3), unit(6, 4, seed=4)
    p, q = torch.randperm(6), torch.randperm(6)
    shuffled = loss(left[p], right[q], t_left[p], t_right[q])
    assert shuffled.item() == pytest.approx(loss(left, right, t_left, t_right).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["similarity", "feature"])
def test_degenerate_rows_give_finite_losses_and_gradients(form, dtype):
    loss = Distillation(form=form, temperature=0.01)
    for n, make in [
        (0, torch.zeros),
        (1, torch.ones),
        (5, torch.zeros),
        (5, lambda *s: torch.ones(*s) / 2),
        (5, lambda *s: unit(*s, seed=0, dtype=torch.float32)),
    ]:
        left, right = (make(n, 4).to(dtype).requires_grad_() for _ in range(2))
        value = loss(left, right, left.detach().clone(), -right.detach())
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(left.grad).all()
        loss.constrain_()


def test_rows_that_do_not_belong_together_are_refused():
    left, right, other = unit(3, 4, seed=1), unit(5, 4, seed=2), unit(4, 4, seed=3)
    with pytest.raises(ValueError, match="the student has 3 and 5 rows"):
        similarity_distillation(left, right, other, right, scalar(0.0), temperature=0.1)
    with pytest.raises(ValueError, match="teacher"):
        feature_distillation(left, other)


def test_only_similarities_have_a_temperature():
    assert list(DistillationConfig(teacher="x").build(4).parameters())
    assert not list(DistillationConfig(teacher="x", form="feature").build(4).parameters())
