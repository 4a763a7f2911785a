"""Geometry of a joint space: modality gap, uniformity, rank, similarity and hubness."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import NamedTuple

import torch
from torch import Tensor

from amodal.alignment.cca import fit_cca
from amodal.metrics.bootstrap import Estimate, flatten, intervals, resampled
from amodal.metrics.hubness import hubness_metrics, k_occurrence, mixed_gallery
from amodal.metrics.modality_gap import centroid_gap, energy_test, modality_probe
from amodal.metrics.retrieval import checked
from amodal.metrics.similarity import alignment, linear_cka, random_alignment, rsa

CHUNK_BYTES = 24 << 20  # of numbers held at once
NOISE = 1e-12  # a variance below this share of the second moment is rounding
CCA_RIDGE = 0.1  # share of the mean variance; half the items may be fewer than the dimensions
FEWEST_ITEMS = 4  # below, metrics of a pair of modalities are not defined


class EmbeddingSet(NamedTuple):
    """The embeddings of one modality.

    Args:
        z: (N, E) unit-norm embeddings.
        item: (N,) int64 key of the item of each row; an item may have several rows.
    """

    z: Tensor
    item: Tensor


@dataclass(frozen=True)
class GeometryOptions:
    """Parameters of the metrics.

    Args:
        alpha: exponent of the distance in `alignment`.
        t: inverse width of the Gaussian in `uniformity`.
        k: neighbours in hubness and in the mixed gallery.
        folds: of the modality probe.
        components: of the CCA whose correlations are summed.
        permutations: of the tests; the smallest p-value is one over that plus one.
        max_items: items drawn at random for the energy test, the probe, RSA and CCA.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
    """

    alpha: float = 2.0
    t: float = 2.0
    k: int = 10
    folds: int = 5
    components: int = 10
    permutations: int = 200
    max_items: int = 2000
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        for name, least in (
            ("k", 1),
            ("folds", 2),
            ("components", 1),
            ("permutations", 1),
            ("max_items", 4),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.alpha > 0 and self.t > 0 and self.bootstrap >= 0):
            raise ValueError(
                "alpha and t must be positive and bootstrap not negative, "
                f"got {self.alpha}, {self.t} and {self.bootstrap}"
            )


@dataclass(frozen=True)
class GeometryResult:
    """All metrics, and the data of the plots.

    Args:
        metrics: by flat name; `NAME/chance` is the value of `NAME` without any structure,
            `NAME/p` its permutation p-value.
        occurrences: "text_to_image" -> (G,) how often each image is among the first k of a text.
        spectra: modality -> (E,) singular values of the centred embeddings, descending, their
            squares summing to 1 (or all 0); "joint" for all modalities together.
        options: parameters of the metrics.
    """

    metrics: dict[str, Estimate]
    occurrences: dict[str, Tensor]
    spectra: dict[str, Tensor]
    options: GeometryOptions = field(default_factory=GeometryOptions)

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].value

    def to_dict(self) -> dict[str, float]:
        """Flat metrics: `NAME`, and `NAME/low` and `NAME/high` where there is an interval."""
        return flatten(self.metrics)


@torch.no_grad()
def geometry_metrics(
    embeddings: Mapping[str, EmbeddingSet],
    options: GeometryOptions | None = None,
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> GeometryResult:
    """All geometry metrics, of each modality, each pair and each direction.

    Metrics that need both modalities of an item (alignment, energy, CKA, RSA) are taken over the
    items that have both; for a pair with too few of them they are left out.

    Args:
        embeddings: modality -> its rows, two modalities or more.
        options: None for the defaults.
        seed: of the drawn items, permutations and resamples, where no `generator` is given.
        generator: on the CPU.

    Raises:
        ValueError: fewer than two modalities, different widths, an embedding that is not finite,
            or fewer items than folds.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import normalize
        >>> from amodal.metrics import EmbeddingSet, GeometryOptions, geometry_metrics
        >>> z, item = normalize(torch.randn(40, 8), dim=1), torch.arange(40)
        >>> shifted = normalize(z + 0.5, dim=1)
        >>> result = geometry_metrics(
        ...     {"image": EmbeddingSet(z, item), "text": EmbeddingSet(shifted, item)},
        ...     GeometryOptions(permutations=20, bootstrap=0),
        ... )
        >>> result["gap/image_text/centroid"] > result["gap/image_text/centroid/chance"]
        True
    """
    options = options or GeometryOptions()
    generator = generator or torch.Generator().manual_seed(seed)
    sets = _checked(embeddings, options)
    spectra = {name: singular_values([one.z]) for name, one in sets.items()}
    spectra["joint"] = singular_values([one.z for one in sets.values()])
    metrics: dict[str, Estimate] = {}
    for name, one in sets.items():
        metrics[f"uniformity/{name}"] = Estimate(uniformity(*one, t=options.t))
    for name, spectrum in spectra.items():
        metrics[f"effective_rank/{name}"] = Estimate(effective_rank(spectrum))
    for a, b in combinations(sets, 2):
        for measure in PAIR_METRICS:
            for name, estimate in measure(sets[a], sets[b], options, generator).items():
                head, _, tail = name.partition("/")
                metrics[f"{head}/{a}_{b}" + (f"/{tail}" if tail else "")] = estimate
    occurrences: dict[str, Tensor] = {}
    for a, b in permutations(sets, 2):
        k = min(options.k, len(sets[b].z))
        occurrence = k_occurrence(sets[a].z, sets[b].z, k).cpu()
        occurrences[f"{a}_to_{b}"] = occurrence
        for name, value in hubness_metrics(occurrence, len(sets[a].z), k)._asdict().items():
            name = name.replace("_chance", "/chance")
            metrics[f"hubness/{a}_to_{b}/{name}"] = Estimate(value)
    metrics |= _mixed(sets, options, generator)
    return GeometryResult(metrics, occurrences, spectra, options)


def uniformity(z: Tensor, item: Tensor, *, t: float = 2.0, chunk: int | None = None) -> float:
    """log of the mean of exp(-t |z_i - z_j|²) over pairs of rows of different items.

    0 for a single point, about -2t for directions distributed uniformly in many dimensions. Pairs
    of one item are left out, as its captions are not independent.

    Args:
        z: (N, E) unit-norm embeddings.
        item: (N,) int64, at least two items.
        t: inverse width.
        chunk: rows compared at once; None: as many as fit a few tens of megabytes.

    References:
        Wang & Isola 2020, arXiv:2005.10242, section 4.1 (they use t = 2).

    Examples:
        >>> import torch
        >>> from amodal.metrics import uniformity
        >>> item = torch.arange(3)
        >>> round(abs(uniformity(torch.ones(3, 4) / 2, item)), 3)  # one point
        0.0
        >>> round(uniformity(torch.eye(4)[:3], item), 3)
        -4.0
    """
    z = checked("z", z)
    square = z.square().sum(1)
    step = chunk or max(1, CHUNK_BYTES // (2 * z.element_size() * max(1, len(z))))
    sums, pairs = [], 0
    for start in range(0, len(z), step):
        part = slice(start, start + step)
        distance = square[part, None] + square[start:] - 2 * z[part] @ z[start:].T
        wanted = item[part, None] != item[None, start:]
        wanted = wanted.triu_()  # every pair once
        pairs += int(wanted.sum())
        exponent = distance.clamp_min_(0).mul_(-t).masked_fill_(~wanted, -torch.inf)
        sums.append(exponent.logsumexp(1).double())
    if pairs == 0:
        raise ValueError(f"uniformity needs two items or more, got {len(torch.unique(item))}")
    return float(torch.cat(sums).logsumexp(0)) - math.log(pairs)


def second_moment(sets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(E, E) float64 covariance of all modalities, equally weighted, and their (E,) mean."""
    width = sets[0].shape[1]
    centre = torch.stack([z.mean(0, dtype=torch.float64) for z in sets]).mean(0)
    moment = torch.zeros(width, width, dtype=torch.float64, device=sets[0].device)
    for z in sets:
        for rows in _split(z):
            centred = rows.double() - centre
            moment += centred.T @ centred / (len(z) * len(sets))
    return moment, centre


