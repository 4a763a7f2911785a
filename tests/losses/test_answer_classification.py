"""The loss over a list of answers against brute force and finite differences."""

import math

import pytest
import torch

from amodal.losses.answer_classification import answer_classification_loss

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 4, generator=G, dtype=torch.float64)
TARGETS = torch.tensor(
    [[1, 0, 0, 0], [1 / 3, 2 / 3, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1 / 3]],
    dtype=torch.float64,
)


def test_it_is_the_sum_over_answers_of_binary_cross_entropies():
    total = 0.0
    for scores, wanted in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True):
        if not any(wanted):
            continue
        for s, t in zip(scores, wanted, strict=True):
            p = 1 / (1 + math.exp(-s))
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    assert answer_classification_loss(LOGITS, TARGETS).item() == pytest.approx(total / 4, rel=1e-12)


def test_gradients_match_finite_differences():
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: answer_classification_loss(x, TARGETS), [logits])


def test_the_order_of_questions_and_of_answers_changes_nothing():
    rows, columns = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        answer_classification_loss(LOGITS[rows][:, columns], TARGETS[rows][:, columns]),
        answer_classification_loss(LOGITS, TARGETS),
    )


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_questions_outside_the_list_give_no_loss_and_no_gradient(rows):
    logits = LOGITS[:rows].clone().requires_grad_()
    loss = answer_classification_loss(logits, torch.zeros(rows, 4))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_scores_of_other_answers_than_the_targets_are_refused():
    with pytest.raises(ValueError, match="differ"):
        answer_classification_loss(LOGITS, TARGETS[:, :3])
