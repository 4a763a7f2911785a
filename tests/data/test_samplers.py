"""The order of a run is a function of the seed alone."""

import pytest

from amodal.data.record import DataError
from amodal.data.samplers import RunSampler


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
