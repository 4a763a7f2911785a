"""Ranking of answers against a loop, all orders of ties, and the definition of VisDial's nDCG."""

import math
from itertools import pairwise, permutations

import pytest
import torch

from amodal.metrics.dialogue_ranking import SPARSE, dialogue_ranking_metrics


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def metrics_of_order(order, answer, relevance):
    """Metrics of candidates sorted best first."""
    rank = order.index(answer) + 1
    k = sum(r > 0 for r in relevance)
    gain = sum(relevance[c] / math.log2(p + 2) for p, c in enumerate(order[:k]))
    best = sum(r / math.log2(p + 2) for p, r in enumerate(sorted(relevance, reverse=True)[:k]))
    return [
        1 / rank,
        *(float(rank <= k) for k in (1, 5, 10)),
        float(rank),
        gain / best if k else math.nan,
    ]


def orders(scores):
    """Every order of the candidates that the scores allow."""
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            yield list(order)


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def as_list(found):
    return [found[name] for name in (*SPARSE, "ndcg")]


def shares(*shape, seed=0):
    """Relevances as of five people, most of them 0, never all of a row."""
    table = whole(6, *shape, seed=seed) * (whole(3, *shape, seed=seed + 1) == 0) / 5
    table[:, 0] += 0.2
    return table.double()


@pytest.mark.parametrize("seed", range(5))
def test_metrics_without_ties_equal_a_loop(seed):
    scores, answer = normal(30, 20, seed=seed), whole(20, 30, seed=seed)
    relevance = shares(30, 20, seed=seed)
    want = mean(
        [
            metrics_of_order(
                sorted(range(20), key=lambda c, row=row: -row[c]), int(a), gains.tolist()
            )
            for row, a, gains in zip(scores.tolist(), answer, relevance, strict=True)
        ]
    )
    found = dialogue_ranking_metrics(
        scores, answer, relevance=relevance, dialogue=torch.arange(30), bootstrap=0
    )
    assert as_list(found) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_ties_count_as_the_mean_over_all_orders(seed):
    scores, answer = whole(3, 1, 6, seed=seed).double(), whole(6, 1, seed=seed)
    relevance = shares(1, 6, seed=seed)
    every = [
        metrics_of_order(order, int(answer), relevance[0].tolist())
        for order in orders(scores[0].tolist())
    ]
    found = dialogue_ranking_metrics(
        scores, answer, relevance=relevance, dialogue=torch.zeros(1).long(), bootstrap=0
    )
    assert as_list(found) == pytest.approx(mean(every), abs=1e-12)


def test_constant_scores_are_at_chance():
    found = dialogue_ranking_metrics(
        torch.zeros(7, 100),
        whole(100, 7),
        relevance=torch.full((7, 100), 0.4),
        dialogue=torch.arange(7),
        bootstrap=0,
    )
    assert found["recall@1"] == pytest.approx(0.01)
    assert found["recall@10"] == pytest.approx(0.1)
    assert found["mean_rank"] == pytest.approx(50.5)
    assert found["mrr"] == pytest.approx(sum(1 / k for k in range(1, 101)) / 100)
    assert found["ndcg"] == pytest.approx(1)  # every candidate is as relevant as any other


def test_ndcg_is_cut_off_at_the_number_of_relevant_candidates():
    relevance = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])  # ranks 2 and 3 are relevant, k is 2
    found = dialogue_ranking_metrics(
        scores, torch.tensor([1]), relevance=relevance, dialogue=torch.tensor([0]), bootstrap=0
    )
    assert found["ndcg"] == pytest.approx((1 / math.log2(3)) / (1 + 0.5 / math.log2(3)))
    assert found["mrr"] == 0.5


def test_better_scores_for_relevant_candidates_raise_ndcg_and_may_lower_mrr():
    answer, dialogue = torch.tensor([0]), torch.tensor([0])
    relevance = torch.tensor([[0.2, 1.0, 1.0, 0.0]])
    given = torch.tensor([[4.0, 1.0, 1.5, 2.0]])
    accepted = torch.tensor([[2.0, 4.0, 3.0, 1.0]])
    a, b = (
        dialogue_ranking_metrics(s, answer, relevance=relevance, dialogue=dialogue, bootstrap=0)
        for s in (given, accepted)
    )
    assert a["mrr"] > b["mrr"]
    assert a["ndcg"] < b["ndcg"]


