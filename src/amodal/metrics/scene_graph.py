"""Scene-graph F1 of captions: agreement of their tuples with those of the image.

A tuple of one entry is an object, of two an attribute of an object, of three a relation:
("star",), ("star", "red"), ("star", "left_of", "ring"). Tuples come from a world with known ground
truth, not from a parser of free text and a thesaurus: scores are not comparable with SPICE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, intervals, resampled

KINDS = ("objects", "attributes", "relations")
NAMES = ["f1", "precision", "recall", "macro_f1", *(f"{kind}_f1" for kind in KINDS)]
Tuples = Iterable[tuple[str, ...]]


@dataclass(frozen=True)
class SceneGraphF1:
    """Scene-graph scores of one image.

    Args:
        micro: F1 over all tuples; 1 where prediction and truth are both empty.
        macro: mean F1 of the kinds that occur in prediction or truth.
        precision, recall: over all tuples; 1 where the denominator is 0.
        objects, attributes, relations: F1 of each kind; NaN where it does not occur.

    Examples:
        >>> from amodal.metrics import scene_graph_f1
        >>> scores = scene_graph_f1([("star",)], [("star",), ("star", "red")])
        >>> scores.precision, scores.recall, scores.objects, scores.attributes
        (1.0, 0.5, 1.0, 0.0)
    """

    micro: float
    macro: float
    precision: float
    recall: float
    objects: float
    attributes: float
    relations: float


def scene_graph_f1(predicted: Tuples, true: Tuples) -> SceneGraphF1:
    """Agreement of the tuples of one caption with those of its image.

    Tuples are counted with multiplicity (two stars). Objects are identified by name only: swapped
    attributes of two objects with one name go unnoticed.

    Args:
        predicted: of the caption; a set, or a list with repetitions.
        true: of the image.

    Raises:
        ValueError: a tuple has not one to three entries.

    Examples:
        >>> from amodal.metrics import scene_graph_f1
        >>> true = [("star",), ("ring",), ("star", "left_of", "ring")]
        >>> round(scene_graph_f1([("star",), ("ring",)], true).micro, 4)
        0.8
    """
    values = _scores(_counts(predicted, true)[None])[0].tolist()
    named = dict(zip(NAMES, values, strict=True))
    return SceneGraphF1(
        micro=named["f1"],
        macro=named["macro_f1"],
        precision=named["precision"],
        recall=named["recall"],
        objects=named["objects_f1"],
        attributes=named["attributes_f1"],
        relations=named["relations_f1"],
    )


def scene_graph_scores(
    predicted: Sequence[Tuples], true: Sequence[Tuples], *, bootstrap: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Scene-graph scores of a set of captions.

    - f1, precision, recall: over the tuples of all images; objects_f1, attributes_f1 and
      relations_f1 over those of each kind, NaN where it does not occur; macro_f1 is the mean of
      those that occur.
    - mean_f1: mean over images of their F1.

    Args:
        predicted, true: the tuples of each of P images; see `scene_graph_f1`.
        bootstrap: resamples of images for the intervals; 0: no intervals.
        seed: of the resamples.

    Raises:
        ValueError: there are no images, or the lengths differ.

    Examples:
        >>> from amodal.metrics import scene_graph_scores
        >>> scores = scene_graph_scores([[("star",)], []], [[("star",)], [("ring",)]])
        >>> round(scores["f1"].value, 4), scores["mean_f1"].value
        (0.6667, 0.5)
    """
    if len(predicted) != len(true) or not len(true):
        raise ValueError(
            f"expected the tuples of the same images, got {len(predicted)} and {len(true)}"
        )
    counts = torch.stack([_counts(p, t) for p, t in zip(predicted, true, strict=True)])
    flat = counts.flatten(1)
    values = torch.cat([flat, _scores(counts)[:, :1]], dim=1)
    generator = torch.Generator().manual_seed(seed)
    means, draws = resampled(values, torch.arange(len(values)), bootstrap, generator)

    def pooled_scores(rows: Tensor) -> Tensor:  # ratios of sums equal ratios of means
        pooled = _scores(rows[:, :-1].reshape(-1, *counts.shape[1:]))
        return torch.cat([pooled, rows[:, -1:]], dim=1)

    return intervals([*NAMES, "mean_f1"], pooled_scores(means[None])[0], pooled_scores(draws))


def _counts(predicted: Tuples, true: Tuples) -> Tensor:
    """(3, 3) float64: for each kind the tuples in both, predicted, and true."""
    predictions, truths = Counter(predicted), Counter(true)
    counts = torch.zeros(len(KINDS), 3, dtype=torch.float64)
    for column, tuples in enumerate((predictions & truths, predictions, truths)):
        for entry, times in tuples.items():
            if isinstance(entry, str) or not 1 <= len(entry) <= len(KINDS):
                raise ValueError(f"expected a tuple of one to three entries, got {entry!r}")
            counts[len(entry) - 1, column] += times
    return counts


def _scores(counts: Tensor) -> Tensor:
    """(S, 7) `NAMES` of (S, 3, 3) counts."""
    hits, predicted, true = counts.sum(1).unbind(1)  # (S,) each
    f1 = _ratio(2 * hits, predicted + true, 1.0)
    kinds = _ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2], float("nan"))  # (S, 3)
    macro = kinds.nanmean(1).nan_to_num(1.0)
    columns = [f1, _ratio(hits, predicted, 1.0), _ratio(hits, true, 1.0), macro, *kinds.unbind(1)]
    return torch.stack(columns, dim=1)


def _ratio(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """part / whole, and `otherwise` where whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), otherwise)
