"""Sentences on metrics name chance for the gallery, and no factor that the interval denies."""

import pytest

from amodal.evaluators.interpretation import interpret, recall_by_chance
from amodal.evaluators.keyword_search import keyword_search_metrics

NAME = "retrieval/text_to_image/recall@1"


def metrics(value=0.2, low=0.18, high=0.22, gallery=1000, queries=1000, **more):
    return {
        NAME: value,
        f"{NAME}/low": low,
        f"{NAME}/high": high,
        "retrieval/text_to_image/recall@10": 0.6,
        "retrieval/text_to_image/gallery": gallery,
        "retrieval/text_to_image/queries": queries,
        **more,
    }


def test_recall_by_chance_is_that_of_a_random_order():
    values = {"a/queries": 50, "a/gallery": 10}
    assert recall_by_chance("a", 1, values) == pytest.approx(0.1)
    assert recall_by_chance("a", 10, values) == pytest.approx(1)
    five = {"a/queries": 100, "a/gallery": 500}  # five positives each
    assert recall_by_chance("a", 2, five) == pytest.approx(1 - 495 / 500 * 494 / 499)
    assert recall_by_chance("a", 1, {}) is None


def test_a_factor_over_chance_needs_the_interval_above_chance():
    assert "200 times chance (0.1 %)" in interpret(metrics())[0]
    (sure,) = interpret(metrics(0.02, 0.001, 0.06, gallery=200, queries=200))
    assert "times chance" not in sure
    assert "not distinguishable from chance (0.5 %)" in sure
    assert "one of the best 10 is correct for 60.0 %" in sure


def test_a_handful_of_queries_is_called_too_few():
    few = interpret(metrics(1.0, 1.0, 1.0, gallery=3, queries=3))[0]
    assert few.endswith("; 3 queries are too few to rely on.")
    assert "too few" not in interpret(metrics(queries=20, gallery=20))[0]


def test_the_start_and_the_keyword_search_are_compared_by_the_interval():
    start, words = f"start/{NAME}", "keyword_search/text/recall@1"
    (text,) = interpret(metrics(**{start: 0.1, words: 0.35}))
    assert "better than the pretrained weights before training (10.0 %)" in text
    assert "worse than a keyword search in another caption of each item (35.0 %)" in text
    assert "not distinguishable from the pretrained" in interpret(metrics(**{start: 0.19}))[0]
    # A search from images is not compared with one for captions.
    other = {n.replace("text_to_image", "image_to_text"): v for n, v in metrics().items()}
    assert "keyword" not in interpret({**other, words: 0.35})[0]


def test_zero_shot_accuracy_is_set_beside_one_of_its_classes():
    name = "zero_shot/top1"
    found = interpret({name: 0.5, f"{name}/low": 0.4, f"{name}/high": 0.6, "zero_shot/classes": 10})
    assert found == [
        "the best of 10 classes is correct for 50.0 % (95 % interval 40.0 … 60.0 %) of the items, "
        "5.0 times chance (10.0 %)."
    ]


def test_predictions_are_set_beside_a_constant_and_each_input_alone():
    name = "prediction/accuracy"
    values = {name: 0.9, f"{name}/low": 0.85, f"{name}/high": 0.95, f"constant/{name}": 0.4}
    single = {"prediction/image_only/accuracy": 0.7, "prediction/text_only/accuracy": 0.88}
    assert interpret(values | single) == [
        "the prediction is correct for 90.0 % (95 % interval 85.0 … 95.0 %) of the items; that is "
        "better than always predicting the most frequent class (40.0 %) and image alone, where an "
        "item has it (70.0 %); that is not distinguishable from text alone, where an item has it "
        "(88.0 %)."
    ]
    assert interpret({name: 0.9}) == []  # nothing to compare with


@pytest.mark.parametrize(
    ("constant", "verdict"), [(20.0, "better than"), (5.0, "worse than"), (11.0, "distinguishable")]
)
def test_a_smaller_error_is_better(constant, verdict):
    name = "prediction/mae"
    values = {name: 10.0, f"{name}/low": 9.0, f"{name}/high": 12.0, f"constant/{name}": constant}
    (text,) = interpret(values)
    assert text.startswith("the mean absolute error is 10 (95 % interval 9 … 12)")
    assert f"{verdict}" in text
    assert f"always predicting the mean ({constant:.4g})" in text


def test_generated_texts_are_set_beside_one_text_for_all():
    name = "caption/cider_d"
    values = {name: 0.24, f"{name}/low": 0.22, f"{name}/high": 0.26, f"constant/{name}": 0.14}
    assert "better than the best caption for all images alike (0.14)" in interpret(values)[0]
    (text,) = interpret({"vqa/exact_match": 0.5, "constant/vqa/exact_match": 0.3})
    assert text.endswith("50.0 % of the questions; compare with always giving the most frequent "
                         "answer (30.0 %).")  # fmt: skip


def test_metrics_without_a_reference_have_no_sentence():
    assert interpret({"geometry/uniformity": -2.0}) == []


class Captions:
    name, inputs = "captions", frozenset({"text"})

    def __init__(self, *texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, row):
        return {"id": str(row), "origin": str(row), "text": list(self.texts[row])}


def test_a_keyword_search_finds_captions_that_share_rare_words():
    source = Captions(
        ("a dog runs", "the dog runs"), ("a cat sleeps", "the cat"), ("a bird", "the bird flies")
    )
    found = keyword_search_metrics(source, ["text"], range(3))
    assert found["keyword_search/text/recall@1"] == 1.0
    swapped = Captions(("red", "blue"), ("blue", "red"))
    assert keyword_search_metrics(swapped, ["text"], range(2))["keyword_search/text/recall@1"] == 0
    unrelated = Captions(("red", "one"), ("blue", "two"))  # nothing in common: a random order
    found = keyword_search_metrics(unrelated, ["text"], range(2))
    assert found["keyword_search/text/recall@1"] == pytest.approx(0.5)


def test_items_with_one_caption_have_no_keyword_search():
    assert keyword_search_metrics(Captions(("red",), ("blue",)), ["text"], range(2)) == {}
