"""Poolings against the plain mean, maximum and softmax of the tokens that are kept."""

import math

import pytest
import torch

from amodal.encoders.pooling import AttentionPooling, build_pooling

NAMES = ["mean", "max", "cls", "last", "attention"]


def tokens_and_mask():
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    return tokens, keep


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mean", lambda rows: rows.mean(0)),
        ("max", lambda rows: rows.amax(0)),
        ("cls", lambda rows: rows[0]),
        ("last", lambda rows: rows[-1]),
    ],
)
def test_a_pooling_sees_the_kept_tokens_only(name, own):
    tokens, keep = tokens_and_mask()
    want = torch.stack([own(row[mask]) for row, mask in zip(tokens, keep, strict=True)])
    torch.testing.assert_close(build_pooling(name, 8)(tokens, keep), want)


@pytest.mark.parametrize("name", NAMES)
def test_no_mask_is_a_mask_that_keeps_everything(name):
    tokens, keep = tokens_and_mask()
    pooling = build_pooling(name, 8)
    torch.testing.assert_close(pooling(tokens, torch.ones_like(keep)), pooling(tokens))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [0.0, math.inf, math.nan])
def test_a_row_without_tokens_is_zeros_and_padding_never_leaks(name, padding):
    tokens, keep = tokens_and_mask()
    keep[2] = False
    pooling = build_pooling(name, 8)
    filled = tokens.masked_fill(~keep.unsqueeze(-1), padding).requires_grad_()
    pooled = pooling(filled, keep)
    assert torch.equal(pooled[2], torch.zeros(8))
    torch.testing.assert_close(pooled[:2], pooling(tokens[:2], keep[:2]))
    pooled.sum().backward()
    assert filled.grad.isfinite().all()
    assert not filled.grad[2].any()


@pytest.mark.parametrize("name", ["mean", "max", "attention"])
def test_the_order_of_tokens_does_not_matter(name):
    tokens, keep = tokens_and_mask()
    order = torch.tensor([3, 0, 4, 2, 1])
    pooling = build_pooling(name, 8)
    torch.testing.assert_close(pooling(tokens[:, order], keep[:, order]), pooling(tokens, keep))


def test_attention_is_the_softmax_written_out():
    torch.manual_seed(0)
    pooling = AttentionPooling(8, queries=2).double()
    tokens, keep = tokens_and_mask()
    row, mask = tokens[1].double(), keep[1]
    key, value = pooling.key_value(row[mask]).chunk(2, dim=-1)
    weights = torch.softmax(pooling.query @ key.T / math.sqrt(8), dim=-1)
    want = pooling.out((weights @ value).reshape(-1))
    torch.testing.assert_close(pooling(tokens.double(), keep)[1], want)


def test_attention_has_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    pooling = AttentionPooling(4).double()
    tokens = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda x: pooling(x, keep), [tokens])
