"""VQA accuracy: agreement with ten annotators, full credit for three or more of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from amodal.metrics.bootstrap import Estimate, flatten, intervals, resampled

Mode = Literal["official", "fixed"]
Answer = str | Mapping[str, Any]

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # neither the period nor the apostrophe
# Contractions without their apostrophe, or one of two, as listed by the official scorer. Entries
# with a capital have no effect, since text is in lower case at that point; of the others, two
# change nothing or remove an apostrophe.
_CONTRACTIONS = """
    aint>ain't arent>aren't cant>can't couldve>could've couldnt>couldn't couldn'tve>couldn't've
    couldnt've>couldn't've didnt>didn't doesnt>doesn't dont>don't hadnt>hadn't hadnt've>hadn't've
    hadn'tve>hadn't've hasnt>hasn't havent>haven't hed>he'd hed've>he'd've he'dve>he'd've hes>he's
    howd>how'd howll>how'll hows>how's Id've>I'd've I'dve>I'd've Im>I'm Ive>I've isnt>isn't
    itd>it'd itd've>it'd've it'dve>it'd've itll>it'll let's>let's maam>ma'am mightnt>mightn't
    mightnt've>mightn't've mightn'tve>mightn't've mightve>might've mustnt>mustn't mustve>must've
    neednt>needn't notve>not've oclock>o'clock oughtnt>oughtn't ow's'at>'ow's'at 'ows'at>'ow's'at
    'ow'sat>'ow's'at shant>shan't shed've>she'd've she'dve>she'd've she's>she's shouldve>should've
    shouldnt>shouldn't shouldnt've>shouldn't've shouldn'tve>shouldn't've somebody'd>somebodyd
    somebodyd've>somebody'd've somebody'dve>somebody'd've somebodyll>somebody'll
    somebodys>somebody's someoned>someone'd someoned've>someone'd've someone'dve>someone'd've
    someonell>someone'll someones>someone's somethingd>something'd somethingd've>something'd've
    something'dve>something'd've somethingll>something'll thats>that's thered>there'd
    thered've>there'd've there'dve>there'd've therere>there're theres>there's theyd>they'd
    theyd've>they'd've they'dve>they'd've theyll>they'll theyre>they're theyve>they've twas>'twas
    wasnt>wasn't wed've>we'd've we'dve>we'd've weve>we've werent>weren't whatll>what'll
    whatre>what're whats>what's whatve>what've whens>when's whered>where'd wheres>where's
    whereve>where've whod>who'd whod've>who'd've who'dve>who'd've wholl>who'll whos>who's
    whove>who've whyll>why'll whyre>why're whys>why's wont>won't wouldve>would've wouldnt>wouldn't
    wouldnt've>wouldn't've wouldn'tve>wouldn't've yall>y'all yall'll>y'all'll y'allll>y'all'll
    yall'd've>y'all'd've y'alld've>y'all'd've y'all'dve>y'all'd've youd>you'd youd've>you'd've
    you'dve>you'd've youll>you'll youre>you're youve>you've
