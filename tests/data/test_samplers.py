"""The order of a run is a function of the seed alone."""

from itertools import pairwise

import numpy as np
import pytest

from amodal.data.record import DataError
from amodal.data.samplers import BalancedSampler, RunSampler


def flat(batches):
    return [draw for batch in batches for draw in batch]


def test_every_epoch_reads_every_row_once_but_for_the_incomplete_batch():
    sampler = RunSampler(23, batch_size=5, epochs=3, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 12
    for epoch in range(3):
        rows = [d.row for d in flat(batches) if d.epoch == epoch]
        assert len(rows) == len(set(rows)) == 20


def test_epochs_differ_from_each_other_and_seeds_do_too():
    sampler = RunSampler(50, batch_size=10, epochs=2, seed=1)
    assert list(sampler.permutation(0)) != list(sampler.permutation(1))
    other = RunSampler(50, batch_size=10, epochs=2, seed=2)
    assert list(sampler.permutation(0)) != list(other.permutation(0))


def test_processes_share_each_batch_without_overlap():
    whole = list(RunSampler(40, batch_size=8, epochs=2, seed=3))
    parts = [
        list(RunSampler(40, batch_size=8, epochs=2, seed=3, rank=r, world_size=2)) for r in (0, 1)
    ]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_half_an_epoch_is_half_the_steps():
    assert len(RunSampler(100, batch_size=10, epochs=0.5, seed=0)) == 5


def test_a_batch_larger_than_the_source_becomes_the_source():
    (batch,) = RunSampler(6, batch_size=64, epochs=1, seed=0)
    assert sorted(d.row for d in batch) == list(range(6))


def test_one_row_is_refused():
    with pytest.raises(DataError, match="at least 2"):
        RunSampler(1, batch_size=4, epochs=1, seed=0)


@pytest.mark.parametrize(("batch_size", "sizes"), [(10, (4, 3, 3)), (2, (1, 1, 0))])
def test_processes_share_a_batch_that_they_do_not_divide(batch_size, sizes):
    options = {"batch_size": batch_size, "epochs": 2, "seed": 3}
    whole = list(RunSampler(43, **options))
    parts = [list(RunSampler(43, **options, rank=r, world_size=3)) for r in range(3)]
    assert {tuple(len(part) for part in step) for step in zip(*parts, strict=True)} == {sizes}
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == whole


def test_processes_see_the_batches_of_one_where_the_source_is_smaller_than_a_batch():
    parts = [RunSampler(7, batch_size=64, epochs=1, seed=0, rank=r, world_size=2) for r in (0, 1)]
    assert [part.batch_size for part in parts] == [7, 7]


def groups_of(*sizes):
    ends = np.cumsum([0, *sizes])
    return [np.arange(a, b) for a, b in pairwise(ends)]


def balanced(*sizes, balance=0.0, batch_size=10, epochs=3, **options):
    options = {"batch_size": batch_size, "epochs": epochs, "seed": 1, **options}
    return BalancedSampler(groups_of(*sizes), balance=balance, **options)


@pytest.mark.parametrize(
    ("sizes", "balance", "counts"),
    [
        ((90, 10), 1.0, (9, 1)),
        ((90, 10), 0.0, (5, 5)),
        ((800, 50), 0.5, (8, 2)),
        ((97, 2, 1), 0.0, (7, 2, 1)),  # no row twice in a batch
        ((900, 1), 1.0, (9, 1)),  # at least one of each
    ],
)
def test_every_batch_has_the_same_share_of_every_group(sizes, balance, counts):
    groups = groups_of(*sizes)
    for batch in balanced(*sizes, balance=balance):
        rows = [index.row for index in batch]
        assert len(set(rows)) == 10
        assert tuple(len(np.intersect1d(rows, group)) for group in groups) == counts


def test_a_pass_reads_every_row_of_its_group_once():
    draws = flat(balanced(80, 10, epochs=4))
    assert len(balanced(80, 10, epochs=4)) == 36
    for group in groups_of(80, 10):
        own = [(d.epoch, d.row) for d in draws if d.row in group]
        assert len(own) == len(set(own)) == 36 * 5
        first = [row for epoch, row in own if epoch == 0]
        assert sorted(first) == group.tolist()


def test_balanced_batches_are_a_function_of_the_seed_and_shared_by_processes():
    whole = list(balanced(30, 12))
    assert whole == list(balanced(30, 12))
    assert whole != list(balanced(30, 12, seed=2))
    parts = [list(balanced(30, 12, rank=r, world_size=3)) for r in range(3)]
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == whole
    local = [index.row < 30 for batch in parts[0] for index in batch]
    assert 0 < sum(local) < len(local)  # not all of one group on one process


def test_batches_smaller_than_the_number_of_groups_are_full():
    (first, *_) = balanced(5, 5, 5, batch_size=2)
    assert len(first) == 2
