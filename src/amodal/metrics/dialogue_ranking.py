"""Visual dialogue metrics: MRR, recall@k, mean rank and nDCG of ranked candidate answers.

A round is a question with its answer, as in VisDial.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, flatten, intervals, resampled
from amodal.metrics.ties import discount_sums, first_rank, hit_within, reciprocal_rank

CUTOFFS = (1, 5, 10)
SPARSE = ["mrr", *(f"recall@{k}" for k in CUTOFFS), "mean_rank"]


@dataclass(frozen=True)
class DialogueResult:
    """Ranking metrics, each with a 95 % bootstrap interval over dialogues.

    A model with a higher MRR often has a lower nDCG: MRR counts the single given answer, nDCG every
    answer that annotators accept. Both are always reported.

    Args:
        metrics: mrr, recall@1, recall@5, recall@10, mean_rank, and ndcg; ndcg is NaN where no
            round has relevances.
        by_round: the same for each round number; empty where no numbers were given.
        rounds: rounds with a known answer.
        rounds_with_relevance: rounds that count for ndcg.

    Examples:
        >>> import torch
        >>> from amodal.metrics.dialogue_ranking import dialogue_ranking_metrics
        >>> scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> result = dialogue_ranking_metrics(
        ...     scores, torch.tensor([0, 0]), relevance=None, dialogue=torch.tensor([1, 2])
        ... )
        >>> result["mrr"], result["mean_rank"], result.rounds
        (0.75, 1.5, 2)
    """

    metrics: dict[str, Estimate]
    by_round: dict[int, dict[str, Estimate]]
    rounds: int
    rounds_with_relevance: int

    def __getitem__(self, name: str) -> float:
        return self.metrics[name].value

    def to_dict(self) -> dict[str, float]:
        """Flat metrics: `mrr`, `mrr/low`, `round 3/mrr`, ..., and the counts."""
        flat = flatten(self.metrics)
        for number, metrics in self.by_round.items():
            flat |= flatten({f"round {number}/{name}": v for name, v in metrics.items()})
        return flat | {
            "rounds": self.rounds,
            "rounds_with_relevance": self.rounds_with_relevance,
        }


@torch.no_grad()
def dialogue_ranking_metrics(
    scores: Tensor,
    answer: Tensor,
    *,
    relevance: Tensor | None,
    dialogue: Tensor,
    number: Tensor | None = None,
    mask: Tensor | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> DialogueResult:
    """Ranking metrics of candidate answers.

    Ties are in random order, and every metric is the exact expectation over that order: constant
    scores are at chance.

    - mrr, recall@k, mean_rank: of the rank of the given answer.
    - ndcg: DCG@k over the ideal DCG@k, where k is the number of candidates with a relevance above
      0 and DCG the sum of relevance / log2(1 + rank). Rounds without relevant candidates are left
      out.

    Args:
        scores: (R, C) of the candidates of R rounds.
        answer: (R,) int64 index of the given answer among the candidates; below 0: unknown, the
            round counts for ndcg only.
        relevance: (R, C) share of annotators who accept a candidate; a row of NaN where there is
            no annotation. None: no annotations.
        dialogue: (R,) int64 key; the bootstrap resamples whole dialogues.
        number: (R,) int64 of the round within its dialogue, for `by_round`.
        mask: (R, C) False where a candidate is missing; None: all are there.
        bootstrap: resamples for the intervals; 0: no intervals.
        seed: of the resamples.

    Raises:
        ValueError: shapes differ, a score is not finite, or an answer is no candidate.

    Examples:
        >>> result = dialogue_ranking_metrics(
        ...     torch.tensor([[3.0, 2.0, 1.0]]),
        ...     torch.tensor([1]),
        ...     relevance=torch.tensor([[0.0, 1.0, 0.5]]),
        ...     dialogue=torch.tensor([0]),
        ...     bootstrap=0,
        ... )
        >>> result["mrr"], result["recall@1"], round(result["ndcg"], 4)
        (0.5, 0.0, 0.4796)

    References:
        Das et al. 2017, arXiv:1611.08669, section 5 (MRR, recall@k, mean rank).
        VisDial challenge 2018, visualdialog.org/challenge/2018 (nDCG of v1.0).
    """
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    _check(scores, answer, relevance, dialogue, number, mask)
    scores = scores.double().masked_fill(~mask, float("-inf"))
    known = answer >= 0
    sparse = _sparse(scores[known], answer[known])
    dense = torch.full((len(scores),), float("nan"), dtype=torch.float64, device=scores.device)
    if relevance is not None:
        annotated = ~relevance.masked_fill(~mask, 0.0).isnan().any(1)
        dense[annotated] = _ndcg(scores[annotated], relevance[annotated].double(), mask[annotated])
    rated = ~dense.isnan()

    def estimates(among: Tensor) -> dict[str, Estimate]:
        generator = torch.Generator().manual_seed(seed)
        metrics: dict[str, Estimate] = {}
        for names, values, rows in (
            (SPARSE, sparse[among[known]], known & among),
            (["ndcg"], dense[rated & among, None], rated & among),
        ):
            if not len(values):
                metrics |= {name: Estimate(float("nan")) for name in names}
                continue
            draws = resampled(values.cpu(), dialogue[rows].cpu(), bootstrap, generator)
            metrics |= intervals(names, *draws)
        return metrics

    rounds = [] if number is None else sorted(set(number.tolist()))
    return DialogueResult(
        metrics=estimates(torch.ones_like(known)),
        by_round={n: estimates(number == n) for n in rounds if number is not None},
        rounds=int(known.sum()),
        rounds_with_relevance=int(rated.sum()),
    )


def _sparse(scores: Tensor, answer: Tensor) -> Tensor:
    """(R, 5) float64 metrics `SPARSE` of (R, C) scores."""
    value = scores.gather(1, answer[:, None])  # (R, 1)
    above, tied = (scores > value).sum(1), (scores == value).sum(1)
    group = (above, tied, torch.ones_like(above))
    hits = [hit_within(k, *group) for k in CUTOFFS]
    return torch.stack([reciprocal_rank(*group), *hits, first_rank(*group)], dim=1)


def _ndcg(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """(R,) float64; NaN where no candidate is relevant."""
    relevance = relevance.masked_fill(~mask, 0.0)
    k = (relevance > 0).sum(1, keepdim=True)  # (R, 1)
    sums = discount_sums(scores.shape[1], scores.device)
    # Candidates that score the same share the discounts of the ranks that they fill.
    ascending = scores.sort(1).values
    size = scores.shape[1]
    upto = size - torch.searchsorted(ascending, scores)  # (R, C) entries with at least this score
    above = size - torch.searchsorted(ascending, scores, right=True)
    shared = sums[upto.minimum(k)] - sums[above.minimum(k)]
    dcg = (relevance * shared / (upto - above)).sum(1)
    ideal = (relevance.sort(1, descending=True).values * sums.diff()).sum(1)
    return dcg / ideal  # the sorted relevances after the first k are 0: no cutoff is needed


def _check(
    scores: Tensor,
    answer: Tensor,
    relevance: Tensor | None,
    dialogue: Tensor,
    number: Tensor | None,
    mask: Tensor,
) -> None:
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"scores must be (rounds, candidates), got {tuple(scores.shape)}")
    for name, column in (("answer", answer), ("dialogue", dialogue), ("number", number)):
        if column is not None and column.shape != scores.shape[:1]:
            raise ValueError(f"{name} must be ({len(scores)},), got {tuple(column.shape)}")
    for name, table in (("relevance", relevance), ("mask", mask)):
        if table is not None and table.shape != scores.shape:
            raise ValueError(f"{name} must be {tuple(scores.shape)}, got {tuple(table.shape)}")
    if not bool(torch.isfinite(scores[mask]).all()):
        raise ValueError("a candidate's score is not finite; use `mask` for missing candidates")
    outside = answer >= scores.shape[1]
    if not bool(outside.any()):
        chosen = mask.gather(1, answer.clamp_min(0)[:, None])[:, 0]
        outside = (answer >= 0) & ~chosen
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(f"round {row}: its answer, {int(answer[row])}, is not a candidate")
    if relevance is not None and bool((relevance[mask] < 0).any()):
        raise ValueError("relevance must not be negative")
