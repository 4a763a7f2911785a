"""Retrieval against enumeration of every tie, scikit-learn, and what chance must score."""

import math
import subprocess
import sys
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from amodal.metrics.retrieval import (
    NAMES,
    cross_modal_retrieval,
    image_text_retrieval,
    retrieval_metrics,
)

PER_ORDER = [name for name in NAMES if name != "median_rank"]


def measures_of_order(relevant, gains, ideal):
    """Figures of one ranking without ties: `relevant` and `gains` in ranked order."""
    ranks = [i + 1 for i, r in enumerate(relevant) if r]
    return {
        **{f"recall@{k}": float(ranks[0] <= k) for k in (1, 5, 10)},
        "mean_rank": ranks[0],
        "mrr": 1 / ranks[0],
        "map": sum((i + 1) / r for i, r in enumerate(ranks)) / len(ranks),
        "ndcg@10": sum(g / math.log2(i + 2) for i, g in enumerate(gains[:10])) / ideal,
    }


def by_enumeration(scores, relevant, gains):
    """Mean over every order of the gallery that sorts the scores."""
    orders = [
        order
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    best = sorted(gains, reverse=True)[:10]
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(best))
    all_metrics = [
        measures_of_order([relevant[j] for j in order], [gains[j] for j in order], ideal)
        for order in orders
    ]
    return {name: np.mean([f[name] for f in all_metrics]) for name in all_metrics[0]}


