"""Unsupervised alignment of two embedding spaces: initialization, refinement, model selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.alignment.procrustes import Procrustes, orthogonal_procrustes

FLOOR = 1e-12


class Initialization(Protocol):
    """An initial map from left to right rows, to be improved by `refine`.

    Called with `standardized` rows and with the number of the restart: 0 is deterministic or the
    default, others vary it. Returns (E_left, E_right).
    """

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor: ...


@dataclass(frozen=True)
class Restart:
    """Result of one start after refinement.

    Args:
        start: name of the start.
        criterion: mean CSLS of the mutual nearest neighbours, an unsupervised criterion.
        mutual: share of rows of the smaller set that have a mutual nearest neighbour.
        iterations: of refinement until the pairs converged or the limit was reached.
        weight: (E_left, E_right) orthogonal map between the standardized rows.
    """

    start: str
    criterion: float
    mutual: float
    iterations: int
    weight: Tensor


@dataclass(frozen=True)
class UnsupervisedAlignment:
    """Result of `unsupervised_alignment`.

    Args:
        map: left to right, in the original coordinates.
        restarts: all of them, in order.
        selected: index of the restart with the highest criterion.
        match: (N,) nearest right row by CSLS of every left row.
        mutual: share of rows of the smaller set with a mutual nearest neighbour.
        cycle_error: share of left rows, and of right rows, that nearest neighbours there and back
            do not map to themselves. A small one does not imply a correct alignment: symmetric
            data have small cycle errors for any symmetry.

    Examples:
        >>> import torch
        >>> from amodal.alignment import unsupervised_alignment
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(300, 4, generator=generator).exp() * torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
        >>> result = unsupervised_alignment(x, x @ rotation, generator=generator, restarts=1)
        >>> (result.match == torch.arange(300)).float().mean().item() > 0.9
        True
    """

    map: Procrustes
    restarts: tuple[Restart, ...]
    selected: int
    match: Tensor
    mutual: float
    cycle_error: tuple[float, float]


def standardized(rows: Tensor) -> Tensor:
    """(N, E) float32 rows, centred and scaled to a mean square of 1 over all coordinates.

    Examples:
        >>> standardized(torch.tensor([[0.0], [4.0]])).tolist()
        [[-1.0], [1.0]]
    """
    x = rows.detach().double()
    x = x - x.mean(0)
    return (x / x.square().mean().sqrt().clamp_min(FLOOR)).float()


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours by CSLS between two sets of rows in one space.

    Args:
        of_left: (N,) nearest right row.
        of_right: (M,) nearest left row.
        mutual: (N,) bool, True where a row is the nearest neighbour of its nearest neighbour.
        score: (N,) CSLS of each left row with its nearest.
    """

    of_left: Tensor
    of_right: Tensor
    mutual: Tensor
    score: Tensor

    @property
    def criterion(self) -> float:
        """Mean CSLS of the mutual nearest neighbours; -inf where there are none."""
        return float(self.score[self.mutual].mean()) if self.mutual.any() else -math.inf

    @property
    def share(self) -> float:
        """Mutual nearest neighbours per row of the smaller set."""
        return int(self.mutual.sum()) / min(len(self.of_left), len(self.of_right))


