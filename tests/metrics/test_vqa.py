"""VQA accuracy against closed forms and a scorer written differently, character by character."""

import random

import pytest
import torch

from amodal.metrics.vqa import (
    CONTRACTIONS,
    answer_accuracy,
    normalise_answer,
    vqa_accuracy,
)

_WORDS = """
    yes no the a an none zero one two ten eleven dont don't Im ive its it's shes she's
    couldntve couldn'tve somebody'd oclock o'clock yall'd've red blue cat dog left right
    1,000 1000 3.5 .5 5. 1.a a.1 2, 10 Yes NO The One t-shirt tshirt black/white
    u.s. st. é ５ ٣.٣ ß İ (red) [1] what? @home x_y {a} a=b c+d `q` "q" <b> ; : ' ! - -
"""
WORDS = _WORDS.split()
DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
DIGITS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
JOINTS = [" ", " ", " ", "  ", "", "\n", "\t", ", ", ",", ". ", ".", "-", " - ", "/", "?", "\u00a0"]


def reference_normal(text):
    """The normal form by one pass over the characters and one over the words."""
    ascii_digits = "0123456789"
    thousands = any(
        text[i] == "," and i and text[i - 1] in ascii_digits and text[i + 1 : i + 2] in ascii_digits
        for i in range(len(text) - 1)
    )
    beside_space = {text[i] for i in range(len(text) - 1) if text[i + 1] == " "} | {
        text[i] for i in range(1, len(text)) if text[i - 1] == " "
    }
    out = []
    for c in text:
        if c not in {*"[](){}<>", *"/\\", *";,?!", *"=+-_", *'"`@'}:
            out.append(c)
        elif not thousands and c not in beside_space:
            out.append(" ")
    kept, removed = [], 0
    for i, c in enumerate(out):
        follows = out[i + 1] if i + 1 < len(out) else "x"
        if c == "." and follows not in ascii_digits and removed < 32:
            removed += 1
        else:
            kept.append(c)
    words = []
    for word in "".join(kept).lower().split():
        word = DIGITS.get(word, word)
        if word in ("a", "an", "the"):
            continue
        words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def reference_accuracy(prediction, entries):
    """The scorer of 2018 and later, by sets of remaining entries."""

    def clean(text):
        return "".join(" " if c in "\n\t" else c for c in text).strip()

    entries = [dict(e, answer=clean(e["answer"])) for e in entries]
    prediction = clean(prediction)
    if any(e["answer"] != entries[0]["answer"] for e in entries):
        entries = [dict(e, answer=reference_normal(e["answer"])) for e in entries]
        prediction = reference_normal(prediction)
    scores = []
    for left_out in entries:
        others = [e["answer"] for e in entries if e != left_out]
        scores.append([0.0, 1 / 3, 2 / 3, 1.0][min(3, others.count(prediction))])
    total = 0.0
    for score in scores:
        total += score
    return total / len(scores)


def draw_text(draw):
    text = draw.choice(WORDS)
    for _ in range(draw.choice((0, 0, 0, 1, 1, 2, 4))):
        text += draw.choice(JOINTS) + draw.choice(WORDS)
    if draw.random() < 0.02:
        text += "." * draw.randint(30, 36)
    return text


def vary(draw, text):
    """A text that often has the same normal form."""
    change = draw.randrange(7)
    if change == 0:
        return text.upper()
    if change == 1:
        return f"the {text}"
    if change == 2:
        return text + draw.choice("?!.,")
    if change == 3:
        return f" {text}\n"
    if change == 4:
        return text.replace(" ", draw.choice(["-", "/", "  "]))
    return text


def compare_with_reference(cases, seed):
    draw = random.Random(seed)
    between = 0
    for _ in range(cases):
        pool = [draw_text(draw) for _ in range(draw.choice((1, 1, 2, 3, 4)))]
        people = draw.choice((10, 10, 10, 10, 1, 3, 9))
        vaguely = draw.random() < 0.7
        entries = [
            {"answer": vary(draw, draw.choice(pool)) if vaguely else draw.choice(pool)}
            for _ in range(people)
        ]
        if draw.random() < 0.8:
            for number, entry in enumerate(entries, start=1):
                entry.update(answer_id=number, answer_confidence=draw.choice(["yes", "maybe"]))
        elif draw.random() < 0.5:
            for entry in entries:
                entry["answer_confidence"] = draw.choice(["yes", "maybe"])
        prediction = draw.choice([vary(draw, draw.choice(pool)), draw_text(draw)])
        got = answer_accuracy(prediction, entries)
        assert got == reference_accuracy(prediction, entries), (prediction, entries)
        assert normalise_answer(prediction) == reference_normal(prediction), prediction
        between += 0 < got < 1
    assert between > cases / 20


def test_accuracy_equals_the_reference_on_5000_fuzzed_questions():
    compare_with_reference(5_000, seed=0)


@pytest.mark.slow
def test_accuracy_equals_the_reference_on_100000_fuzzed_questions():
    compare_with_reference(100_000, seed=1)


