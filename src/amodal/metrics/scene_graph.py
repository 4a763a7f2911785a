"""Agreement of what captions say with what images hold, as tuples.

A tuple of one word names an object, one of two an attribute of it, one of three a relation:
("star",), ("star", "red"), ("star", "left_of", "ring"). Tuples come from a world whose truth is
known, not from a parser of free text and a thesaurus: figures are not those of SPICE, and must
not be compared with them.
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
    """Figures of one image, or of a set of images whose tuples are counted together.

    Args:
        micro: F1 over all tuples; 1 where nothing was said of nothing.
        macro: mean of F1 over the kinds that occur, in the prediction or in the truth.
        precision, recall: over all tuples; 1 where there are none to be right or to be found.
        objects, attributes, relations: F1 of each kind; NaN where it does not occur.
    """

    micro: float
    macro: float
    precision: float
    recall: float
    objects: float
    attributes: float
    relations: float


def scene_graph_f1(predicted: Tuples, true: Tuples) -> SceneGraphF1:
    """How well the tuples of one caption agree with those of its image.

    A tuple that occurs several times (two stars) must be said as often. Objects are known by
    their names only: where two have the same name, their attributes can be exchanged unnoticed.

    Args:
        predicted: of the caption; a set, or a list in which tuples may be repeated.
        true: of the image.

    Raises:
        ValueError: a tuple has not one to three entries.
    """
    found = _figures(_counts(predicted, true)[None])[0].tolist()
    named = dict(zip(NAMES, found, strict=True))
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
    """Figures of a set of captions.

    - f1, precision, recall: over the tuples of all images; objects_f1, attributes_f1 and
      relations_f1 over those of each kind, NaN where it does not occur; macro_f1 is the mean of
      the three, as far as they occur.
    - mean_f1: mean over images of their F1.

    Args:
        predicted, true: the tuples of each of P images; see `scene_graph_f1`.
        bootstrap: resamples of images for the intervals; 0 leaves them out.
        seed: of the resamples.

    Raises:
        ValueError: there are no images, or the lengths differ.
    """
    if len(predicted) != len(true) or not len(true):
        raise ValueError(
            f"expected the tuples of the same images, got {len(predicted)} and {len(true)}"
        )
    counts = torch.stack([_counts(p, t) for p, t in zip(predicted, true, strict=True)])
    flat = counts.flatten(1)
    values = torch.cat([flat, _figures(counts)[:, :1]], dim=1)
    generator = torch.Generator().manual_seed(seed)
    figures, draws = resampled(values, torch.arange(len(values)), bootstrap, generator)

    def measured(rows: Tensor) -> Tensor:  # shares of sums, so that means serve as well
        pooled = _figures(rows[:, :-1].reshape(-1, *counts.shape[1:]))
        return torch.cat([pooled, rows[:, -1:]], dim=1)

    return intervals([*NAMES, "mean_f1"], measured(figures[None])[0], measured(draws))


def _counts(predicted: Tuples, true: Tuples) -> Tensor:
    """(3, 3) float64: for each kind the tuples in both, predicted, and true."""
    said, there = Counter(predicted), Counter(true)
    counts = torch.zeros(len(KINDS), 3, dtype=torch.float64)
    for column, tuples in enumerate((said & there, said, there)):
        for entry, times in tuples.items():
            if isinstance(entry, str) or not 1 <= len(entry) <= len(KINDS):
                raise ValueError(f"expected a tuple of one to three words, got {entry!r}")
            counts[len(entry) - 1, column] += times
    return counts


def _figures(counts: Tensor) -> Tensor:
    """(S, 7) `NAMES` of (S, 3, 3) counts."""
    hits, said, there = counts.sum(1).unbind(1)  # (S,) each
    f1 = _share(2 * hits, said + there, 1.0)
    kinds = _share(2 * counts[..., 0], counts[..., 1] + counts[..., 2], float("nan"))  # (S, 3)
    macro = kinds.nanmean(1).nan_to_num(1.0)
    columns = [f1, _share(hits, said, 1.0), _share(hits, there, 1.0), macro, *kinds.unbind(1)]
    return torch.stack(columns, dim=1)


def _share(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """part / whole, and `otherwise` where there is no whole."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), otherwise)
