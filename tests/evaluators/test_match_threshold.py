"""The match calibration of a run: which pairs match, its file, and when it is made."""

import json

import pytest
import torch
import torch.nn.functional as F

from amodal.data.record import DataError
from amodal.evaluators.match_threshold import (
    FILE,
    MatchCalibration,
    calibrate_matches,
    keep_match_calibration,
)
from amodal.models.joint_embedding import Embeddings


def rows(items=120, seed=0, noise=0.2, content=None):
    generator = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(items, 8, generator=generator), dim=1)
    text = F.normalize(image + noise * torch.randn(items, 8, generator=generator), dim=1)
    item = torch.arange(items)
    return {"image": Embeddings(image, item, None), "text": Embeddings(text, item, content)}


class Model:
    def fingerprint(self):
        return "weights-1"


class Result:
    def __init__(self, found):
        self.embedded = self
        self.rows = found


def test_every_direction_between_two_inputs_is_calibrated():
    found = {**rows(), "sound": rows(seed=1)["image"]}
    calibration = calibrate_matches(found, "weights-1", "held-out")
    assert set(calibration.curves) | set(calibration.uncalibrated) == {
        f"{a}_to_{b}" for a in found for b in found if a != b
    }
    curve = calibration.curves["text_to_image"]
    assert (curve.queries, curve.gallery) == (120, 119)


def test_equal_captions_of_two_items_match_both():
    content = torch.arange(120)
    content[1] = content[0]
    calibration = calibrate_matches(rows(content=content), "weights-1", "held-out")
    # The captions of items 0 and 1 match both images, and each image both captions.
    for direction in ("text_to_image", "image_to_text"):
        curve = calibration.curves[direction]
        assert curve.gallery == pytest.approx((118 * 119 + 2 * 118) / 120)


def test_a_direction_that_cannot_be_calibrated_says_why():
    found = rows(items=12)
    calibration = calibrate_matches(found, "weights-1", "held-out")
    assert calibration.curves == {}
    assert "12 items have a match" in calibration.uncalibrated["text_to_image"]


def test_a_run_keeps_its_calibration_and_one_of_other_weights_does_not_count(tmp_path):
    said = keep_match_calibration(Result(rows()), Model(), "held-out", tmp_path)
    assert "image_to_text, text_to_image were calibrated on held-out" in said
    found = MatchCalibration.read(tmp_path, "weights-1")
    assert found.source == "held-out"
    assert MatchCalibration.read(tmp_path, "weights-2") is None
    before = (tmp_path / FILE).read_bytes()
    assert keep_match_calibration(Result(rows(seed=5)), Model(), "other", tmp_path) is None
    assert (tmp_path / FILE).read_bytes() == before


def test_a_damaged_file_is_refused_and_a_missing_one_is_none(tmp_path):
    assert MatchCalibration.read(tmp_path, "weights-1") is None
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "curves": {}}))
    with pytest.raises(DataError, match=r"cannot be read .* `amodal evaluate"):
        MatchCalibration.read(tmp_path, "weights-1")
