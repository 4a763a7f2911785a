"""Multiple choice: the most likely candidate counts, equal ones by their mean."""

import pytest
import torch

from amodal.data.conversation import Turn
from amodal.evaluators.generated_text import GeneratedText, GenerationResult
from amodal.evaluators.generation_metrics import generation_metrics


def generated(scores, **more):
    people = ["red"] * 8 + ["blue"] * 2
    record = {
        "origin": "here",
        "question": ["what colour?"],
        "answer": ["red"],
        "answers": people,
        **more,
    }
    prompt = (Turn("question", "what colour?", False), Turn("answer", "", True))
    texts = [GeneratedText(0, 0, prompt, "red")]
    return GenerationResult("vqa", texts, {0: record}, scores)


def test_the_most_likely_choice_is_measured_by_the_official_accuracy():
    choices = ["red", "blue", "4"]
    found = generation_metrics(
        generated({0: {0: torch.tensor([-3.0, -1.0, -2.0])}}, multiple_choices=choices), bootstrap=0
    )
    assert found["vqa/multiple_choice/exact_match"] == 0
    assert found["vqa/multiple_choice/accuracy"] == pytest.approx(0.6)
    assert found["vqa/multiple_choice/questions"] == 1


def test_equal_choices_count_by_their_mean_in_any_order():
    scores = torch.tensor([-1.0, -2.0, -1.0])
    for choices, order in ((["red", "4", "blue"], [0, 1, 2]), (["4", "blue", "red"], [1, 0, 2])):
        found = generation_metrics(
            generated({0: {0: scores[order]}}, multiple_choices=choices), bootstrap=0
        )
        assert found["vqa/multiple_choice/exact_match"] == 0.5
        assert found["vqa/multiple_choice/accuracy"] == pytest.approx(0.8)


def test_without_choices_there_are_no_metrics_of_multiple_choice():
    assert not any("multiple_choice" in n for n in generation_metrics(generated({}), bootstrap=0))


def test_questions_of_one_image_may_have_choices_or_none():
    record = {
        "question": ["what colour?", "how many?"],
        "answer": ["red", "2"],
        "answers": [["red"] * 10, ["2"] * 10],
        "multiple_choices": [None, ["2", "3"]],
    }
    found = generation_metrics(
        generated({0: {1: torch.tensor([0.0, -1.0])}}, **record), bootstrap=0
    )
    assert found["vqa/multiple_choice/exact_match"] == 1
    assert found["vqa/multiple_choice/questions"] == 1


@pytest.mark.parametrize("task", ["dialogue", "single_turn"])
def test_the_most_likely_candidate_counts_by_its_relevance(task):
    rounds = [
        {
            "question": "is there a star?",
            "answer": "yes",
            "candidates": ["yes", "yes, there is", "no", "nope"],
            "relevance": [1.0, 1.0, 0.0, 0.0],
            "history_dependent": False,
        },
        {
            "question": "what is its colour?",
            "answer": "red",
            "candidates": ["blue", "red", "it is red", "crimson"],
            "relevance": [0.0, 1.0, 1.0, 0.5],
            "history_dependent": True,
        },
    ]
    texts = []
    for number in range(2):
        before = [
            turn
            for one in rounds[: number if task == "dialogue" else 0]
            for turn in (
                Turn("question", one["question"], False),
                Turn("answer", one["answer"], True),
            )
        ]
        asked = (Turn("question", rounds[number]["question"], False), Turn("answer", "", True))
        conversation = number if task == "single_turn" else 0
        texts.append(GeneratedText(0, conversation, (*before, *asked), "whatever"))
    scores = {0: torch.tensor([-3.0, -1.0, -2.0, -4.0]), 1: torch.tensor([-2.0, -3, -3, -2])}

    def metrics():
        records = {0: {"origin": "here", "dialog": rounds}}
        return generation_metrics(GenerationResult(task, texts, records, {0: scores}), bootstrap=0)

    found = metrics()
    assert found[f"{task}/exact_match"] == 0
    assert found[f"{task}/relevance@1"] == pytest.approx((1 + 0.25) / 2)
    assert found[f"{task}/relevance@1/history_dependent"] == pytest.approx(0.25)  # two are equal
    del rounds[0]["relevance"]
    assert f"{task}/relevance@1" not in metrics()


def test_the_constant_is_the_most_frequent_answer_for_every_question():
    records = {
        row: {"origin": "here", "question": ["what?"], "answer": [answer], "answers": answers}
        for row, (answer, answers) in enumerate(
            [("Red", ["red"] * 10), ("red", ["red"] * 9 + ["blue"]), ("blue", ["blue"] * 10)]
        )
    }
    prompt = (Turn("question", "what?", False), Turn("answer", "", True))
    texts = [GeneratedText(row, 0, prompt, "blue") for row in records]
    found = generation_metrics(GenerationResult("vqa", texts, records, {}), bootstrap=0)
    assert found["vqa/exact_match"] == pytest.approx(1 / 3)
    assert found["constant/vqa/exact_match"] == pytest.approx(2 / 3)
    assert found["constant/vqa/accuracy"] == pytest.approx(2 / 3)


def test_the_constant_caption_is_one_of_the_references():
    records = {row: {"text": [f"a red star {row}"]} for row in range(3)} | {3: {"text": ["rings"]}}
    texts = [GeneratedText(row, 0, (), records[row]["text"][0]) for row in records]
    found = generation_metrics(GenerationResult("caption", texts, records, {}), bootstrap=0)
    assert found["caption/cider_d"] > found["constant/caption/cider_d"] > 0
