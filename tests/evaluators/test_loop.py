"""The loop of the evaluators: every row once, broken rows listed, the mode restored."""

import pytest
import torch
from torch import nn

from amodal.data.collate import Collator
from amodal.data.record import BrokenRecordError
from amodal.evaluators.loop import (
    EvaluationBatches,
    NumberedSource,
    evaluation_batches,
    row_numbers,
)


class Records:
    """Ten records of two ids, of which some rows are broken."""

    name, inputs = "records", frozenset()

    def __init__(self, broken=()):
        self.broken = broken

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenRecordError(f"row {index}", "torn")
        return {"id": str(index % 2), "origin": f"row {index}"}


class Model(nn.Module):
    """A model without inputs."""


def batches(source, **options):
    return EvaluationBatches(source, Collator({}), **options)


def test_every_row_is_read_once_and_progress_counts_items():
    done = []
    reading = batches(NumberedSource(Records()), batch_size=4, tick=done.append)
    rows = [row for batch in reading for row in row_numbers(batch, reading.rows).tolist()]
    assert rows == list(range(10))
    assert done == [4, 8, 10]


def test_rows_of_equal_ids_are_told_apart_and_broken_ones_are_listed_once():
    reading = batches(
        NumberedSource(Records(broken=(1, 4, 5))), items=[1, 2, 4, 5, 9], batch_size=2
    )
    for _ in range(2):  # a second pass starts anew
        rows = [row for batch in reading for row in row_numbers(batch, reading.rows).tolist()]
        assert rows == [2, 9]
        assert [error.origin for error in reading.broken] == ["row 1", "row 4", "row 5"]


def test_a_batch_without_usable_rows_is_left_out_and_still_counts_as_progress():
    done = []
    reading = batches(Records(broken=range(4)), batch_size=4, tick=done.append)
    assert [len(batch) for batch in reading] == [4, 2]
    assert done == [4, 8, 10]


def test_a_source_without_usable_rows_names_the_first_broken_one():
    reading = batches(Records(broken=range(10)))
    assert list(reading) == []
    assert "records: none of 10 records can be used; the first: row 0: torn" in str(
        reading.nothing_usable()
    )


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_restored_even_after_an_error(mode):
    model = Model().train(mode)

    def evaluate():
        with evaluation_batches(model, Records(), Collator({})) as reading:
            for _ in reading:
                assert not model.training
                assert torch.is_inference_mode_enabled()
                raise KeyError

    with pytest.raises(KeyError):
        evaluate()
    assert model.training is mode
    assert not torch.is_inference_mode_enabled()
