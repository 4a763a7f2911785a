"""Vector quantization: every vector becomes the nearest of a learned book of codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.distributed import world_size


class Quantized(NamedTuple):
    """What became of N vectors.

    Args:
        values: (N, D) the codes, with the gradient of the vectors themselves.
        codes: (N,) int64.
        commitment: () mean squared distance of the vectors from their codes; it pulls the vectors.
        perplexity: () exp of the entropy of the codes of this batch: how many are in use.
    """

    values: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor


class VectorQuantizer(nn.Module):
    """Nearest code, learned as a moving average of the vectors that chose it.

    n_k ← γ n_k + (1 - γ) |vectors of k|,  m_k ← γ m_k + (1 - γ) Σ vectors of k,  e_k = m_k / n_k.
    A code with n_k below `restart` is dead: it is drawn anew from the vectors of the batch.

    Args:
        codes: K.
        width: D.
        decay: γ.
        restart: in vectors per batch.

    References:
        van den Oord et al. 2017, arXiv:1711.00937, eq. 1 to 3 and appendix A.1.
        Dhariwal et al. 2020, arXiv:2005.00341, section 3.1 (restart of dead codes).
    """

    book: Tensor
    counts: Tensor
    sums: Tensor
    steps: Tensor

    def __init__(
        self, codes: int, width: int, *, decay: float = 0.99, restart: float = 0.05
    ) -> None:
        super().__init__()
        self.decay, self.restart = decay, restart
        # Buffers, not parameters: no gradient reaches them, and a checkpoint has them.
        self.register_buffer("book", torch.randn(codes, width))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Quantized:
        """(N, D) vectors; the book learns from them in training mode."""
        wide = x.float()
        codes = self.nearest(wide)
        if self.training:
            self._learn(wide.detach(), codes)
            codes = self.nearest(wide) if int(self.steps) == 1 else codes
        chosen = F.embedding(codes, self.book)
        commitment = (wide - chosen).square().mean()
        share = torch.bincount(codes, minlength=len(self.book)).float() / max(len(codes), 1)
        perplexity = (-(share * (share + 1e-10).log()).sum()).exp()
        values = wide + (chosen - wide).detach()
        return Quantized(values.to(x.dtype), codes, commitment, perplexity)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """(N, D) → (N,) the code at the smallest Euclidean distance."""
        wide = x.float()
        with torch.autocast(x.device.type, enabled=False):
            distance = self.book.square().sum(1) - 2 * wide @ self.book.T
        return distance.argmin(1)

    @torch.no_grad()
    def _learn(self, x: Tensor, codes: Tensor) -> None:
        generator = torch.Generator(device=x.device).manual_seed(int(self.steps))
        if int(self.steps) == 0:  # begin where the vectors are
            drawn = torch.randint(len(x), (len(self.book),), generator=generator, device=x.device)
            self._everywhere_the_same(start := x[drawn].clone())
            self.book.copy_(start)
            self.sums.copy_(start)
            self.counts.fill_(1.0)
            codes = self.nearest(x)
        counts = torch.bincount(codes, minlength=len(self.book)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, x)
        if world_size() > 1:
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.restart
        if bool(dead.any()):
            drawn = torch.randint(len(x), (int(dead.sum()),), generator=generator, device=x.device)
            self._everywhere_the_same(fresh := x[drawn].clone())
            self.sums[dead], self.counts[dead] = fresh, 1.0
        self.book.copy_(self.sums / self.counts[:, None])
        self.steps += 1

    @staticmethod
    def _everywhere_the_same(tensor: Tensor) -> None:
        """Every process takes the vectors of the first, so that the books stay alike."""
        if world_size() > 1:
            torch.distributed.broadcast(tensor, 0)