def singular_values(sets: list[Tensor]) -> Tensor:
    """(E,) float64 singular values of the centred rows, descending; squares sum to 1 (or all 0)."""
    moment, centre = second_moment(sets)
    spread = float(moment.trace())
    if spread <= NOISE * float(centre.square().sum()):
        return torch.zeros(len(moment), dtype=torch.float64)
    values = torch.linalg.eigvalsh(moment / spread).flip(0).cpu()
    values[values < len(values) * 1e-15 * values[0]] = 0.0  # rounding; its root would not be small
    return values.sqrt()


def effective_rank(singular: Tensor) -> float:
    """exp of the entropy of σ / Σσ: E for equal variance in all directions, 1 for a line.

    Args:
        singular: (E,) singular values.

    Returns:
        0 where all are 0.

    References:
        Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    Examples:
        >>> import torch
        >>> from amodal.metrics import effective_rank
        >>> round(effective_rank(torch.tensor([1.0, 1.0, 1.0, 0.0])), 3)
        3.0
    """
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular / total
    return float(torch.special.entr(share).sum().exp())


def item_means(one: EmbeddingSet, items: Tensor) -> Tensor:
    """(I, E) mean row of each of the sorted items, all of which have rows."""
    keep = torch.isin(one.item, items)
    place = torch.searchsorted(items, one.item[keep])
    total = torch.zeros(
        len(items),
        one.z.shape[1],
        dtype=one.z.dtype,
        device=one.z.device,
    )
    total.index_add_(0, place, one.z[keep])
    return total / torch.bincount(place, minlength=len(items))[:, None]