@pytest.mark.parametrize("mode", ["official", "fixed"])
def test_eight_yes_and_two_no_have_the_published_values(mode):
    answers = ["yes"] * 8 + ["no"] * 2
    assert answer_accuracy("yes", answers, mode=mode) == 1
    assert answer_accuracy("no", answers, mode=mode) == pytest.approx(0.6)
    assert answer_accuracy("maybe", answers, mode=mode) == 0


@pytest.mark.parametrize(
    ("people", "want"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_accuracy_of_n_people_in_ten(people, want):
    answers = ["cat"] * people + ["dog"] * (10 - people)
    assert answer_accuracy("cat", answers) == pytest.approx(want)


def test_equal_entries_without_ids_are_left_out_together_unless_fixed():
    answers = [{"answer": "yes"}] * 8 + [{"answer": "no"}] * 2
    assert answer_accuracy("yes", answers) == pytest.approx(0.2)
    assert answer_accuracy("no", answers) == pytest.approx(8 / 10 * 2 / 3)
    assert answer_accuracy("yes", answers, mode="fixed") == 1


def test_unanimous_answers_are_normalised_only_when_fixed():
    assert answer_accuracy("Yes.", ["yes"] * 10) == 0
    assert answer_accuracy("Yes.", ["yes"] * 10, mode="fixed") == 1
    assert answer_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1
    assert answer_accuracy("2", ["two"] * 10) == 0
    assert answer_accuracy("2", ["two"] * 10, mode="fixed") == 1
    assert answer_accuracy(" yes\n", ["yes"] * 10) == 1


def test_modes_agree_where_answers_differ_and_have_ids():
    draw = random.Random(2)
    for _ in range(300):
        answers = [draw_text(draw) for _ in range(10)]
        if len({a.strip() for a in answers}) > 1:
            said = draw.choice(answers)
            assert answer_accuracy(said, answers) == answer_accuracy(said, answers, mode="fixed")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The Cat", "cat"),
        ("none", "0"),
        ("ten dogs", "10 dogs"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("somebody'd", "somebodyd"),
        ("t-shirt", "t shirt"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("1,000-ish", "1000ish"),
        ("black/ white/grey", "black whitegrey"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("5.", "5"),
        ("Im", "im"),
        ("a", ""),
    ],
)
def test_normal_forms(text, want):
    assert normalise_answer(text) == want


def test_nothing_that_was_passed_is_changed():
    answers = [{"answer": "The Cat", "answer_id": k} for k in range(5)]
    answers += [{"answer": "dog.", "answer_id": k} for k in range(5, 10)]
    before = [dict(a) for a in answers]
    answer_accuracy("cat", answers)
    assert answers == before


def questions(count=40):
    draw = random.Random(3)
    answers = [[draw.choice(["yes", "no"]) for _ in range(10)] for _ in range(count)]
    return ["yes" if k % 3 else "no" for k in range(count)], answers


def test_types_split_the_overall_mean():
    predictions, answers = questions()
    kinds = ["number" if k % 4 else "other" for k in range(40)]
    found = vqa_accuracy(predictions, answers, question_types=kinds, answer_types=kinds)
    each = [answer_accuracy(p, a) for p, a in zip(predictions, answers, strict=True)]
    assert found.values.tolist() == each
    assert found.overall.value == pytest.approx(sum(each) / 40)
    for name in ("number", "other"):
        of = [v for v, k in zip(each, kinds, strict=True) if k == name]
        assert found.answer_type[name].value == pytest.approx(sum(of) / len(of))
    assert found.question_type == found.answer_type
    flat = found.to_dict()
    assert flat["accuracy/question_type/other"] == found.question_type["other"].value
    assert flat["questions"] == 40


def test_intervals_draw_the_questions_of_an_image_together():
    predictions = ["yes", "no"] * 50
    answers = [["yes"] * 9 + ["no"] for _ in range(100)]  # every second question scores 0.3
    alone = vqa_accuracy(predictions, answers, bootstrap=500).overall
    assert alone.low < alone.value < alone.high
    paired = vqa_accuracy(
        predictions, answers, images=[k // 2 for k in range(100)], bootstrap=500
    ).overall
    assert paired.value == alone.value
    assert paired.high - paired.low < 1e-9  # every image holds one of each


def test_a_prediction_outside_its_choices_is_refused():
    answers = [["cat"] * 6 + ["dog"] * 4] * 2
    allowed = [["cat", "dog"], ["cow", "cat"]]
    found = vqa_accuracy(["dog", "cat"], answers, choices=allowed)
    assert torch.equal(found.values, vqa_accuracy(["dog", "cat"], answers).values)
    with pytest.raises(ValueError, match="question 1: 'dog' is not one of its 2 choices"):
        vqa_accuracy(["cat", "dog"], answers, choices=allowed)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one answer of an annotator"):
        answer_accuracy("yes", [])
    with pytest.raises(ValueError, match='"official" or "fixed"'):
        answer_accuracy("yes", ["yes"], mode="strict")
    with pytest.raises(ValueError, match="answer_types has 1 entries for 2 predictions"):
        vqa_accuracy(["a", "b"], [["a"], ["b"]], answer_types=["other"])
    with pytest.raises(ValueError, match="no questions"):
        vqa_accuracy([], [])
