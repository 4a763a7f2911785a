"""Vector quantization: every vector becomes the nearest of a learned codebook of codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.distributed import gather, world_size


class Quantized(NamedTuple):
    """What became of N vectors.

    Args:
        values: (N, D) the codes, with the gradient of the vectors themselves.
        codes: (N,) int64.
        commitment: () mean squared distance of the vectors from their codes; it pulls the vectors.
        perplexity: () exp of the entropy of the codes of this batch: how many are in use.
        restarted: () how many codes were dead and have been drawn anew.
    """

    values: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor
    revived: Tensor


class VectorQuantizer(nn.Module):
    """Nearest code, learned as a moving average of the vectors that chose it.

    n_k ← γ n_k + (1 - γ) |vectors of k|,  m_k ← γ m_k + (1 - γ) Σ vectors of k,  e_k = m_k / n_k.
    A code with n_k below `restart` is dead: it becomes a vector of the batch, drawn with a
    probability in proportion to the squared distance from its code. Drawn evenly, most would be
    copies of what is everywhere, such as a plain background, and would die again.

    For the first `warmup` batches the codebook learns, but the vectors pass as they are: what is
    before and behind it learns several times faster so, and the codebook has something to follow.

    Several processes count together, and their codebooks stay equal.

    Args:
        codebook_size: K.
        width: D.
        decay: γ.
        dead_code_threshold: in vectors per batch, of all processes together; 0: codes stay dead.
        warmup: in batches.

    References:
        van den Oord et al. 2017, arXiv:1711.00937, eq. 1 to 3 and appendix A.1.
        Łańcucki et al. 2020, arXiv:2005.08520 (a start without codes, vectors of one scale).
        Dhariwal et al. 2020, arXiv:2005.00341, section 3.1 (restart of dead codes).
        Arthur and Vassilvitskii 2007, "k-means++" (draws in proportion to squared distance).
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    steps: Tensor

    def __init__(
        self,
        codebook_size: int,
        width: int,
        *,
        decay: float = 0.99,
        dead_code_threshold: float = 0.05,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self.decay, self.dead_code_threshold, self.warmup = decay, dead_code_threshold, warmup
        # Buffers, not parameters: no gradient reaches them, and a checkpoint has them.
        self.register_buffer("codebook", torch.randn(codebook_size, width))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Quantized:
        """(N, D) vectors; the codebook learns from them in training mode."""
        wide = x.float()
        if self.training and int(self.steps) == 0:
            self._begin(wide.detach())
        codes = self.nearest(wide)
        chosen = F.embedding(codes, self.codebook)  # a copy: what follows changes the codebook
        revived = torch.zeros((), device=x.device)
        passes = self.training and int(self.steps) < self.warmup
        if self.training:
            revived = self._learn(wide.detach(), codes, chosen)
        commitment = (wide - chosen).square().sum() / max(wide.numel(), 1)
        share = torch.bincount(codes, minlength=len(self.codebook)).float() / max(len(codes), 1)
        perplexity = torch.special.entr(share).sum().exp()
        if passes:
            return Quantized(x, codes, commitment * 0.0, perplexity, revived)
        values = wide + (chosen - wide).detach()
        return Quantized(values.to(x.dtype), codes, commitment, perplexity, revived)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """(N, D) → (N,) the code at the smallest Euclidean distance."""
        wide = x.float()
        with torch.autocast(x.device.type, enabled=False):
            distance = self.codebook.square().sum(1) - 2 * wide @ self.codebook.T
        return distance.argmin(1)

    @torch.no_grad()
    def _begin(self, x: Tensor) -> None:
        """Codes begin where the vectors are: every further one away from those before it."""
        vectors = gather(x)
        if not len(vectors):
            return
        generator = self._generator()
        first = int(torch.randint(len(vectors), (), generator=generator))
        self.codebook.copy_(vectors[first].expand_as(self.codebook))
        # k-means++ in few rounds: a round of draws rather than one draw per look at the distances.
        known = 1
        while known < len(self.codebook):
            distance = (vectors - self.codebook[self.nearest(vectors)]).square().sum(1)
            more = min(known, len(self.codebook) - known)
            self.codebook[known : known + more] = vectors[_drawn(distance, more, generator)]
            known += more
        self.sums.copy_(self.codebook)
        self.counts.fill_(1.0)

    @torch.no_grad()
    def _learn(self, x: Tensor, codes: Tensor, chosen: Tensor) -> Tensor:
        """One step of the moving averages; () how many codes were drawn anew."""
        counts = torch.bincount(codes, minlength=len(self.codebook)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, x)
        if world_size() > 1:
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        if not bool(counts.any()):  # no vectors anywhere: nothing to learn, nobody died
            return counts.sum()
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.dead_code_threshold
        number = int(dead.sum())
        if number:
            vectors, distance = gather(x), gather((x - chosen).square().sum(1))
            fresh = vectors[_drawn(distance, number, self._generator())]
            self.sums[dead], self.counts[dead] = fresh, 1.0
        alive = self.counts > 0
        self.codebook[alive] = self.sums[alive] / self.counts[alive, None]
        self.steps += 1
        return dead.sum().float()

    def _generator(self) -> torch.Generator:
        """Draws of this step, on every process and after every resume the same."""
        return torch.Generator().manual_seed(int(self.steps))


def _drawn(weight: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Places of `number` rows, in proportion to `weight` (N,); none twice while there are some."""
    # On the CPU, whose generator draws the same on every machine. A little weight for every row
    # lets rows be drawn that are all at distance 0. A run that has left the numbers is stopped
    # by its loss, which says more than an error here would.
    weight = weight.double().cpu().nan_to_num(0.0, 0.0, 0.0)
    weight = weight + 1e-6 * weight.mean() + 1e-30
    rounds = [
        torch.multinomial(weight, min(len(weight), number - start), generator=generator)
        for start in range(0, number, len(weight))
    ]
    return torch.cat(rounds)