"""
CONTRACTIONS = dict(pair.split(">") for pair in _CONTRACTIONS.split())
PERIODS = 32  # the official scorer passes re.UNICODE, 32, as the `count` of re.sub
_PERIOD = re.compile(r"\.(?![0-9])")
_COMMA_IN_NUMBER = re.compile(r"[0-9],[0-9]")


@dataclass(frozen=True)
class VqaAccuracy:
    """Accuracies, each with a 95 % bootstrap interval if requested.

    Args:
        overall: mean over all questions.
        question_type, answer_type: means over the questions of each type.
        values: (Q,) float64 accuracy of each question.
        mode: of `answer_accuracy`.

    Examples:
        >>> from amodal.metrics import vqa_accuracy
        >>> result = vqa_accuracy(["yes", "red"], [["yes"] * 10, ["red"] * 2 + ["blue"] * 8])
        >>> round(result.overall.value, 4), result.to_dict()["questions"]
        (0.8, 2)
    """

    overall: Estimate
    question_type: dict[str, Estimate]
    answer_type: dict[str, Estimate]
    values: Tensor
    mode: Mode

    def to_dict(self) -> dict[str, float]:
        """Flat metrics: `accuracy`, `accuracy/low`, `accuracy/answer_type/number`, ..."""
        named = {"accuracy": self.overall}
        named |= {f"accuracy/question_type/{k}": v for k, v in self.question_type.items()}
        named |= {f"accuracy/answer_type/{k}": v for k, v in self.answer_type.items()}
        return flatten(named) | {"questions": len(self.values)}


def vqa_accuracy(
    predictions: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    *,
    question_types: Sequence[str] | None = None,
    answer_types: Sequence[str] | None = None,
    choices: Sequence[Sequence[str]] | None = None,
    images: Sequence[Any] | None = None,
    mode: Mode = "official",
    bootstrap: int = 0,
    seed: int = 0,
) -> VqaAccuracy:
    """Mean `answer_accuracy` over questions, and over the questions of each type.

    Args:
        predictions: Q answers of the model.
        answers: for each question those of the annotators; see `answer_accuracy`.
        question_types, answer_types: Q names, such as "how many" and "number".
        choices: for each question the multiple-choice answers. The accuracy is that of open-ended
            questions; a prediction must be one of the choices.
        images: Q keys; the bootstrap resamples images with all their questions. None: questions.
        mode: of `answer_accuracy`.
        bootstrap: resamples for the intervals; 0: no intervals.
        seed: of the resamples.

    Raises:
        ValueError: lengths differ, there is no question, or a prediction is not a choice.

    Examples:
        >>> from amodal.metrics import vqa_accuracy
        >>> types = ["number", "other"]
        >>> result = vqa_accuracy(["2", "red"], [["2"] * 3, ["blue"] * 3], answer_types=types)
        >>> {name: round(accuracy.value, 4) for name, accuracy in result.answer_type.items()}
        {'number': 0.6667, 'other': 0.0}

    References:
        Antol et al. 2015, arXiv:1505.00468, section 3 (accuracy; 18 choices).
        Goyal et al. 2017, arXiv:1612.00837 (VQA v2).
    """
    count = len(predictions)
    if not count:
        raise ValueError("there are no questions to evaluate")
    columns = {
        "answers": answers,
        "question_types": question_types,
        "answer_types": answer_types,
        "choices": choices,
        "images": images,
    }
    for name, column in columns.items():
        if column is not None and len(column) != count:
            raise ValueError(f"{name} has {len(column)} entries for {count} predictions")
    if choices is not None:
        for row, (prediction, allowed) in enumerate(zip(predictions, choices, strict=True)):
            if prediction not in allowed:
                raise ValueError(
                    f"question {row}: {prediction!r} is not one of its {len(allowed)} choices"
                )
    values = torch.tensor(
        [answer_accuracy(p, a, mode=mode) for p, a in zip(predictions, answers, strict=True)],
        dtype=torch.float64,
    )
    keys: dict[Any, int] = {}
    cluster = torch.tensor([keys.setdefault(k, len(keys)) for k in images or range(count)])

    def mean(rows: Tensor) -> Estimate:
        generator = torch.Generator().manual_seed(seed)
        draws = resampled(values[rows, None], cluster[rows], bootstrap, generator)
        return intervals(["accuracy"], *draws)["accuracy"]

    def by_type(types: Sequence[str] | None) -> dict[str, Estimate]:
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(types or ()):
            rows.setdefault(name, []).append(row)
        return {name: mean(torch.tensor(of)) for name, of in sorted(rows.items())}

    return VqaAccuracy(
        overall=mean(torch.arange(count)),
        question_type=by_type(question_types),
        answer_type=by_type(answer_types),
        values=values,
        mode=mode,
    )


def answer_accuracy(
    prediction: str, answers: Sequence[Answer], *, mode: Mode = "official"
) -> float:
    """Mean over the annotators left out in turn of min(n / 3, 1), n of the others agreeing.

    With 10 annotators, n of whom agree with the prediction, this is 0, 0.3, 0.6, 0.9 for n up to 3
    and 1 for more.

    Modes:
        official: `vqaEval.py` of GT-Vision-Lab/VQA, including its quirks. Prediction and answers
            are normalised only where the answers are not all equal, so that "Yes." is incorrect
            where all ten answers are "yes". The annotator left out is found by comparing whole
            entries after normalisation: equal entries without `answer_id` are left out at once.
            Digits are ASCII, as in Python 2.
        fixed: both are always normalised, and exactly one annotator is left out at a time. It
            differs from the official accuracy where all answers are equal and the prediction
            equals them only before or only after normalisation, and where entries have no id.
            Accuracies of the two modes are not comparable.

    The official program also overwrites the given answers by their normalised form, which affects
    a second run over the same objects; this function changes nothing.

    Args:
        prediction: the answer of the model.
        answers: one per annotator: the answer, or the annotation entry with it under `answer`.
            Plain answers count as entries with distinct ids.
        mode: see above.

    Raises:
        ValueError: there is no answer, or the mode is unknown.

    Examples:
        >>> from amodal.metrics import answer_accuracy
        >>> round(answer_accuracy("red", ["red"] * 2 + ["blue"] * 8), 4)
        0.6
    """
    if mode not in ("official", "fixed"):
        raise ValueError(f'mode must be "official" or "fixed", got {mode!r}')
    if not answers:
        raise ValueError("a question needs at least one answer of an annotator")
    texts = [_trimmed(a if isinstance(a, str) else a["answer"]) for a in answers]
    prediction = _trimmed(prediction)
    if mode == "fixed" or len(set(texts)) > 1:
        texts = [normalise_answer(text) for text in texts]
        prediction = normalise_answer(prediction)
    agreeing = [i for i, text in enumerate(texts) if text == prediction]
    score = min(1.0, len(agreeing) / 3)  # with an annotator left out who disagrees
    total = 0.0
    for i, entry in enumerate(answers):
        if texts[i] != prediction:
            total += score
        elif mode == "fixed" or isinstance(entry, str):
            total += min(1.0, (len(agreeing) - 1) / 3)
        else:
            rest = _rest(entry)
            total += min(1.0, sum(_rest(answers[other]) != rest for other in agreeing) / 3)
    return total / len(answers)


def normalise_answer(text: str) -> str:
    """`text` without punctuation and articles, in lower case, with digits for small numbers.

    - Each mark of `PUNCTUATION` is deleted if it is next to a space anywhere in the text, or if
      the text has a number with a comma ("1,000"); otherwise it becomes a space.
    - The first 32 periods that no digit follows are deleted.
    - "none" and "zero" to "ten" become digits, articles are removed, and contractions get their
      apostrophe back.

    Examples:
        >>> normalise_answer("The Dog isnt on two chairs.")
        "dog isn't on 2 chairs"
    """
    spaced = text
    drop_all = _COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        drop = drop_all or f"{mark} " in text or f" {mark}" in text
        spaced = spaced.replace(mark, "" if drop else " ")
    spaced = _PERIOD.sub("", spaced, count=PERIODS)
    words = (NUMBERS.get(word, word) for word in spaced.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _rest(entry: Answer) -> dict[str, Any] | None:
    """An entry without its answer; None for a plain answer, which equals no entry."""
    return None if isinstance(entry, str) else {k: v for k, v in entry.items() if k != "answer"}
