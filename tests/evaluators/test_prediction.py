"""What one prediction for every item gets, beside which the metrics of a model stand."""

import pytest
import torch

from amodal.evaluators.prediction import constant_metrics
from amodal.models.target import TargetConfig


def test_the_most_frequent_class_is_as_accurate_as_its_share():
    config = TargetConfig(column="kind", task="classification", classes=("a", "b", "c"))
    found = constant_metrics(torch.tensor([0, 2, 2, 1, -1, 2]), config)
    assert found == {"constant/prediction/accuracy": pytest.approx(3 / 5)}


def test_the_mean_has_the_mean_deviation_as_its_error():
    config = TargetConfig(column="price", task="regression")
    found = constant_metrics(torch.tensor([1.0, 2.0, 6.0, float("nan")]), config)
    assert found == {"constant/prediction/mae": pytest.approx(2.0)}


def test_equal_scores_have_the_share_of_each_class_as_their_precision():
    config = TargetConfig(column="tags", task="multi_label", classes=("a", "b"))
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = constant_metrics(target, config)
    assert found == {"constant/prediction/mean_average_precision": pytest.approx(0.5)}
