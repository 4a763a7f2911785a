"""The queue of negatives against a plain list, and inside the loss."""

import io
import math

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.info_nce import InfoNCEConfig, info_nce_loss, one_way_info_nce
from amodal.losses.negative_queue import NegativeQueue


def unit(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g), dim=-1)


@pytest.mark.parametrize("sizes", [[3], [5], [2, 2, 2], [4, 4, 4], [0, 1], [13, 2], [1] * 11])
def test_it_holds_the_last_rows_and_their_keys(sizes):
    queue, pushed = NegativeQueue(5, 2), []
    assert len(queue) == 0
    assert len(queue.rows().z) == 0
    for number, size in enumerate(sizes):
        item = torch.arange(size) + 100 * number
        z = torch.stack([item.float(), -item.float()], 1).requires_grad_()
        queue.push(z, item, item + 7)
        pushed += item.tolist()
        rows = queue.rows()
        assert not rows.z.requires_grad
        assert sorted(rows.item.tolist()) == sorted(pushed[-5:])
        assert torch.equal(rows.z[:, 0], rows.item.float())
        assert torch.equal(rows.content, rows.item + 7)


def test_a_saved_queue_goes_on_where_it_was():
    queue, again = NegativeQueue(5, 2), NegativeQueue(5, 2)
    queue.push(torch.randn(7, 2), torch.arange(7))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for q in (queue, again):
        q.push(torch.ones(2, 2), torch.tensor([50, 51]))
    for a, b in zip(queue.rows(), again.rows(), strict=True):
        assert torch.equal(a, b)


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match=r"expected \(3, 2\)"):
        NegativeQueue(5, 2).push(torch.randn(3, 4), torch.arange(3))


def test_an_empty_queue_changes_nothing_and_then_fills_in_training_only():
    loss = InfoNCEConfig(queue_start_step=0, queue_size=6).build(4)
    a, b, item = unit(4, 4, seed=1), unit(4, 4, seed=2), torch.arange(4)
    plain = info_nce_loss(a, b, loss.log_scale)
    torch.testing.assert_close(loss.eval()(a, b, left_item=item, right_item=item), plain)
    assert len(loss.left_queue) == 0
    torch.testing.assert_close(loss.train()(a, b, left_item=item, right_item=item), plain)
    assert (len(loss.left_queue), len(loss.right_queue)) == (4, 4)


def test_queued_rows_are_further_negatives_unless_they_are_related():
    loss = InfoNCEConfig(queue_start_step=0, queue_size=8).build(4)
    past_image, past_text = unit(3, 4, seed=1), unit(3, 4, seed=2)
    past_item, past_caption = torch.tensor([1, 2, 3]), torch.tensor([11, 12, 13])
    loss(
        past_image, past_text, left_item=past_item, right_item=past_item, right_content=past_caption
    )
    image, text = unit(2, 4, seed=3), unit(2, 4, seed=4)
    item, caption = torch.tensor([3, 9]), torch.tensor([20, 12])  # item 3 again; caption 12 again
    got = loss(image, text, left_item=item, right_item=item, right_content=caption)
    keep = torch.tensor(
        [
            [1, 1, 1, 1, 0],  # item 3 is queued
            [1, 1, 1, 0, 1],  # item 9 owns caption 12, which is queued
        ]
    ).bool()
    eye = torch.eye(2, 5, dtype=torch.bool)
    forth = one_way_info_nce(image, torch.cat([text, past_text]), loss.log_scale, eye, keep=keep)
    # Back: caption 12 is owned by the queued image 2, caption 20's item 3 is queued.
    back = one_way_info_nce(text, torch.cat([image, past_image]), loss.log_scale, eye, keep=keep)
    torch.testing.assert_close(got, (forth + back) / 2)
    got.backward()
    assert torch.isfinite(loss.log_scale.grad)


def test_a_queue_needs_the_keys_of_items():
    loss = InfoNCEConfig(queue_start_step=0, queue_size=4).build(4)
    with pytest.raises(ValueError, match="left_item"):
        loss(unit(2, 4, seed=0), unit(2, 4, seed=1))


def test_more_negatives_make_the_task_harder():
    loss = InfoNCEConfig(queue_start_step=0, queue_size=64, temperature=1.0).build(8)
    z = F.normalize(torch.ones(4, 8), dim=1)
    values = [
        loss(z, z, left_item=torch.arange(4) + 4 * i, right_item=torch.arange(4) + 4 * i).item()
        for i in range(5)
    ]
    assert values == pytest.approx([math.log(4 + 4 * i) for i in range(5)], rel=1e-6)
