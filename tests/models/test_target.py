"""Values of the column that is predicted, as people write them."""

import pytest

from amodal.data.record import BrokenRecordError
from amodal.models.target import TargetConfig


def record(value):
    return {"id": "a", "origin": "t.csv row 1", "kind": value}


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
@pytest.mark.parametrize("task", ["classification", "multi_label", "regression"])
def test_an_empty_cell_is_no_class_and_no_number(task, value):
    assert TargetConfig(task=task, column="kind").read(record(value)) is None


def test_a_whole_number_is_the_same_class_with_and_without_a_decimal_point():
    target = TargetConfig(column="kind").fitted(map(record, [1.0, float("nan"), 0.0]))
    assert target.classes == ("0", "1")
    assert [target.read(record(value)) for value in (1, "1", "1.0")] == [("1",)] * 3


def test_several_classes_where_one_is_predicted_are_one_broken_row():
    target = TargetConfig(column="kind")
    with pytest.raises(BrokenRecordError, match=r"holds 2 classes.*multi_label"):
        target.read(record(["a", "b"]))
    fitted = target.fitted(map(record, ["a", ["a", "b"], "c"]))
    assert fitted.classes == ("a", "c")
    several = TargetConfig(task="multi_label", column="kind")
    assert several.read(record(["a", "b"])) == ("a", "b")
    assert several.read(record("a|b")) == ("a", "b")
