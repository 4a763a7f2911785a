"""Vector quantization with an exponential-moving-average codebook and resampling of dead codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.distributed import gather, world_size


class Quantized(NamedTuple):
    """N quantized vectors.

    Args:
        values: (N, D) codebook vectors, with the straight-through gradient of the input.
        codes: (N,) int64 indices into the codebook.
        commitment: () mean squared distance of the input from its codes; its gradient moves the
            input only.
        perplexity: () exponential of the entropy of the codes of the batch: the effective number
            of codes in use.
        resampled: () number of dead codes that were resampled.
    """

    values: Tensor
    codes: Tensor
    commitment: Tensor
    perplexity: Tensor
    resampled: Tensor


class VectorQuantizer(nn.Module):
    """Nearest-code quantizer; each code is a moving average of the vectors assigned to it.

    n_k ← γ n_k + (1 - γ) |vectors of k|,  m_k ← γ m_k + (1 - γ) Σ vectors of k,  e_k = m_k / n_k.
    A code with n_k below `dead_code_threshold` is dead and is replaced by a vector of the batch,
    sampled in proportion to the squared distance from its own code. Uniform sampling would mostly
    copy what is frequent, such as a plain background, and those codes would die again.

    In the first `warmup` batches the codebook is updated but the vectors pass unquantized:
    encoder and decoder learn several times faster, and the codebook follows them.

    Statistics are summed over all processes, so that their codebooks stay equal.

    Args:
        codebook_size: K.
        width: D.
        decay: γ.
        dead_code_threshold: in vectors per batch over all processes; 0: dead codes are kept.
        warmup: in batches.

    Examples:
        >>> quantizer = VectorQuantizer(4, 2).eval()
        >>> quantized = quantizer(torch.zeros(3, 2))
        >>> quantized.values.shape, quantized.codes.shape, float(quantized.perplexity)
        (torch.Size([3, 2]), torch.Size([3]), 1.0)

    References:
        van den Oord et al. 2017, arXiv:1711.00937, eq. 1 to 3 and appendix A.1.
        Łańcucki et al. 2020, arXiv:2005.08520 (warm-up without quantization, vectors of one scale).
        Dhariwal et al. 2020, arXiv:2005.00341, section 3.1 (resampling of dead codes).
        Arthur and Vassilvitskii 2007, "k-means++" (sampling in proportion to squared distance).
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
        # Buffers: without gradient, and saved in checkpoints.
        self.register_buffer("codebook", torch.randn(codebook_size, width))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Quantized:
        """Quantize (N, D) vectors; in training mode they update the codebook."""
        x_float = x.float()
        if self.training and int(self.steps) == 0:
            self._initialize(x_float.detach())
        codes = self.nearest(x_float)
        chosen = F.embedding(codes, self.codebook)  # a copy, from before the update
        resampled = torch.zeros((), device=x.device)
        warming_up = self.training and int(self.steps) < self.warmup
        if self.training:
            resampled = self._update(x_float.detach(), codes, chosen)
        commitment = (x_float - chosen).square().sum() / max(x_float.numel(), 1)
        share = torch.bincount(codes, minlength=len(self.codebook)).float() / max(len(codes), 1)
        perplexity = torch.special.entr(share).sum().exp()
        if warming_up:
            return Quantized(x, codes, commitment * 0.0, perplexity, resampled)
        values = x_float + (chosen - x_float).detach()
        return Quantized(values.to(x.dtype), codes, commitment, perplexity, resampled)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """(N, D) → (N,) index of the code at the smallest Euclidean distance."""
        x_float = x.float()
        with torch.autocast(x.device.type, enabled=False):
            distance = self.codebook.square().sum(1) - 2 * x_float @ self.codebook.T
        return distance.argmin(1)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        """Initialize the codes by k-means++ on the first batch."""
        vectors = gather(x)
        if not len(vectors):
            return
        generator = self._generator()
        first = int(torch.randint(len(vectors), (), generator=generator))
        self.codebook.copy_(vectors[first].expand_as(self.codebook))
        # The number of codes doubles per iteration, so that distances are computed log2 K times.
        count = 1
        while count < len(self.codebook):
            distance = (vectors - self.codebook[self.nearest(vectors)]).square().sum(1)
            new = min(count, len(self.codebook) - count)
            self.codebook[count : count + new] = vectors[_sample_rows(distance, new, generator)]
            count += new
        self.sums.copy_(self.codebook)
        self.counts.fill_(1.0)

    @torch.no_grad()
    def _update(self, x: Tensor, codes: Tensor, chosen: Tensor) -> Tensor:
        """One step of the moving averages; returns () the number of resampled codes."""
        counts = torch.bincount(codes, minlength=len(self.codebook)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, x)
        if world_size() > 1:
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        if not bool(counts.any()):  # no vectors in any process
            return counts.sum()
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = self.counts < self.dead_code_threshold
        number = int(dead.sum())
        if number:
            vectors, distance = gather(x), gather((x - chosen).square().sum(1))
            replacements = vectors[_sample_rows(distance, number, self._generator())]
            self.sums[dead], self.counts[dead] = replacements, 1.0
        alive = self.counts > 0
        self.codebook[alive] = self.sums[alive] / self.counts[alive, None]
        self.steps += 1
        return dead.sum().float()

    def _generator(self) -> torch.Generator:
        """Generator of this step, the same in every process and after resuming."""
        return torch.Generator().manual_seed(int(self.steps))


def _sample_rows(weight: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Indices of `number` rows sampled by `weight` (N,), without replacement for the first N."""
    # On the CPU, whose generator gives the same samples on every machine. The small constant allows
    # rows that are all at distance 0. NaN is not an error here: the loss reports it with more
    # context.
    weight = weight.double().cpu().nan_to_num(0.0, 0.0, 0.0)
    weight = weight + 1e-6 * weight.mean() + 1e-30
    rounds = [
        torch.multinomial(weight, min(len(weight), number - start), generator=generator)
        for start in range(0, number, len(weight))
    ]
    return torch.cat(rounds)
