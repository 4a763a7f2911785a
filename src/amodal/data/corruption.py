"""Corruption of one modality: missing, noisy or swapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from amodal.data.batch import Batch

Corruption = Literal["missing", "noise", "swap"]
CORRUPTIONS: tuple[Corruption, ...] = ("missing", "noise", "swap")


def corrupted(
    batch: Batch, modality: str, kind: Corruption, rate: float, generator: torch.Generator
) -> Batch:
    """The batch with one modality worse.

    - missing: a share `rate` of the items loses it.
    - noise: numbers become sqrt(1 - rate) of themselves plus sqrt(rate) of Gaussian noise with the
      mean and the standard deviation that they have in the batch; of token ids and categories a
      share `rate` is drawn from the batch anew.
    - swap: a share `rate` of the items has that of another item.

    Args:
        batch: on the CPU, one row per item.
        modality: which one.
        rate: in [0, 1]; 0 changes nothing.
        generator: of what is drawn.

    Raises:
        ValueError: the rate is outside [0, 1], or the batch has several rows per item.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected 0 to 1, got {rate}")
    if batch.present[modality].shape[1] != 1:
        raise ValueError(f"{modality}: expected one row per item")
    if rate == 0 or len(batch) == 0:
        return batch
    if kind == "noise":
        named = _noisy(batch.tensors[modality], batch.present[modality][:, 0], rate, generator)
        return replace(batch, tensors={**batch.tensors, modality: named})
    hit = torch.rand(len(batch), generator=generator) < rate
    if kind == "missing":
        present = batch.present[modality] & ~hit[:, None]
        return replace(batch, present={**batch.present, modality: present})
    # Everyone who is hit gets the row of another of those who have one, each from its neighbour in
    # a random order, so that nobody keeps its own.
    rows = (hit & batch.present[modality][:, 0]).nonzero()[:, 0]
    order = rows[torch.randperm(len(rows), generator=generator)]
    source = torch.arange(len(batch))
    source[order] = order.roll(1)
    named = {name: tensor[source] for name, tensor in batch.tensors[modality].items()}
    return replace(batch, tensors={**batch.tensors, modality: named})


def only(batch: Batch, modalities: Iterable[str]) -> Batch:
    """The batch without every modality that is not named."""
    kept = set(modalities)
    present = {m: mask & (m in kept) for m, mask in batch.present.items()}
    return replace(batch, present=present)


def changer(modality: str, kind: Corruption, rate: float, seed: int) -> Callable[[Batch], Batch]:
    """`corrupted` for one batch after another, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda batch: corrupted(batch, modality, kind, rate, generator)


def _noisy(
    named: dict[str, Tensor], present: Tensor, rate: float, generator: torch.Generator
) -> dict[str, Tensor]:
    mask = named.get("attention_mask", named.get("keep"))
    found = {}
    for name, tensor in named.items():
        if tensor is mask or tensor.dtype == torch.bool or name.endswith("mask"):
            found[name] = tensor
        elif tensor.is_floating_point():
            found[name] = _noisy_numbers(tensor, mask, present, rate, generator)
        else:
            found[name] = _drawn_anew(tensor, mask, present, rate, generator)
    return found


def _noisy_numbers(
    x: Tensor, mask: Tensor | None, present: Tensor, rate: float, generator: torch.Generator
) -> Tensor:
    counts = present.view(-1, *[1] * (x.ndim - 1)).expand_as(x) & x.isfinite()
    if mask is not None and mask.shape == x.shape[: mask.ndim]:
        counts = counts & mask.bool().view(*mask.shape, *[1] * (x.ndim - mask.ndim))
    if not bool(counts.any()):
        return x
    there = x[counts].double()
    mean, deviation = there.mean(), there.std(correction=0)
    noise = mean + deviation * torch.randn(x.shape, generator=generator)
    mixed = mean + (1 - rate) ** 0.5 * (x - mean) + rate**0.5 * (noise - mean)
    return torch.where(counts, mixed.to(x.dtype), x)


def _drawn_anew(
    ids: Tensor, mask: Tensor | None, present: Tensor, rate: float, generator: torch.Generator
) -> Tensor:
    counts = present.view(-1, *[1] * (ids.ndim - 1)).expand_as(ids)
    if mask is not None:
        counts = counts & mask.bool()
    hit = counts & (torch.rand(ids.shape, generator=generator) < rate)
    if mask is not None:  # tokens: any that occurs may stand anywhere
        pool = ids[counts]
        drawn = pool[torch.randint(len(pool), (int(hit.sum()),), generator=generator)]
        return ids.masked_scatter(hit, drawn) if len(pool) else ids
    rows = present.nonzero()[:, 0]  # categories: each column has values of its own
    if not len(rows):
        return ids
    chosen = rows[torch.randint(len(rows), ids.shape, generator=generator)]
    return torch.where(hit, ids.gather(0, chosen), ids)
