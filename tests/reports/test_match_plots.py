"""The plot of the match threshold marks the score from which on 90 % of the hits are correct."""

import pytest
import torch
import torch.nn.functional as F

from amodal.evaluators.match_threshold import calibrate_matches
from amodal.models.joint_embedding import Embeddings
from amodal.reports.match_plots import match_threshold_plot
from amodal.reports.plots import ON_PAPER


@pytest.fixture(scope="module")
def curve():
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(200, 16, generator=generator), dim=1)
    text = F.normalize(image + 0.2 * torch.randn(200, 16, generator=generator), dim=1)
    item = torch.arange(200)
    rows = {"image": Embeddings(image, item, None), "text": Embeddings(text, item, None)}
    return calibrate_matches(rows, "weights", "held out").curves["text_to_image"]


def test_the_threshold_is_a_point_of_the_curve_with_its_score(curve):
    plot = match_threshold_plot("text_to_image", curve, 200)
    threshold = curve.threshold(0.9, 200)
    (axes,) = plot.draw(ON_PAPER).axes
    line, point = axes.lines[1].get_xydata().tolist(), axes.lines[2].get_xydata().tolist()[0]
    assert point in line
    assert point == [100 * threshold.recall, 100 * threshold.precision]
    assert axes.texts[-1].get_text() == f"score {threshold.score:.2f}"
    assert f"from a score of {threshold.score:.2f} on" in plot.caption
    assert "text → image" in plot.caption


def test_a_precision_that_no_score_reaches_is_said_and_not_marked(curve):
    plot = match_threshold_plot("text_to_image", curve, 10**7)
    (axes,) = plot.draw(ON_PAPER).axes
    assert len(axes.lines) == 2  # the level and the curve
    assert plot.caption.endswith("No score reaches a precision of 90 %.")
