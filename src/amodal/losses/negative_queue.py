"""Embeddings of earlier batches, kept as further negatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class QueuedRows(NamedTuple):
    """Rows of a queue: (K, E) embeddings, (K,) item keys and (K,) content keys."""

    z: Tensor
    item: Tensor
    content: Tensor


class NegativeQueue(nn.Module):
    """First-in-first-out buffer of the last `size` embeddings and their keys.

    It starts empty, and is part of the state dict.

    Args:
        size: rows that are kept.
        dim: E.

    References:
        He et al. 2020, arXiv:1911.05722, section 3.2.

    Examples:
        >>> import torch
        >>> from amodal.losses import NegativeQueue
        >>> queue = NegativeQueue(size=3, dim=2)
        >>> queue.push(torch.ones(2, 2), item=torch.tensor([7, 8]))
        >>> queue.push(torch.zeros(2, 2), item=torch.tensor([9, 10]))
        >>> len(queue), sorted(queue.rows().item.tolist())
        (3, [8, 9, 10])
    """

    z: Tensor
    item: Tensor
    content: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"a queue needs a positive size and dim, got {size} and {dim}")
        self.size = size
        self.register_buffer("z", torch.zeros(size, dim))
        self.register_buffer("item", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("content", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # rows so far

    def __len__(self) -> int:
        return min(int(self.pushed), self.size)

    @torch.no_grad()
    def push(self, z: Tensor, item: Tensor, content: Tensor | None = None) -> None:
        """Append rows, in order; the oldest are removed.

        Args:
            z: (R, E) unit-norm embeddings; the gradient is dropped.
            item: (R,) int64 item keys.
            content: (R,) int64 content keys; None: the item keys.
        """
        if z.shape != (len(item), self.z.shape[1]):
            raise ValueError(
                f"expected ({len(item)}, {self.z.shape[1]}) embeddings, got {tuple(z.shape)}"
            )
        content = item if content is None else content
        start, rows = int(self.pushed), len(z)
        kept = slice(max(0, rows - self.size), rows)
        place = torch.arange(start, start + rows, device=self.z.device)[kept] % self.size
        self.z[place] = z[kept].detach().to(self.z.dtype)
        self.item[place] = item[kept]
        self.content[place] = content[kept]
        self.pushed += rows

    def rows(self, limit: int | None = None) -> QueuedRows:
        """Copies of the rows in the queue, in no particular order.

        Args:
            limit: at most so many of them; None: all.
        """
        n = len(self) if limit is None else min(limit, len(self))
        return QueuedRows(self.z[:n].clone(), self.item[:n].clone(), self.content[:n].clone())
