"""Hits with the probability that they match, a cut at a stated precision, and what is told."""

import math

import numpy as np
import pytest

from amodal.evaluators.match_threshold import MatchCalibration
from amodal.metrics.match_threshold import MatchCurve
from amodal.search.description import StoreError
from amodal.search.match import search_matches
from amodal.search.rows import Row
from amodal.search.store import VectorStore


class Text:
    max_length = 8

    def unknown_words(self, text):
        words = text.split()
        return [word for word in words if word not in ("north", "east")], len(words)

    def count_truncated(self, texts):
        return sum(len(text.split()) > self.max_length for text in texts)


class Model:
    types = {"image": "image", "text": "text"}  # noqa: RUF012
    preprocessors = {"text": Text()}  # noqa: RUF012
    dim = 2

    def encode(self, **values):
        ((_, (value,)),) = values.items()
        return np.array([(0.0, 1.0) if "north" in str(value) else (1.0, 0.0)], np.float32)


def curve(gallery=100):
    """Even odds at a score of 0.8 among 100 rows; 90 % of the hits from 0.9 on are matches."""
    return MatchCurve(
        queries=100,
        gallery=gallery,
        score=[0.5, 0.7, 0.9],
        recall=[1.0, 0.6, 0.2],
        wrong=[1.0, 0.2, 0.05],
        wrong_low=[0.9, 0.15, 0.02],
        wrong_high=[1.1, 0.3, 0.4],
        odds_score=[0.0, 1.0],
        log_odds=[-40.0, 10.0],
        no_match_score=0.75,
        no_match_growth=0.05,
    )


CALIBRATION = MatchCalibration(
    fingerprint="weights-1", source="held-out", curves={"text_to_image": curve()}
)
ANGLES = (0.0, 0.3, 0.5, 0.7, 1.2)  # radians from east


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = VectorStore.create(tmp_path_factory.mktemp("index"), 2, fingerprint="weights-1")
    vectors = [np.array([math.cos(a), math.sin(a)], np.float32) for a in ANGLES]
    items = [Row(f"image {i}", "image", z) for i, z in enumerate(vectors)]
    filler = [
        Row(f"far {i}", "image", np.array([-1.0, 0.0], np.float32), metadata={"far": True})
        for i in range(95)
    ]
    made.add([*items, *filler, Row("image 0", "text", vectors[0])])
    return made


def search(store, calibration=CALIBRATION, query=None, k=5, **options):
    return search_matches(store, Model(), calibration, query or {"text": "east"}, k, **options)


def test_every_hit_has_a_label_and_a_probability(store):
    result = search(store)
    want = [1 / (1 + math.exp(40 - 50 * math.cos(a))) for a in ANGLES]
    assert [hit.match.probability for hit in result.hits] == pytest.approx(want, abs=1e-4)
    labels = ["likely match"] * 3 + ["possible match", "weak"]
    assert [hit.match.label for hit in result.hits] == labels
    assert (result.likely_match, result.notes) == (True, [])
    assert result.hits[0].as_dict()["match"]["label"] == "likely match"


def test_a_query_without_a_match_is_called_so(store):
    result = search(store, query={"text": "north"}, where="id = 'image 3'")
    assert result.likely_match is False
    assert result.notes == [
        "no likely match among 1 rows; the best hit matches with a probability of 0.04"
    ]


def test_rows_that_a_filter_leaves_out_do_not_count_as_searched(store):
    few = search(store, where="id LIKE 'image%'").hits[2].match.probability
    odds = [p / (1 - p) for p in (search(store).hits[2].match.probability, few)]
    assert odds[1] / odds[0] == pytest.approx(100 / 5, rel=1e-3)


def test_hits_below_the_score_of_a_precision_are_left_out_and_counted(store):
    result = search(store, min_precision=0.9)
    assert [hit.id for hit in result.hits] == ["image 0", "image 1"]
    assert result.left_out == 3
    assert "hits below 0.900 are left out (95 % interval 0.900 … not reached)" in result.notes[0]
    assert "90 % of the hits are matches; 20 % of all matches score as high" in result.notes[0]


def test_a_precision_that_no_score_gives_leaves_out_every_hit(store):
    result = search(store, min_precision=0.97)
    assert (result.hits, result.left_out, result.likely_match) == ([], 5, False)
    assert "no score gives a precision of 97 % among 100 rows" in result.notes[0]
    assert "no likely match among 100 rows" in result.notes[1]


def test_without_a_calibration_nothing_is_invented(store):
    result = search(store, calibration=None)
    assert [hit.match for hit in result.hits] == [None] * 5
    assert result.likely_match is None
    assert result.notes[0].startswith("the run has no match calibration")
    with pytest.raises(StoreError, match=r"no precision .* the run has no match calibration"):
        search(store, calibration=None, min_precision=0.9)


def test_other_directions_and_combined_queries_are_not_calibrated(store):
    by_image = search(store, query={"image": "east"}, returned="text")
    alone = (
        "hits from {} to text have a score alone, without calibration: held-out has no such pairs"
    )
    assert by_image.notes == [alone.format("image")]
    combined = search(store, query={"image": "east", "text": "east"}, returned="image")
    assert "a query of several parts (image, text) are not calibrated" in combined.notes[0]
    both = search(store, returned="all", k=2)
    assert {(hit.input, hit.match is None) for hit in both.hits} == {
        ("image", False),
        ("text", True),
    }
    assert both.notes[0] == alone.format("text")


def test_unknown_words_and_a_truncated_query_are_told(store):
    notes = search(store, query={"text": "zebra xylophon"}).notes
    assert notes[0] == (
        "2 of 2 words of the text are not in the vocabulary of the run: zebra, xylophon"
    )
    long = search(store, query={"text": "east " * 9}).notes
    assert long == ["the text is truncated: the run reads 8 tokens of a text"]
