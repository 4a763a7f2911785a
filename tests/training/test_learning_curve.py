"""Nested parts of the training items, each a run, and the curve through them."""

import json

import pytest

from amodal.metrics.bootstrap import Estimate
from amodal.training.errors import RunError
from amodal.training.learning_curve import CURVE, LearningCurve, trace_learning_curve
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.sources import open_sources

TEXT = {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2}
METRIC = "retrieval/image_to_text/recall@1"


def recipe(**data):
    values = {
        "data": {
            "train": {"kind": "scenes", "size": 24, "image_size": 32},
            "validation": {"kind": "scenes", "size": 20, "split": "validation", "image_size": 32},
            **data,
        },
        "model": {
            "encoders": {
                "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                "text": TEXT,
            }
        },
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
    }
    return parse_recipe(values, "test")


def test_smaller_shares_are_parts_of_larger_ones():
    ids = {}
    for share in (0.25, 0.5, 1.0):
        train, validation = open_sources(recipe(train_share=share))
        ids[share] = {train[i]["id"] for i in range(len(train))}
        assert len(validation) == 20
    assert [len(found) for found in ids.values()] == [6, 12, 24]
    assert ids[0.25] < ids[0.5] < ids[1.0]


def test_every_part_is_a_run_and_a_finished_one_is_not_trained_again(tmp_path):
    curve = trace_learning_curve(recipe(), tmp_path, shares=(1.0, 0.5))
    assert (curve.metric, curve.items) == (METRIC, (12, 24))
    metrics = [
        json.loads((tmp_path / name / "metrics.json").read_text())
        for name in ("50-percent", "100-percent")
    ]
    assert [m[METRIC] for m in metrics] == [score.value for score in curve.scores]
    assert [p["items"] for p in json.loads((tmp_path / CURVE).read_text())["points"]] == [12, 24]
    weights = tmp_path / "50-percent" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = trace_learning_curve(recipe(), tmp_path, shares=(0.5, 1.0))
    assert (again, weights.stat().st_mtime_ns) == (curve, before)
    with pytest.raises(RunError, match=r"has no metric accuracy; it has retrieval"):
        trace_learning_curve(recipe(), tmp_path, shares=(0.5, 1.0), metric="accuracy")


def test_a_curve_needs_held_out_data(tmp_path):
    with pytest.raises(RecipeError, match="held-out"):
        trace_learning_curve(recipe(validation=None, holdout=0), tmp_path)


def test_the_sentences_extrapolate_only_what_the_intervals_show():
    rising = LearningCurve("r", (100, 200), (Estimate(0.2, 0.18, 0.22), Estimate(0.4, 0.38, 0.42)))
    first, second = rising.sentences()
    assert first == "r is 0.200 with 100 training items and 0.400 with 200"
    assert second.startswith("the power law through these points gives 0.550 (95 % interval 0.5")
    flat = LearningCurve("r", (100, 200), (Estimate(0.2, 0.1, 0.3), Estimate(0.22, 0.12, 0.32)))
    assert "does not grow" in flat.sentences()[1]
