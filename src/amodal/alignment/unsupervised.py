"""Alignment of two clouds of embeddings without a single pair: start, refine, choose blindly."""

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

from amodal.alignment.procrustes import Procrustes, procrustes

FLOOR = 1e-12


class Start(Protocol):
    """A first map from left to right rows, good enough that refinement can take over.

    Called with clouds that `standardized` has prepared, and with the number of the restart: 0 is
    the best guess, others vary it. Returns (E_left, E_right).
    """

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor: ...


@dataclass(frozen=True)
class Restart:
    """How one start came out after refinement.

    Args:
        start: name of the start.
        criterion: mean CSLS of the mutual nearest neighbours; no label is in it.
        mutual: share of rows of the smaller cloud that have a mutual nearest neighbour.
        rounds: of refinement until the pairs stood still or the limit came.
        weight: (E_left, E_right) orthogonal map between the standardized clouds.
    """

    start: str
    criterion: float
    mutual: float
    rounds: int
    weight: Tensor


@dataclass(frozen=True)
class UnsupervisedAlignment:
    """What `unsupervised_alignment` found.

    Args:
        map: left to right, in the coordinates of the clouds as given.
        restarts: all of them, in order.
        selected: position of the one with the highest criterion.
        match: (N,) for every left row the right row nearest by CSLS.
        mutual: share of rows of the smaller cloud with a mutual nearest neighbour.
        cycle_error: share of left rows, and of right rows, that nearest neighbours there and back
            do not lead home. Small does not mean right: see the symmetric cloud in the tests.
    """

    map: Procrustes
    restarts: tuple[Restart, ...]
    selected: int
    match: Tensor
    mutual: float
    cycle_error: tuple[float, float]


def standardized(rows: Tensor) -> Tensor:
    """(N, E) float32 rows less their mean, with a mean square of 1 over all coordinates."""
    x = rows.detach().double()
    x = x - x.mean(0)
    return (x / x.square().mean().sqrt().clamp_min(FLOOR)).float()


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours by CSLS of two clouds in one space.

    Args:
        of_left: (N,) nearest right row.
        of_right: (M,) nearest left row.
        mutual: (N,) bool, True where the nearest of the nearest is the row itself.
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
        """Mutual nearest neighbours per row of the smaller cloud."""
        return int(self.mutual.sum()) / min(len(self.of_left), len(self.of_right))


