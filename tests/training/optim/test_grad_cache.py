"""Micro-batches give the gradient of the whole batch, or refuse."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from amodal.data.record import sample_rng
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.text.small_transformer import SmallTransformerConfig
from amodal.losses.info_nce import InfoNCEConfig
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, build_joint_embedding, concatenate
from amodal.projection import LinearConfig
from amodal.training.objectives import Objectives
from amodal.training.optim.grad_cache import backward_in_chunks

WORDS = ["red", "blue", "green", "circle", "square", "left", "right"]


def make(*, norm: str, dropout: float):
    torch.manual_seed(0)
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    architecture = Architecture(
        encoders={
            "image": SmallCNNConfig(widths=(8, 16), size=16, norm=norm),
            "text": SmallTransformerConfig(
                width=16, layers=1, heads=2, max_length=8, dropout=dropout
            ),
        },
        projection=LinearConfig(dim=8),
    )
    model = build_joint_embedding(architecture, lambda: iter([{"text": texts}])).double().train()
    rng = np.random.default_rng(0)
    records = [
        {
            "id": str(i % 5),  # some items occur twice: they are positives of each other
            "origin": str(i),
            "image": None if i == 3 else rng.integers(0, 255, (16, 16, 3), np.uint8),
            "text": [texts[3 * i]] if i != 4 else [],
        }
        for i in range(7)
    ]
    batch = collator_of(model)(records, [sample_rng(0, 0, i) for i in range(7)])
    for named in batch.tensors.values():
        for name, tensor in named.items():
            if tensor.is_floating_point():
                named[name] = tensor.double()
    return model, Objectives([InfoNCEConfig()], dim=8).double(), batch


def gradients(model, objectives):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found | {"log_scale": objectives.losses[0].log_scale.grad.clone()}


def chunked(model, objectives, batch, chunk):
    loss = backward_in_chunks(
        model,
        model,
        lambda embedded: objectives(embedded)[0],
        batch,
        chunk=chunk,
        backward=lambda loss: loss.backward(),
        autocast=nullcontext,
    )
    return loss, gradients(model, objectives)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_of_any_size_give_the_gradient_of_the_whole_batch(chunk):
    model, objectives, batch = make(norm="group", dropout=0.0)
    loss, _ = objectives(model(batch))
    loss.backward()
    want = gradients(model, objectives)
    assert len(want) > 10
    model.zero_grad()
    objectives.zero_grad()
    value, got = chunked(model, objectives, batch, chunk)
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_dropout_is_replayed_in_the_second_pass():
    model, objectives, batch = make(norm="group", dropout=0.5)
    torch.manual_seed(7)
    loss, _ = objectives(concatenate([model(part) for part in batch.split(3)]))
    loss.backward()
    want = gradients(model, objectives)
    model.zero_grad()
    objectives.zero_grad()
    torch.manual_seed(7)
    value, got = chunked(model, objectives, batch, 3)
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_the_random_state_goes_on_as_after_the_first_pass():
    model, objectives, batch = make(norm="group", dropout=0.5)
    torch.manual_seed(7)
    with torch.no_grad():
        for part in batch.split(3):
            model(part)
    want = torch.rand(3)
    torch.manual_seed(7)
    chunked(model, objectives, batch, 3)
    assert torch.equal(torch.rand(3), want)


def test_batch_statistics_are_refused_with_the_way_out():
    model, objectives, batch = make(norm="batch", dropout=0.0)
    with pytest.raises(ValueError, match="batch_norm: frozen"):
        chunked(model, objectives, batch, 3)