def one_row_each(one: EmbeddingSet, items: Tensor, generator: torch.Generator) -> EmbeddingSet:
    """One row, drawn at random, of each of the sorted items that has rows."""
    order = torch.randperm(len(one.item), generator=generator).to(one.item.device)
    order = order[torch.isin(one.item[order], items)]
    present, place = torch.unique(one.item[order], return_inverse=True)
    first = torch.full((len(present),), len(order), device=order.device)
    first.scatter_reduce_(0, place, torch.arange(len(order), device=order.device), "amin")
    return EmbeddingSet(one.z[order[first]], present)


Measure = Callable[
    [EmbeddingSet, EmbeddingSet, GeometryOptions, torch.Generator], dict[str, Estimate]
]


def _alignment(
    a: EmbeddingSet, b: EmbeddingSet, options: GeometryOptions, generator: torch.Generator
) -> dict[str, Estimate]:
    found = {"shared_items": Estimate(len(_shared(a, b)))}
    values, items = alignment(*a, *b, alpha=options.alpha)
    if len(values):
        found["alignment"] = _mean(values, items, options, generator)
        by_chance = random_alignment(a.z, b.z, alpha=options.alpha)
        found["alignment/chance"] = Estimate(by_chance)
    return found


def _gap(
    a: EmbeddingSet, b: EmbeddingSet, options: GeometryOptions, generator: torch.Generator
) -> dict[str, Estimate]:
    distance, noise = centroid_gap(*a, *b)
    found = {"gap/centroid": Estimate(distance), "gap/centroid/chance": Estimate(noise)}
    items = _drawn(_shared(a, b), options, generator)
    if len(items) >= FEWEST_ITEMS:
        rows = [one_row_each(one, items, generator).z for one in (a, b)]
        shape = energy_test(*rows, permutations=options.permutations, generator=generator)
        found["gap/energy"] = Estimate(shape.value)
        found["gap/energy/p"] = Estimate(shape.p)
        found["gap/energy_coefficient"] = Estimate(shape.coefficient)
    return found


def _probe(
    a: EmbeddingSet, b: EmbeddingSet, options: GeometryOptions, generator: torch.Generator
) -> dict[str, Estimate]:
    items = _drawn(torch.unique(torch.cat([a.item, b.item])), options, generator)
    one_a, one_b = one_row_each(a, items, generator), one_row_each(b, items, generator)
    right, item = modality_probe(*one_a, *one_b, folds=options.folds, generator=generator)
    return {
        "modality_probe/accuracy": _mean(right, item, options, generator),
        "modality_probe/accuracy/chance": Estimate(0.5),
    }