def csls_neighbours(
    left: Tensor, right: Tensor, *, neighbours: int = 10, chunk: int = 1024
) -> Neighbours:
    """Nearest neighbours both ways under CSLS(x, y) = 2 cos(x, y) - r(x) - r(y).

    r is the mean cosine with the nearest rows of the other cloud, so that hubs are nobody's
    neighbours by being everybody's. No more than `chunk` rows of similarities exist at a time.

    Args:
        left: (N, E) rows, of any length.
        right: (M, E) rows.
        neighbours: that r is the mean of.
        chunk: rows at a time.

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
    rounds: int = 10,
    neighbours: int = 10,
    chunk: int = 1024,
) -> tuple[Tensor, Neighbours, int]:
    """Mutual nearest neighbours under CSLS, Procrustes on them, and again.

    Args:
        left: (N, E_left) standardized rows.
        right: (M, E_right) standardized rows.
        weight: (E_left, E_right) first map.
        rounds: at most.
        neighbours: of CSLS.
        chunk: rows of similarities at a time.

    Returns:
        The map, the neighbours under it, and the rounds it took until no pair changed.

    References:
        Conneau et al. 2017, arXiv:1710.04087, section 2.2.
    """
    found = csls_neighbours(left @ weight, right, neighbours=neighbours, chunk=chunk)
    for done in range(rounds):
        pairs = found.mutual.nonzero()[:, 0]
        if not len(pairs):
            return weight, found, done
        weight = procrustes(left[pairs], right[found.of_left[pairs]]).to(left)
        before = found
        found = csls_neighbours(left @ weight, right, neighbours=neighbours, chunk=chunk)
        same = torch.equal(found.mutual, before.mutual)
        if same and torch.equal(found.of_left[pairs], before.of_left[pairs]):
            return weight, found, done + 1
    return weight, found, rounds


def unsupervised_alignment(
    left: Tensor,
    right: Tensor,
    *,
    generator: torch.Generator,
    starts: Sequence[Start] | None = None,
    restarts: int = 3,
    rounds: int = 10,
    neighbours: int = 10,
    chunk: int = 1024,
) -> UnsupervisedAlignment:
    """The rotation between two clouds of rows of which nobody knows what belongs to what.

    Every restart takes the next of `starts`, is refined by mutual nearest neighbours, and is
    judged by the mean CSLS of those neighbours. The best one is returned. It presupposes that
    both clouds have about the same shape, and that this shape has no symmetry: nothing in a
    symmetric cloud tells a row from its mirror image, and the criterion is high for either.

    Args:
        left: (N, E_left) rows, N >= 2.
        right: (M, E_right) rows, M >= 2, in any order.
        generator: of the restarts' randomness, on the CPU.
        starts: taken in turn; by default `AxesStart`, `TransportStart` and `ProfileStart`.
        restarts: how many.
        rounds: of refinement, at most.
        neighbours: of CSLS.
        chunk: rows of similarities at a time; memory is about chunk * max(N, M) * 16 bytes.

    References:
        Conneau et al. 2017, arXiv:1710.04087 (refinement, choice without labels).
        Hartmann et al. 2019, arXiv:1908.07742 (restarts are needed: runs differ by luck).
    """
    for name, rows in (("left", left), ("right", right)):
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"expected {name} rows (N, E) with N >= 2, got {tuple(rows.shape)}")
        if not rows.isfinite().all():
            raise ValueError(f"{name} rows must be finite")
    if min(restarts, rounds, neighbours, chunk) < 1:
        raise ValueError(
            "restarts, rounds, neighbours and chunk must be 1 or more, "
            f"got {restarts}, {rounds}, {neighbours}, {chunk}"
        )
    if starts is None:
        starts = [AxesStart(), TransportStart(chunk=chunk), ProfileStart(chunk=chunk)]
    if not starts:
        raise ValueError("starts is empty; leave it out for the default")
    x, y = standardized(left), standardized(right)
    found: list[tuple[Restart, Neighbours]] = []
    for number in range(restarts):
        start = starts[number % len(starts)]
        first = start(x, y, number // len(starts), generator)
        weight, near, took = refine(x, y, first, rounds=rounds, neighbours=neighbours, chunk=chunk)
        name = type(start).__name__
        found.append((Restart(name, near.criterion, near.share, took, weight), near))
    selected = max(range(restarts), key=lambda i: found[i][0].criterion)
    near = found[selected][1]
    pairs = near.mutual.nonzero()[:, 0]
    fit = Procrustes(scale=True)
    if len(pairs):
        fit.fit(left[pairs], right[near.of_left[pairs]])
    else:
        fit.fit(left[:1], right[:1])
    return UnsupervisedAlignment(
        fit,
        tuple(restart for restart, _ in found),
        selected,
        near.of_left,
        near.share,
        (1 - len(pairs) / len(left), 1 - len(pairs) / len(right)),
    )


@dataclass(frozen=True)
class RandomStart:
    """A random rotation: the control that any other start must beat."""

    def __call__(
        self, left: Tensor, right: Tensor, restart: int, generator: torch.Generator
    ) -> Tensor:
        e_left, e_right = left.shape[1], right.shape[1]
        drawn = torch.randn(e_left, e_right, generator=generator)
        return procrustes(torch.eye(e_left), drawn).to(left)


@dataclass(frozen=True)
class ProfileStart:
    """Rows that see the rest of their cloud alike are taken for each other.

    The profile of a row is its sorted similarities to all rows of its own cloud, which a rotation
    does not change. Similarities are the rows of (X X')^power, power 1/2 in the first restart and
    drawn from 1/4 to 1 in others; `quantiles` of the sorted values are kept, so clouds may differ
    in size. Mutual nearest neighbours of the profiles under CSLS give the map by Procrustes.

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
            return procrustes(left[:1] * 0, right[:1] * 0).to(left)
        return procrustes(left[pairs], right[near.of_left[pairs]]).to(left)


def profiles(
    left: Tensor, right: Tensor, *, power: float = 0.5, quantiles: int = 256, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """(N, Q) and (M, Q) sorted similarities of each row to its own cloud, less their joint mean.

    Args:
        left: (N, E_left) standardized rows.
        right: (M, E_right) standardized rows.
        power: of X X'; 1 are the inner products, 1/2 weighs directions by their deviation.
        quantiles: Q.
        chunk: rows at a time.
    """

    def profile(rows: Tensor) -> Tensor:
        u, s, _ = torch.linalg.svd(rows, full_matrices=False)
        # U S^p turned by any rotation has the same inner products: (X X')^p.
        half = u * s.pow(power) * len(rows) ** ((1 - power) / 2)
        place = torch.linspace(0, len(rows) - 1, quantiles).round().long()
        return torch.cat([_sorted(part @ half.T)[:, place] for part in half.split(chunk)])

    a, b = profile(left), profile(right)
    mean = (a.mean(0) + b.mean(0)) / 2
    return a - mean, b - mean


def _sorted(rows: Tensor) -> Tensor:
    if rows.device.type != "cpu":
        return rows.sort(1).values
    return torch.from_numpy(np.sort(rows.numpy(), axis=1))  # about 15 times as fast as torch here


@dataclass(frozen=True)
class AxesStart:
    """Principal axes matched in order of their variance, with signs by third moments.

    With the scores z of a cloud on its axes, scaled to variance 1, the moments E z_i² z_j change
    sign with axis j and not with axis i. Axis j of one cloud is turned so that these moments of
    both clouds, over all i, agree. Restarts draw the signs of axes on which they agree little.

    It needs variances that differ: two axes of equal variance are mixed at random in each cloud.
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
        draw = torch.full((k,), 0.5) if not restart else torch.rand(k, generator=generator)
        sign = torch.where(draw.to(keep) <= keep, 1.0, -1.0)
        return procrustes(a[:, :k].T * sign[:, None], b[:, :k].T).to(left)


def _axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(E, E) principal axes as columns in falling order, and (E, E) moments E z_i² z_j."""
    x = rows.double()
    values, axes = torch.linalg.eigh(x.T @ x / len(x))
    axes = axes.flip(1)
    z = x @ axes / values.flip(0).clamp_min(FLOOR).sqrt()
    return axes, z.square().T @ z / len(z)


@dataclass(frozen=True)
class TransportStart:
    """Optimal transport between profiles, then between rotated rows with ever sharper plans.

    The first plan moves rows to rows of like profile. Its Procrustes map is then improved in turn:
    the entropic plan of the cost -<x W, y>, and the W that goes with the plan. The entropy falls
    from step to step, so that early plans spread over whole regions and late ones pair rows.
    Restarts draw the power of the profiles as in `ProfileStart`, and other rows of large clouds.

    Args:
        rows: of each cloud, at most.
        steps: plans after the first.
        iterations: of Sinkhorn per plan.
        entropy: of the first and the last plan, as a share of the cost's standard deviation.

    References:
        Grave, Joulin & Berthet 2018, arXiv:1805.11222 (plan and rotation in turn).
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
    """Procrustes of each left row with the mean right row that the plan sends it to."""
    return procrustes(x, plan @ y).to(x)


@dataclass(frozen=True)
class AdversarialStart:
    """A rotation trained until a discriminator cannot tell moved left rows from right rows.

    The discriminator is a perceptron with two hidden layers, dropout on its input and smoothed
    labels. The map starts from `first`, a random rotation unless told otherwise, and is put back
    to the nearest rotation after each step. Learning rates fall to 0 along a half cosine.

    References:
        Conneau et al. 2017, arXiv:1710.04087, section 2.1.
    """

    first: Start = field(default_factory=RandomStart)
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
        mover = torch.optim.Adam([weight], betas=(0.5, 0.999))

        def batch(rows: Tensor) -> Tensor:
            drawn = torch.randint(len(rows), (self.batch_size,), generator=generator)
            return rows[drawn.to(rows.device)]

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
            mover.param_groups[0]["lr"] = self.learning_rate * decay
            for _ in range(self.discriminator_steps):
                moved = (batch(left) @ weight).detach()
                loss = F.binary_cross_entropy_with_logits(
                    torch.cat([logits(moved), logits(batch(right))]),
                    torch.cat([smooth, 1 - smooth]),
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            fooled = F.binary_cross_entropy_with_logits(logits(batch(left) @ weight), 1 - smooth)
            (weight.grad,) = torch.autograd.grad(fooled, [weight])
            mover.step()
            with torch.no_grad():
                u, _, vh = torch.linalg.svd(weight, full_matrices=False)
                weight.copy_(u @ vh)
        return weight.detach()