def with_scores(scores):
    """Query and gallery embeddings whose inner products are exactly the given (Q, G) numbers."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return torch.eye(len(scores)), scores.T.contiguous()


@pytest.mark.parametrize("seed", range(12))
def test_every_figure_is_the_mean_over_all_orders_of_ties(seed):
    rng = np.random.default_rng(seed)
    queries, size = 4, 7
    scores = rng.integers(0, 3, (queries, size))  # three levels: many ties
    gallery_item = torch.tensor(rng.integers(0, 3, size))
    query_item = gallery_item[torch.tensor(rng.integers(0, size, queries))]
    gains = rng.integers(0, 4, (queries, size)).astype(float)
    gains[:, 0] += 1
    got = retrieval_metrics(*with_scores(scores), query_item, gallery_item, bootstrap=0)
    graded = retrieval_metrics(
        *with_scores(scores),
        query_item,
        gallery_item,
        bootstrap=0,
        relevance=torch.tensor(gains),
    )
    want, want_graded = [], []
    for q in range(queries):
        relevant = (gallery_item == query_item[q]).numpy()
        want.append(by_enumeration(scores[q], relevant, relevant.astype(float)))
        want_graded.append(by_enumeration(scores[q], relevant, gains[q]))
    for name in PER_ORDER:
        assert got[name] == pytest.approx(np.mean([w[name] for w in want]), abs=1e-12), name
        assert graded[name] == pytest.approx(np.mean([w[name] for w in want_graded]), abs=1e-12), (
            name
        )
    assert got["median_rank"] == pytest.approx(np.median([w["mean_rank"] for w in want]))


@pytest.mark.parametrize("positives", [1, 3, 12])  # counted one by one, and by sorting
def test_without_ties_it_agrees_with_sorting_and_scikit_learn(positives):
    rng = np.random.default_rng(0)
    queries, size, width = 30, 20 * positives, 6
    query = torch.tensor(rng.standard_normal((queries, width)))
    gallery = torch.tensor(rng.standard_normal((size, width)))
    gallery_item = torch.arange(size) // positives
    query_item = torch.tensor(rng.integers(0, 20, queries))
    relevance = torch.tensor(rng.random((queries, size)))
    got = retrieval_metrics(
        query, gallery, query_item, gallery_item, bootstrap=0, relevance=relevance
    )
    scores = (query @ gallery.T).numpy()
    relevant = (query_item[:, None] == gallery_item[None]).numpy()
    order = np.argsort(-scores, axis=1)
    rank = np.take_along_axis(relevant, order, 1).argmax(1) + 1
    for k in (1, 5, 10):
        assert got[f"recall@{k}"] == pytest.approx((rank <= k).mean())
    assert got["median_rank"] == np.median(rank)
    assert got["mean_rank"] == pytest.approx(rank.mean())
    assert got["mrr"] == pytest.approx((1 / rank).mean())
    precision = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    assert got["map"] == pytest.approx(np.mean(precision), abs=1e-12)
    assert got["ndcg@10"] == pytest.approx(ndcg_score(relevance.numpy(), scores, k=10), abs=1e-6)
    binary = retrieval_metrics(query, gallery, query_item, gallery_item, bootstrap=0)
    assert binary["ndcg@10"] == pytest.approx(ndcg_score(relevant, scores, k=10), abs=1e-12)


@pytest.mark.parametrize(("size", "positives"), [(20, 1), (30, 5), (1000, 1), (1003, 17)])
def test_a_constant_embedding_scores_exactly_chance(size, positives):
    size -= size % positives
    z = torch.nn.functional.normalize(torch.randn(1, 37, generator=torch.manual_seed(0)), dim=1)
    item = torch.arange(size) // positives
    result = retrieval_metrics(z.expand(size, 37), z.expand(size, 37), item, item, bootstrap=0)
    for k in (1, 5, 10):
        chance = 1 - math.comb(size - positives, k) / math.comb(size, k)
        assert result[f"recall@{k}"] == pytest.approx(chance, rel=1e-12)
    assert result["mean_rank"] == pytest.approx((size + 1) / (positives + 1))
    assert result["median_rank"] == pytest.approx((size + 1) / (positives + 1))


def test_equal_gallery_rows_tie_wherever_they_stand():
    # A matrix product may round equal columns differently; the metrics must not notice.
    g = torch.Generator().manual_seed(3)
    query = torch.randn(257, 96, generator=g)
    gallery = torch.randn(1, 96, generator=g).repeat(1031, 1)
    gallery[500:] = torch.randn(1, 96, generator=g)
    item = torch.arange(1031)
    result = retrieval_metrics(query, gallery, item[:257], item, bootstrap=0)
    expected = []
    for q in query.double():
        first_half_wins = q @ gallery[0].double() > q @ gallery[-1].double()
        expected.append((1 + 500) / 2 if first_half_wins else 531 + (1 + 500) / 2)
    assert result["mean_rank"] == pytest.approx(np.mean(expected), rel=1e-12)


def test_chunks_folds_of_one_and_order_of_rows_change_nothing():
    g = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(40, 8, generator=g), torch.randn(120, 8, generator=g)
    query_item, gallery_item = torch.arange(40), torch.arange(120) // 3
    base = retrieval_metrics(query, gallery, query_item, gallery_item, bootstrap=0)
    chunked = retrieval_metrics(query, gallery, query_item, gallery_item, bootstrap=0, chunk=7)
    order = torch.randperm(120, generator=g)
    mixed = retrieval_metrics(query, gallery[order], query_item, gallery_item[order], bootstrap=0)
    for name in NAMES:
        assert base[name] == pytest.approx(chunked[name], rel=1e-12)
        assert base[name] == pytest.approx(mixed[name], rel=1e-12)


def test_folds_search_each_part_alone_and_average():
    g = torch.Generator().manual_seed(0)
    keys = torch.randperm(1000, generator=g)[:20]  # appearance, not size of the key, decides
    image, text = torch.randn(20, 8, generator=g), torch.randn(100, 8, generator=g)
    text_item = keys.repeat_interleave(5)
    got = retrieval_metrics(image, text, keys, text_item, bootstrap=10, folds=4)
    for name in NAMES:
        parts = [
            retrieval_metrics(
                image[i : i + 5],
                text[5 * i : 5 * i + 25],
                keys[i : i + 5],
                text_item[5 * i : 5 * i + 25],
                bootstrap=0,
            )[name]
            for i in range(0, 20, 5)
        ]
        assert got[name] == pytest.approx(np.mean(parts))
        assert got.metrics[name].low <= got[name] <= got.metrics[name].high
    assert got.gallery == 25
    with pytest.raises(ValueError, match="21 folds"):
        retrieval_metrics(image, text, keys, text_item, folds=21)


def test_gains_go_with_their_rows_through_folds_and_chunks():
    g = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(12, 5, generator=g), torch.randn(12, 5, generator=g)
    item, relevance = torch.arange(12) % 6, torch.rand(12, 12, generator=g)
    got = retrieval_metrics(
        query, gallery, item, item, relevance=relevance, bootstrap=0, folds=2, chunk=4
    )
    parts = []
    for rows in (item < 3, item >= 3):
        scores = (query[rows] @ gallery[rows].T).numpy()
        parts.append(ndcg_score(relevance[rows][:, rows].numpy(), scores, k=10))
    assert got["ndcg@10"] == pytest.approx(np.mean(parts), abs=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # recall@1 of 80 independent queries with success rate 0.6; 300 repetitions. The percentile
    # interval covers about 94 %; four standard errors (1.4 points each) below that is 88 %.
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        hit = torch.tensor(rng.random(80) < 0.6)
        scores = torch.zeros(80, 2)
        scores[:, 1] = torch.where(hit, -1.0, 1.0)
        result = retrieval_metrics(
            *with_scores(scores), torch.zeros(80), torch.tensor([0, 1]), bootstrap=0
        )
        assert result["recall@1"] == pytest.approx(hit.double().mean().item())
        interval = _interval_of(hit.double(), torch.arange(80), seed)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.88 <= covered / 300 <= 0.98


def _interval_of(values, cluster, seed):
    from amodal.metrics.bootstrap import intervals, resampled

    generator = torch.Generator().manual_seed(seed)
    return intervals(["x"], *resampled(values[:, None], cluster, 400, generator))["x"]


def test_rows_of_one_item_are_drawn_together():
    values = torch.tensor([0.0, 1.0] * 50, dtype=torch.float64).repeat_interleave(5)
    alone = _interval_of(values, torch.arange(500), 0)
    together = _interval_of(values, torch.arange(500) // 5, 0)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(5), rel=0.15)


def test_the_median_of_resampled_rows_is_that_of_the_rows_written_out():
    from amodal.metrics.bootstrap import _statistics

    rng = np.random.default_rng(0)
    values = torch.tensor(rng.integers(1, 9, (13, 1)).astype(float))
    weight = torch.tensor(rng.integers(0, 4, (20, 13)).astype(float))
    got = _statistics(values, weight, 0, values[:, 0].argsort())[:, 0]
    want = [np.median(np.repeat(values[:, 0].numpy(), w.numpy().astype(int))) for w in weight]
    np.testing.assert_allclose(got.numpy(), want)


def test_the_same_seed_gives_the_same_intervals():
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    w = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    item = torch.arange(30)
    a = retrieval_metrics(z, w, item, item, bootstrap=50, seed=3).to_dict()
    assert a == retrieval_metrics(z, w, item, item, bootstrap=50, seed=3).to_dict()
    assert a != retrieval_metrics(z, w, item, item, bootstrap=50, seed=4).to_dict()
    without = retrieval_metrics(z, w, item, item, bootstrap=0).to_dict()
    assert not [name for name in without if name.endswith(("/low", "/high"))]
    assert all(without[name] == a[name] for name in without)


def test_queries_without_a_positive_are_counted_and_left_out():
    z = torch.eye(4)
    result = retrieval_metrics(z, z[:3], torch.arange(4), torch.arange(3), bootstrap=10)
    assert (result.queries, result.queries_without_positive) == (3, 1)
    assert result["recall@1"] == 1.0
    with pytest.raises(ValueError, match="share no key"):
        retrieval_metrics(z, z, torch.arange(4), torch.arange(4) + 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_embeddings_that_are_not_numbers_are_refused_with_their_row(bad):
    z, item = torch.eye(4), torch.arange(4)
    broken = z.clone()
    broken[2, 1] = bad
    with pytest.raises(ValueError, match=r"gallery.*row 2"):
        retrieval_metrics(z, broken, item, item)
    with pytest.raises(ValueError, match=r"query.*row 2"):
        retrieval_metrics(broken, z, item, item)


def test_shapes_that_do_not_fit_are_refused():
    z, item = torch.eye(4), torch.arange(4)
    with pytest.raises(ValueError, match="widths"):
        retrieval_metrics(z, torch.eye(3), item, item[:3])
    with pytest.raises(ValueError, match="query_item must be"):
        retrieval_metrics(z, z, item[:3], item)
    with pytest.raises(ValueError, match="relevance must be"):
        retrieval_metrics(z, z, item, item, relevance=torch.ones(4, 3))


def test_both_directions_come_as_flat_metrics():
    image, text = torch.eye(3), torch.eye(3).repeat_interleave(2, 0)
    item = torch.arange(3)
    flat = image_text_retrieval(image, text, item, item.repeat_interleave(2), bootstrap=0)
    assert flat["retrieval/text_to_image/recall@1"] == 1.0
    assert flat["retrieval/image_to_text/map"] == 1.0
    assert flat["retrieval/text_to_image/queries"] == 6
    audio = cross_modal_retrieval("audio", image, item, "video", image, item, bootstrap=20)
    assert audio["retrieval/audio_to_video/recall@1/low"] == 1.0


def test_half_precision_embeddings_are_compared_in_single():
    z = torch.nn.functional.normalize(torch.randn(50, 16, generator=torch.manual_seed(0)), dim=1)
    item = torch.arange(50)
    half = retrieval_metrics(z.bfloat16(), z.bfloat16(), item, item, bootstrap=0)
    assert half["recall@1"] == 1.0


COCO_SIZE = """
import resource, threading, time, torch
from amodal.metrics.retrieval import retrieval_metrics
torch.manual_seed(0)
image = torch.nn.functional.normalize(torch.randn(5000, 512), dim=1)
text = image.repeat_interleave(5, 0) + 2 * torch.randn(25000, 512)
text = torch.nn.functional.normalize(text, dim=1)
item = torch.arange(5000)
retrieval_metrics(image[:50], text[:250], item[:50], item[:50].repeat_interleave(5), bootstrap=10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
retrieval_metrics(text, image, item.repeat_interleave(5), item)
retrieval_metrics(image, text, item, item.repeat_interleave(5))
seconds = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024, seconds)
"""


@pytest.mark.slow
def test_coco_size_needs_less_than_200_megabytes_beside_the_embeddings():
    done = subprocess.run(
        [sys.executable, "-c", COCO_SIZE], capture_output=True, text=True, check=True
    )
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 200
    assert seconds < 120  # a few seconds on four idle cores; here for one busy core