def _similarity(
    a: EmbeddingSet, b: EmbeddingSet, options: GeometryOptions, generator: torch.Generator
) -> dict[str, Estimate]:
    items = _shared(a, b)
    if len(items) < FEWEST_ITEMS:
        return {}
    cka = linear_cka(item_means(a, items), item_means(b, items))
    drawn = _drawn(items, options, generator)
    test = rsa(
        item_means(a, drawn),
        item_means(b, drawn),
        permutations=options.permutations,
        generator=generator,
    )
    return {
        "cka/biased": Estimate(cka.biased),
        "cka/debiased": Estimate(cka.debiased),
        "rsa": Estimate(test.value),
        "rsa/p": Estimate(test.p),
    }


def _correlation(
    a: EmbeddingSet, b: EmbeddingSet, options: GeometryOptions, generator: torch.Generator
) -> dict[str, Estimate]:
    items = _drawn(_shared(a, b), options, generator)
    if len(items) < 2 * FEWEST_ITEMS:
        return {}
    half = torch.zeros(len(items), dtype=torch.bool)
    half[torch.randperm(len(items), generator=generator)[: len(items) // 2]] = True
    views = [item_means(one, items).cpu() for one in (a, b)]
    total, p, components = 0.0, 1.0, 0
    if all(_varies(x[half]) for x in views):
        fit = fit_cca([x[half] for x in views], options.components, ridge=CCA_RIDGE)
        found = fit.score(
            [x[~half] for x in views], permutations=options.permutations, generator=generator
        )
        total, p, components = found.total, found.p_total or 0.0, len(found.correlations)
    return {
        "held_out_correlation/total": Estimate(total),
        "held_out_correlation/total/chance": Estimate(0.0),
        "held_out_correlation/total/p": Estimate(p),
        "held_out_correlation/components": Estimate(components),
    }


def _varies(z: Tensor) -> bool:
    spread = (z - z.mean(0)).double().square().sum()
    return bool(spread > NOISE * z.double().square().sum())


# Metrics of each pair of modalities; a new one is a new line.
PAIR_METRICS: tuple[Measure, ...] = (
    _alignment,
    _gap,
    _probe,
    _similarity,
    _correlation,
)


def _mixed(
    sets: Mapping[str, EmbeddingSet], options: GeometryOptions, generator: torch.Generator
) -> dict[str, Estimate]:
    rows = {name: one.z for name, one in sets.items()}
    k = min(options.k, sum(len(z) for z in rows.values()) - 1)
    found = {}
    for name, (share, chance) in mixed_gallery(rows, k).items():
        found[f"mixed_gallery/{name}/same_modality_share"] = _mean(
            share, sets[name].item, options, generator
        )
        found[f"mixed_gallery/{name}/same_modality_share/chance"] = Estimate(chance)
    return found


def _mean(
    values: Tensor, item: Tensor, options: GeometryOptions, generator: torch.Generator
) -> Estimate:
    drawn = resampled(values[:, None].cpu(), item.cpu(), options.bootstrap, generator)
    return intervals(["mean"], *drawn)["mean"]


def _shared(a: EmbeddingSet, b: EmbeddingSet) -> Tensor:
    items = torch.unique(a.item)
    return items[torch.isin(items, b.item)]


def _drawn(items: Tensor, options: GeometryOptions, generator: torch.Generator) -> Tensor:
    """At most `max_items` of the items, sorted."""
    if len(items) <= options.max_items:
        return items
    order = torch.randperm(len(items), generator=generator)[: options.max_items]
    return items[order.sort().values.to(items.device)]


def _split(z: Tensor) -> tuple[Tensor, ...]:
    return torch.split(z, max(1, CHUNK_BYTES // (8 * max(1, z.shape[1]))))


def _checked(
    embeddings: Mapping[str, EmbeddingSet], options: GeometryOptions
) -> dict[str, EmbeddingSet]:
    if len(embeddings) < 2:
        raise ValueError(f"geometry needs two modalities or more, got {list(embeddings)}")
    found = {}
    for name, (z, item) in embeddings.items():
        if item.shape != z.shape[:1]:
            raise ValueError(f"{name}: {len(z)} rows need as many items, got {tuple(item.shape)}")
        items = len(torch.unique(item))
        if items < max(2, options.folds):
            raise ValueError(
                f"{name}: {options.folds} folds need at least as many items, got {items}"
            )
        found[name] = EmbeddingSet(checked(name, z), item.to(z.device))
    widths = {name: one.z.shape[1] for name, one in found.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"widths of the embeddings differ: {widths}")
    return found