def csls_neighbours(
    left: Tensor, right: Tensor, *, neighbours: int = 10, chunk: int = 1024
) -> Neighbours:
    """Nearest neighbours both ways under CSLS(x, y) = 2 cos(x, y) - r(x) - r(y).

    r is the mean cosine with the nearest rows of the other set, which penalises hubs. At most
    `chunk` rows of similarities are in memory.

    Args:
        left: (N, E) rows, of any length.
        right: (M, E) rows.
        neighbours: in the mean r.
        chunk: rows at a time.

    Raises:
        ValueError: the widths differ, or a side is empty.

    Examples:
        >>> near = csls_neighbours(torch.eye(3), torch.eye(3)[[2, 0, 1]], neighbours=1)
        >>> near.of_left.tolist(), near.share
        ([1, 2, 0], 1.0)

    References:
        Conneau et al. 2017, arXiv:1710.04087, eq. 7.
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(
            f"expected (N, E) and (M, E), got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    if not len(left) or not len(right):
        raise ValueError(f"neighbours need rows on both sides, got {len(left)} and {len(right)}")
    wide = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    x, y = (F.normalize(z.detach().to(wide), dim=1, eps=FLOOR) for z in (left, right))

    def density(a: Tensor, b: Tensor) -> Tensor:
        k = min(neighbours, len(b))
        return torch.cat([(rows @ b.T).topk(k, 1).values.mean(1) for rows in a.split(chunk)])

    of_x, of_y = density(x, y), density(y, x)
    nearest, scores = [], []
    best = y.new_full((len(y),), -math.inf)
    of_right = torch.zeros(len(y), dtype=torch.int64, device=y.device)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        score = (x[part] @ y.T).mul_(2).sub_(of_x[part, None]).sub_(of_y)  # (chunk, M)
        top = score.max(1)
        nearest.append(top.indices)
        scores.append(top.values)
        column = score.max(0)
        better = column.values > best
        best = torch.where(better, column.values, best)
        of_right = torch.where(better, column.indices + start, of_right)
    of_left = torch.cat(nearest)
    mutual = of_right[of_left] == torch.arange(len(x), device=x.device)
    return Neighbours(of_left, of_right, mutual, torch.cat(scores))


def refine(
    left: Tensor,
    right: Tensor,
    weight: Tensor,
    *,
    iterations: int = 10,
    neighbours: int = 10,
    chunk: int = 1024,
) -> tuple[Tensor, Neighbours, int]:
    """Iterated Procrustes on mutual nearest neighbours under CSLS.

    Args:
        left: (N, E_left) standardized rows.
        right: (M, E_right) standardized rows.
        weight: (E_left, E_right) first map.
        iterations: at most.
        neighbours: of CSLS.
        chunk: rows of similarities at a time.

    Returns:
        The map, the neighbours under it, and the number of iterations until no pair changed.

    Examples:
        >>> x = standardized(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
        >>> weight, neighbours, iterations = refine(x, x, torch.eye(3))
        >>> neighbours.share > 0.9, iterations
        (True, 1)

    References:
        Conneau et al. 2017, arXiv:1710.04087, section 2.2.
    """
    near = csls_neighbours(left @ weight, right, neighbours=neighbours, chunk=chunk)
    for done in range(iterations):
        pairs = near.mutual.nonzero()[:, 0]
        if not len(pairs):
            return weight, near, done
        weight = orthogonal_procrustes(left[pairs], right[near.of_left[pairs]]).to(left)
        before = near
        near = csls_neighbours(left @ weight, right, neighbours=neighbours, chunk=chunk)
        same = torch.equal(near.mutual, before.mutual)
        if same and torch.equal(near.of_left[pairs], before.of_left[pairs]):
            return weight, near, done + 1
    return weight, near, iterations


def unsupervised_alignment(
    left: Tensor,
    right: Tensor,
    *,
    generator: torch.Generator,
    initializations: Sequence[Initialization] | None = None,
    restarts: int = 3,
    iterations: int = 10,
    neighbours: int = 10,
    chunk: int = 1024,
) -> UnsupervisedAlignment:
    """Similarity transform between two sets of embeddings without known pairs.

    Every restart takes the next of `initializations`, is refined by mutual nearest neighbours, and
    is scored by the mean CSLS of those neighbours. The restart with the highest criterion is
    returned. The method assumes that both distributions have about the same shape, without
    symmetries: a symmetry makes several alignments equally good, and the criterion is high for each
    of them.

    Args:
        left: (N, E_left) rows, N >= 2.
        right: (M, E_right) rows, M >= 2, in any order.
        generator: of the restarts, on the CPU.
        initializations: used cyclically; by default `PCAInit`, `OptimalTransportInit` and
            `SimilarityProfileInit`.
        restarts: number of restarts.
        iterations: of refinement, at most.
        neighbours: of CSLS.
        chunk: rows of similarities at a time; memory is about chunk * max(N, M) * 16 bytes.

    Raises:
        ValueError: fewer than two rows, values that are not finite, or an option below 1.

    Examples:
        >>> import torch
        >>> from amodal.alignment import unsupervised_alignment
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(300, 4, generator=generator).exp() * torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
        >>> result = unsupervised_alignment(x, x @ rotation, generator=generator, restarts=1)
        >>> torch.allclose(result.map.transform(x), x @ rotation, atol=1e-3)
        True

    References:
        Conneau et al. 2017, arXiv:1710.04087 (refinement, unsupervised selection).
        Hartmann et al. 2019, arXiv:1908.07742 (random restarts are needed).
    """
    for name, rows in (("left", left), ("right", right)):
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"expected {name} rows (N, E) with N >= 2, got {tuple(rows.shape)}")
        if not rows.isfinite().all():
            raise ValueError(f"{name} rows must be finite")
    if min(restarts, iterations, neighbours, chunk) < 1:
        raise ValueError(
            "restarts, iterations, neighbours and chunk must be 1 or more, "
            f"got {restarts}, {iterations}, {neighbours}, {chunk}"
        )
    if initializations is None:
        initializations = [
            PCAInit(),
            OptimalTransportInit(chunk=chunk),
            SimilarityProfileInit(chunk=chunk),
        ]
    if not initializations:
        raise ValueError("initializations is empty; leave it out for the default")
    x, y = standardized(left), standardized(right)
    results: list[tuple[Restart, Neighbours]] = []
    for number in range(restarts):
        start = initializations[number % len(initializations)]
        first = start(x, y, number // len(initializations), generator)
        weight, near, done = refine(
            x, y, first, iterations=iterations, neighbours=neighbours, chunk=chunk
        )
        name = type(start).__name__
        results.append((Restart(name, near.criterion, near.share, done, weight), near))
    selected = max(range(restarts), key=lambda i: results[i][0].criterion)
    near = results[selected][1]
    pairs = near.mutual.nonzero()[:, 0]
    fit = Procrustes(scale=True)
    if len(pairs):
        fit.fit(left[pairs], right[near.of_left[pairs]])
    else:
        fit.fit(left[:1], right[:1])
    return UnsupervisedAlignment(
        fit,
        tuple(restart for restart, _ in results),
        selected,
        near.of_left,
        near.share,
        (1 - len(pairs) / len(left), 1 - len(pairs) / len(right)),
    )


@dataclass(frozen=True)
class RandomInit:
    """A random rotation, the baseline of the other initializations."""

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor:
        e_left, e_right = left.shape[1], right.shape[1]
        random = torch.randn(e_left, e_right, generator=generator)
        return orthogonal_procrustes(torch.eye(e_left), random).to(left)


@dataclass(frozen=True)
class SimilarityProfileInit:
    """Matching of rows by the distribution of their similarities within each set.

    The profile of a row is its sorted similarities to all rows of its own set, which is invariant
    to rotations. Similarities are the rows of (X X')^power, with power 1/2 in the first restart and
    uniform in [1/4, 1] in others; the sorted values are reduced to `quantiles`, so that the sets
    may differ in size. The map is Procrustes of the mutual nearest neighbours of the profiles.

    References:
        Artetxe, Labaka & Agirre 2018, arXiv:1805.06297, section 3.2.
    """

    quantiles: int = 256
    chunk: int = 1024

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor:
        power = 0.5
        if restart:
            power = 0.25 + 0.75 * float(torch.rand((), generator=generator))
        a, b = profiles(left, right, power=power, quantiles=self.quantiles, chunk=self.chunk)
        near = csls_neighbours(a, b, chunk=self.chunk)
        pairs = near.mutual.nonzero()[:, 0]
        if not len(pairs):
            return orthogonal_procrustes(left[:1] * 0, right[:1] * 0).to(left)
        return orthogonal_procrustes(left[pairs], right[near.of_left[pairs]]).to(left)


def profiles(
    left: Tensor, right: Tensor, *, power: float = 0.5, quantiles: int = 256, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """(N, Q) and (M, Q) sorted similarities of each row within its own set, jointly centred.

    Args:
        left: (N, E_left) standardized rows.
        right: (M, E_right) standardized rows.
        power: of X X'; 1: inner products, 1/2: directions weighted by standard deviation.
        quantiles: Q.
        chunk: rows at a time.

    Examples:
        >>> x = standardized(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))
        >>> a, b = profiles(x, x.flip(0), quantiles=8)
        >>> a.shape, torch.allclose(a, b.flip(0), atol=1e-5)
        (torch.Size([40, 8]), True)
    """

    def profile(rows: Tensor) -> Tensor:
        u, s, _ = torch.linalg.svd(rows, full_matrices=False)
        # The inner products of U S^p are (X X')^p, in any basis.
        half = u * s.pow(power) * len(rows) ** ((1 - power) / 2)
        index = torch.linspace(0, len(rows) - 1, quantiles).round().long()
        return torch.cat([_sorted(part @ half.T)[:, index] for part in half.split(chunk)])

    a, b = profile(left), profile(right)
    mean = (a.mean(0) + b.mean(0)) / 2
    return a - mean, b - mean


def _sorted(rows: Tensor) -> Tensor:
    if rows.device.type != "cpu":
        return rows.sort(1).values
    return torch.from_numpy(
        np.sort(rows.numpy(), axis=1)
    )  # about 15 times as fast as torch on the CPU


@dataclass(frozen=True)
class PCAInit:
    """Principal axes matched by variance, with signs from third moments.

    With the whitened scores z of a set on its axes, the moments E z_i² z_j change sign with axis j
    and not with axis i. The sign of axis j is chosen so that these moments agree between the sets
    over all i. Restarts sample the signs of axes with little agreement.

    The variances must differ: axes of equal variance are mixed arbitrarily.
    """

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor:
        (a, third_a), (b, third_b) = _axes(left), _axes(right)
        k = min(a.shape[1], b.shape[1])
        third_a, third_b = third_a[:k, :k], third_b[:k, :k]
        length = third_a.norm(dim=0) * third_b.norm(dim=0)
        agreement = (third_a * third_b).sum(0) / length.clamp_min(FLOOR)  # (k,) in [-1, 1]
        keep = (agreement * 2 * math.sqrt(k)).sigmoid()  # chance agreement is about 1 / sqrt(k)
        threshold = torch.full((k,), 0.5) if not restart else torch.rand(k, generator=generator)
        sign = torch.where(threshold.to(keep) <= keep, 1.0, -1.0)
        return orthogonal_procrustes(a[:, :k].T * sign[:, None], b[:, :k].T).to(left)


def _axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(E, E) principal axes as columns in falling order, and (E, E) moments E z_i² z_j."""
    x = rows.double()
    values, axes = torch.linalg.eigh(x.T @ x / len(x))
    axes = axes.flip(1)
    z = x @ axes / values.flip(0).clamp_min(FLOOR).sqrt()
    return axes, z.square().T @ z / len(z)


@dataclass(frozen=True)
class OptimalTransportInit:
    """Wasserstein-Procrustes: alternating optimal transport and rotation with falling entropy.

    The first plan transports rows to rows of similar profile. Its Procrustes map is then improved
    by alternating the entropic plan of the cost -<x W, y> and the Procrustes map W of the plan. The
    entropy falls from step to step: early plans are diffuse, late ones match single rows. Restarts
    sample the power of the profiles as in `SimilarityProfileInit`, and other rows of large sets.

    Args:
        rows: of each set, at most.
        steps: plans after the first.
        iterations: of Sinkhorn per plan.
        entropy: of the first and the last plan, as a share of the cost's standard deviation.

    References:
        Grave, Joulin & Berthet 2018, arXiv:1805.11222 (alternating plan and rotation).
        Mémoli 2011, Found. Comput. Math. 11 (transport between local distributions of distances).
        Cuturi 2013, arXiv:1306.0895 (Sinkhorn).
    """

    rows: int = 2500
    steps: int = 10
    iterations: int = 20
    entropy: tuple[float, float] = (0.5, 0.05)
    quantiles: int = 256
    chunk: int = 1024

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor:
        power = 0.5
        if restart:
            power = 0.25 + 0.75 * float(torch.rand((), generator=generator))
        a, b = profiles(left, right, power=power, quantiles=self.quantiles, chunk=self.chunk)
        of_left, of_right = (
            torch.randperm(len(x), generator=generator)[: self.rows].to(x.device)
            for x in (left, right)
        )
        x, y, a, b = left[of_left], right[of_right], a[of_left], b[of_right]
        cost = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        plan = sinkhorn(cost, self.entropy[1] * _deviation(cost), self.iterations)
        weight = _map_of_plan(x, y, plan)
        first, last = self.entropy
        for step in range(self.steps):
            share = first * (last / first) ** (step / max(1, self.steps - 1))
            cost = -(x @ weight) @ y.T
            plan = sinkhorn(cost, share * _deviation(cost), self.iterations)
            weight = _map_of_plan(x, y, plan)
        return weight


def sinkhorn(cost: Tensor, entropy: float, iterations: int) -> Tensor:
    """(N, M) plan with rows of mass 1 / N and columns of about 1 / M that minimises

        <plan, cost> - entropy * H(plan).

    Args:
        cost: (N, M).
        entropy: > 0, in the units of the cost.
        iterations: over rows and columns.

    Raises:
        ValueError: the entropy is not positive.

    Examples:
        >>> sinkhorn(1 - torch.eye(2), entropy=0.1, iterations=20).round(decimals=3).tolist()
        [[0.5, 0.0], [0.0, 0.5]]

    References:
        Cuturi 2013, arXiv:1306.0895, algorithm 1.
    """
    if not entropy > 0:
        raise ValueError(f"entropy must be above 0, got {entropy}")
    n, m = cost.shape
    tiny = torch.finfo(cost.dtype).tiny
    shifted = cost - cost.amin(1, keepdim=True)
    kernel = (-(shifted - shifted.amin(0)) / entropy).exp()  # 1 in every column
    column = cost.new_ones(m)
    row = cost.new_full((n,), 1 / n)
    for _ in range(iterations):
        row = (1 / n) / (kernel @ column).clamp_min(tiny)
        column = (1 / m) / (row @ kernel).clamp_min(tiny)
    plan = row[:, None] * kernel * column
    return plan / (plan.sum(1, keepdim=True).clamp_min(tiny) * n)


def _deviation(cost: Tensor) -> float:
    return max(FLOOR, float(cost.std()))


def _map_of_plan(x: Tensor, y: Tensor, plan: Tensor) -> Tensor:
    """Procrustes map of the left rows to their barycentric projections under the plan."""
    return orthogonal_procrustes(x, plan @ y).to(x)


@dataclass(frozen=True)
class AdversarialInit:
    """A rotation trained against a discriminator between mapped left rows and right rows.

    The discriminator is an MLP with two hidden layers, input dropout and label smoothing. The map
    starts from `first`, by default a random rotation, and is projected to the nearest rotation
    after each step. Learning rates follow a half cosine to 0.

    References:
        Conneau et al. 2017, arXiv:1710.04087, section 2.1.
    """

    first: Initialization = field(default_factory=RandomInit)
    steps: int = 3000
    batch_size: int = 64
    hidden: int = 128
    discriminator_steps: int = 3  # per step of the map
    dropout: float = 0.1
    smoothing: float = 0.1
    learning_rate: float = 0.02  # of the map
    discriminator_learning_rate: float = 1e-3

    @torch.enable_grad()
    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor:
        weight = self.first(left, right, restart, generator).detach().clone()
        widths = [right.shape[1], self.hidden, self.hidden, 1]
        layers = [
            torch.randn(before, after, generator=generator).to(left) * math.sqrt(2 / before)
            for before, after in pairwise(widths)
        ]
        layers[-1] *= 0.1
        biases = [left.new_zeros(after) for after in widths[1:]]
        parameters = [p.requires_grad_() for p in layers + biases]
        optimizer = torch.optim.Adam(parameters, betas=(0.5, 0.999))
        weight.requires_grad_()
        map_optimizer = torch.optim.Adam([weight], betas=(0.5, 0.999))

        def batch(rows: Tensor) -> Tensor:
            index = torch.randint(len(rows), (self.batch_size,), generator=generator)
            return rows[index.to(rows.device)]

        def logits(rows: Tensor) -> Tensor:
            keep = torch.rand(rows.shape, generator=generator).to(rows) >= self.dropout
            hidden = rows * keep
            for i, (layer, bias) in enumerate(zip(layers, biases, strict=True)):
                hidden = hidden @ layer + bias
                if i < len(layers) - 1:
                    hidden = F.leaky_relu(hidden, 0.2)
            return hidden[:, 0]

        smooth = left.new_full((self.batch_size,), self.smoothing)
        for step in range(self.steps):
            decay = (1 + math.cos(math.pi * step / self.steps)) / 2
            optimizer.param_groups[0]["lr"] = self.discriminator_learning_rate * decay
            map_optimizer.param_groups[0]["lr"] = self.learning_rate * decay
            for _ in range(self.discriminator_steps):
                mapped = (batch(left) @ weight).detach()
                loss = F.binary_cross_entropy_with_logits(
                    torch.cat([logits(mapped), logits(batch(right))]),
                    torch.cat([smooth, 1 - smooth]),
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            confusion = F.binary_cross_entropy_with_logits(logits(batch(left) @ weight), 1 - smooth)
            (weight.grad,) = torch.autograd.grad(confusion, [weight])
            map_optimizer.step()
            with torch.no_grad():
                u, _, vh = torch.linalg.svd(weight, full_matrices=False)
                weight.copy_(u @ vh)
        return weight.detach()
