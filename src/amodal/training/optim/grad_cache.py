"""Exact gradients of a large contrastive batch in the memory of a small one.

References:
    Gao et al. 2021, arXiv:2101.06983 (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from amodal.data.batch import Batch
from amodal.distributed import batch_statistics
from amodal.models.joint_embedding import Embeddings, JointEmbedding, concatenate


class RandomState:
    """The random numbers a forward pass starts from, to be drawn a second time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def backward_in_chunks(
    model: Callable[[Batch], dict[str, Embeddings]],
    network: JointEmbedding,
    loss_of: Callable[[dict[str, Embeddings]], Tensor],
    batch: Batch,
    *,
    chunk: int,
    backward: Callable[[Tensor], None],
    autocast: Callable[[], AbstractContextManager[object]],
) -> Tensor:
    """Gradients of `loss_of(model(batch))`, with `chunk` items encoded at a time.

    First every chunk is encoded without a graph; the loss of all embeddings gives the gradient
    of each; then every chunk is encoded again, with the same random numbers, and that gradient
    is carried on into the weights.

    Args:
        model: encodes a batch.
        network: the model, inspected for layers that make the result inexact.
        loss_of: the objective over the embeddings of the whole batch.
        batch: B items.
        chunk: items encoded at once.
        backward: `accelerator.backward`, which knows about loss scaling.
        autocast: context of the forward passes.

    Returns:
        () the loss, detached.

    Raises:
        ValueError: `network` has layers with batch statistics; the gradient would be that of
            another model.
    """
    layers = batch_statistics(network)
    if layers:
        raise ValueError(
            f"micro_batch_size cannot be exact with batch statistics ({layers[0]} and "
            f"{len(layers) - 1} more): set `batch_norm: frozen` on that encoder, choose one "
            "without BatchNorm, or leave micro_batch_size out"
        )
    parts = batch.split(chunk)
    states: list[RandomState] = []
    cached: list[dict[str, Embeddings]] = []
    with torch.no_grad(), autocast():
        for part in parts:
            states.append(RandomState(batch.item.device))
            cached.append(model(part))
    whole = concatenate(cached)
    leaves = {m: rows.z.detach().requires_grad_() for m, rows in whole.items()}
    with autocast():
        loss = loss_of({m: rows._replace(z=leaves[m]) for m, rows in whole.items()})
    backward(loss)
    after = RandomState(batch.item.device)
    taken = dict.fromkeys(leaves, 0)
    for part, state in zip(parts, states, strict=True):
        state.restore()
        with autocast():
            again = model(part)
        carried = []
        for modality, rows in again.items():
            gradient = leaves[modality].grad
            start = taken[modality]
            taken[modality] += len(rows.z)
            if gradient is not None and len(rows.z):
                carried.append((rows.z * gradient[start : start + len(rows.z)]).sum())
        if carried:
            # The gradient is already scaled, so it must not pass through `backward` again.
            torch.stack(carried).sum().backward()
    after.restore()
    return loss.detach()