def test_masked_candidates_are_as_if_deleted():
    scores, relevance = normal(12, 9), shares(12, 9)
    mask = torch.arange(9) < 6
    answer, dialogue = whole(6, 12), torch.arange(12) // 3
    there = dialogue_ranking_metrics(
        scores, answer, relevance=relevance, dialogue=dialogue, mask=mask.expand(12, 9)
    )
    deleted = dialogue_ranking_metrics(
        scores[:, :6], answer, relevance=relevance[:, :6], dialogue=dialogue
    )
    assert there == deleted
    dirty = scores.masked_fill(~mask, math.nan)
    assert there == dialogue_ranking_metrics(
        dirty,
        answer,
        relevance=relevance.masked_fill(~mask, math.nan),
        dialogue=dialogue,
        mask=mask.expand(12, 9),
    )


def test_rounds_without_relevance_or_answer_count_where_they_can():
    scores, answer, relevance = normal(10, 8), whole(8, 10), shares(10, 8)
    answer[0] = -1
    relevance[1:6] = math.nan
    relevance[6] = 0
    dialogue = torch.arange(10)
    found = dialogue_ranking_metrics(
        scores, answer, relevance=relevance, dialogue=dialogue, bootstrap=0
    )
    assert (found.rounds, found.rounds_with_relevance) == (9, 4)
    rated = torch.tensor([0, 7, 8, 9])
    part = dialogue_ranking_metrics(
        scores[rated], answer[rated], relevance=relevance[rated], dialogue=rated, bootstrap=0
    )
    assert found["ndcg"] == pytest.approx(part["ndcg"])
    known = dialogue_ranking_metrics(
        scores[1:], answer[1:], relevance=None, dialogue=dialogue[1:], bootstrap=0
    )
    assert found["mrr"] == pytest.approx(known["mrr"])
    assert math.isnan(known["ndcg"])


def test_order_of_rounds_and_of_candidates_does_not_matter():
    scores, answer, relevance = normal(10, 8), whole(8, 10), shares(10, 8)
    rows, columns = torch.randperm(10), torch.randperm(8)
    place = columns.argsort()
    dialogue = torch.arange(10)
    there = dialogue_ranking_metrics(
        scores, answer, relevance=relevance, dialogue=dialogue, bootstrap=0
    )
    back = dialogue_ranking_metrics(
        scores[rows][:, columns],
        place[answer[rows]],
        relevance=relevance[rows][:, columns],
        dialogue=dialogue,
        bootstrap=0,
    )
    assert as_list(there) == pytest.approx(as_list(back), abs=1e-12)


def test_each_round_has_its_own_metrics():
    scores, answer, relevance = normal(12, 8), whole(8, 12), shares(12, 8)
    number, dialogue = torch.arange(12) % 3 + 1, torch.arange(12) // 3
    found = dialogue_ranking_metrics(
        scores, answer, relevance=relevance, dialogue=dialogue, number=number, bootstrap=0
    )
    assert sorted(found.by_round) == [1, 2, 3]
    for name in (*SPARSE, "ndcg"):
        each = [found.by_round[n][name].value for n in (1, 2, 3)]
        assert sum(each) / 3 == pytest.approx(found[name])
    second = dialogue_ranking_metrics(
        scores[1::3], answer[1::3], relevance=relevance[1::3], dialogue=dialogue[1::3], bootstrap=0
    )
    assert found.by_round[2] == second.metrics
    assert found.to_dict()["round 2/mrr"] == second["mrr"]


def test_the_bootstrap_resamples_whole_dialogues():
    scores, answer, relevance = normal(200, 20), whole(20, 200), shares(200, 20)
    copied = torch.arange(200).repeat_interleave(5)  # five equal rounds per dialogue
    once, often = (
        dialogue_ranking_metrics(scores[r], answer[r], relevance=relevance[r], dialogue=r).metrics
        for r in (torch.arange(200), copied)
    )
    for name in (*SPARSE, "ndcg"):
        assert once[name].low < once[name].value < once[name].high
        assert tuple(once[name]) == pytest.approx(tuple(often[name]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": torch.tensor([0, 4])}, "round 1: its answer, 4, is not a candidate"),
        ({"mask": torch.tensor([[False, True, True]] * 2)}, "round 0: its answer, 0"),
        ({"scores": torch.tensor([[0.0, math.nan, 1.0]] * 2)}, "not finite"),
        ({"relevance": torch.zeros(2, 4)}, r"relevance must be \(2, 3\), got \(2, 4\)"),
        ({"relevance": -torch.ones(2, 3)}, "must not be negative"),
        ({"dialogue": torch.zeros(3).long()}, r"dialogue must be \(2,\), got \(3,\)"),
        ({"scores": torch.zeros(0, 3)}, "rounds, candidates"),
    ],
)
def test_bad_input_is_refused(changes, message):
    given = {
        "scores": torch.zeros(2, 3),
        "answer": torch.tensor([0, 1]),
        "relevance": None,
        "dialogue": torch.arange(2),
    } | changes
    with pytest.raises(ValueError, match=message):
        dialogue_ranking_metrics(given.pop("scores"), given.pop("answer"), **given)
