"""What is said about an item, in turns: questions with answers, captions, dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from amodal.data.record import BrokenRecordError, Record

Task = Literal["vqa", "caption", "dialogue", "single_turn", "text_to_image"]
Role = Literal["question", "answer", "caption", "image"]


class Turn(NamedTuple):
    """A piece of text and who says it; `learned` where the model is to say it."""

    role: Role
    text: str
    learned: bool


Conversation = tuple[Turn, ...]


def conversations(record: Record, task: Task) -> list[Conversation]:
    """Everything of one record that a model can learn to say for a task.

    - vqa: one exchange per question; several answers count as the most common one.
    - caption: one per caption.
    - dialogue: all rounds in one, every answer learned.
    - rounds: each round of a dialogue by itself, as if nothing had been said before.
    - draw: one per caption, which is given; the image itself is what is to be said.

    Raises:
        BrokenRecordError: questions and answers do not go together.
    """
    if task == "caption":
        return [(Turn("caption", text, True),) for text in record.get("text") or []]
    if task == "text_to_image":
        return [
            (Turn("caption", text, False), Turn("image", "", True))
            for text in record.get("text") or []
        ]
    if task == "vqa":
        questions, answers = _listed(record.get("question")), _listed(record.get("answer"))
        if answers and len(answers) != len(questions):
            raise BrokenRecordError(
                record["origin"], f"{len(questions)} questions and {len(answers)} answers"
            )
        return [
            (Turn("question", question, False), Turn("answer", answer, True))
            for question, answer in zip(questions, answers, strict=True)
        ]
    rounds = record.get("dialog") or []
    apart: list[Conversation] = [
        (
            Turn("question", _text(one, "question", record), False),
            Turn("answer", _text(one, "answer", record), True),
        )
        for one in rounds
    ]
    if task == "single_turn":
        return apart
    return [tuple(turn for turns in apart for turn in turns)] if apart else []


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | int | float) else [str(v) for v in value]


def _text(one: Mapping[str, Any], name: str, record: Record) -> str:
    if not one.get(name):
        raise BrokenRecordError(record["origin"], f"a round of the dialogue has no {name}")
    return str(one[name])
