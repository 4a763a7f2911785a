"""Checks of the embeddings of a run, and of the pixels that its encoders see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations

from amodal.doctor.finding import Finding
from amodal.doctor.recipe_checks import round_rate
from amodal.doctor.subject import Subject
from amodal.evaluators.retrieval import mean_recall, retrieval_metrics
from amodal.metrics.geometry import effective_rank, singular_values
from amodal.metrics.hubness import mixed_gallery
from amodal.metrics.modality_gap import centroid_gap
from amodal.models.joint_embedding import Embeddings

# Embeddings of a point have spread 0, those that fill the sphere 1. The healthy runs of the tests
# have 0.6 and more, their collapsed one 0.002.
MIN_SPREAD = 0.05
MIN_RANK = 3.0  # directions; a few classes take more
MIN_ITEMS = 20
GAP_NEIGHBOURS = 10
MAX_SAME_MODALITY = 0.98  # of the nearest neighbours in a gallery of both
MIN_GAP = 0.5  # distance of the centroids of unit vectors
MIN_LIFT = 2.0  # mean recall over chance of a model that has learned
TOLERANCE = 0.02  # of means and standard deviations of pixels scaled to 0…1


def collapse(subject: Subject) -> Iterator[Finding]:
    """Embeddings that are all alike, or lie on a line."""
    assert subject.recipe is not None
    found = []
    for name, rows in subject.embedded.rows.items():
        if len(rows.z) < MIN_ITEMS:
            continue
        spread = 1 - float(rows.z.double().mean(0).square().sum())
        rank = effective_rank(singular_values([rows.z]))
        if spread < MIN_SPREAD or rank < MIN_RANK:
            found.append(
                f"{name}: mean cosine of two items {1 - spread:.3f}, effective rank {rank:.1f} of "
                f"{min(rows.z.shape[1], len(rows.z) - 1)}"
            )
    if found:
        rate = subject.recipe.train.learning_rate
        yield Finding(
            "collapsed_embeddings",
            "error",
            f"embeddings of {subject.embedded.items} items",
            "; ".join(found),
            f"lower the learning rate, now {rate:g}, and lengthen the warmup; objectives without "
            "negatives need a contrastive one beside them",
            {"train.learning_rate": round_rate(rate / 10), "train.warmup": 0.1},
        )


def modality_gap(subject: Subject) -> Iterator[Finding]:
    """Inputs that lie apart, so that a gallery of both returns one of them alone."""
    rows = subject.embedded.rows
    for a, b in combinations(rows, 2):
        left, right = rows[a], rows[b]
        if min(len(left.z), len(right.z)) < MIN_ITEMS:
            continue
        gap, noise = centroid_gap(left.z, left.item, right.z, right.item)
        k = min(GAP_NEIGHBOURS, min(len(left.z), len(right.z)) - 1)
        mixed = mixed_gallery({a: left.z, b: right.z}, k)
        same = sum(float(share.mean()) for share, _ in mixed.values()) / 2
        if gap < max(MIN_GAP, 3 * noise) or same < MAX_SAME_MODALITY:
            continue
        if not _retrieves({a: left, b: right}):
            continue  # where nothing is learned, the gap is the least of it
        yield Finding(
            "modality_gap",
            "warning",
            f"embeddings of {subject.embedded.items} items",
            f"the centroids of {a} and {b} are {gap:.2f} apart ({noise:.2f} by chance), and "
            f"{same:.0%} of the {k} nearest neighbours in a gallery of both are of the query's own "
            "modality",
            "a search over both returns one of them alone: center the embeddings of each, which "
            "is fitted at the end of training",
            {"model.normalization": ["center", "l2"]},
        )


def _retrieves(rows: Mapping[str, Embeddings]) -> bool:
    """Whether the mean recall of two inputs is well above chance."""
    items = len(next(iter(rows.values())).item.unique())
    recall = mean_recall(retrieval_metrics(rows))
    return recall > MIN_LIFT * chance_recall(items)


def normalization(subject: Subject) -> Iterator[Finding]:
    """Pixels that are scaled otherwise than for the training of pretrained weights."""
    assert subject.recipe is not None
    for name, config in subject.recipe.model.encoders.items():
        prepare = subject.inputs.preprocessors[name]
        if not (config.is_pretrained and hasattr(prepare, "mean") and hasattr(prepare, "std")):
            continue
        made_for = config.preprocessor()
        different = [
            f"{what} {_shown(own)} instead of {_shown(wanted)}"
            for what, own, wanted in (
                ("mean", prepare.mean, made_for.mean),
                ("standard deviation", prepare.std, made_for.std),
            )
            if any(
                not math.isclose(x, y, abs_tol=TOLERANCE) for x, y in zip(own, wanted, strict=True)
            )
        ]
        if different:
            yield Finding(
                "wrong_normalization",
                "error",
                f"{name}/{prepare.FILE}",
                f"pixels of the input {name} are normalised with {' and '.join(different)}, which "
                "the pretrained weights were trained with",
                f'write "mean": {_shown(made_for.mean)}, "std": {_shown(made_for.std)} into the '
                "file, or train again from the recipe, which takes them from the weights",
            )


def _shown(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in values) + "]"


def chance_recall(items: int) -> float:
    """Mean of recall@1, 5 and 10 of random embeddings among so many items.

    Examples:
        >>> round(chance_recall(100), 3)
        0.053
    """
    return sum(min(k / items, 1.0) for k in (1, 5, 10)) / 3
