"""Conversations about an item: questions with answers, captions, dialogues, images to generate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from amodal.data.record import BrokenRecordError, Record

Task = Literal["vqa", "caption", "dialogue", "single_turn", "text_to_image"]
Role = Literal["question", "answer", "caption", "image"]


class Turn(NamedTuple):
    """One turn of a conversation.

    Args:
        role: of its text.
        text: empty for an image, and for the turn that a model generates.
        target: whether the model learns to generate it.

    Examples:
        >>> Turn("answer", "yes", target=True)
        Turn(role='answer', text='yes', target=True)
    """

    role: Role
    text: str
    target: bool


Conversation = tuple[Turn, ...]


def conversations(record: Record, task: Task) -> list[Conversation]:
    """Conversations of one record for a task.

    - vqa: one per question; its answer is the target.
    - caption: one per caption, which is the target.
    - dialogue: one with all turns; every answer is a target.
    - single_turn: one per question of a dialogue, without its history.
    - text_to_image: one per caption; the image is the target.

    Raises:
        BrokenRecordError: numbers of questions and answers differ, or one of them is missing.

    Examples:
        >>> record = {"origin": "example", "question": ["is it red?"], "answer": ["yes"]}
        >>> ((question, answer),) = conversations(record, "vqa")
        >>> answer
        Turn(role='answer', text='yes', target=True)
    """
    if task == "caption":
        return [(Turn("caption", text, True),) for text in record.get("text") or []]
    if task == "text_to_image":
        return [
            (Turn("caption", text, False), Turn("image", "", True))
            for text in record.get("text") or []
        ]
    if task == "vqa":
        questions, answers = _as_list(record.get("question")), _as_list(record.get("answer"))
        if answers and len(answers) != len(questions):
            raise BrokenRecordError(
                record["origin"], f"{len(questions)} questions and {len(answers)} answers"
            )
        return [
            (Turn("question", question, False), Turn("answer", answer, True))
            for question, answer in zip(questions, answers, strict=True)
        ]
    pairs: list[Conversation] = [
        (
            Turn("question", _text(entry, "question", record), False),
            Turn("answer", _text(entry, "answer", record), True),
        )
        for entry in record.get("dialog") or []
    ]
    if task == "single_turn":
        return pairs
    return [tuple(turn for pair in pairs for turn in pair)] if pairs else []


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | int | float) else [str(v) for v in value]


def _text(entry: Mapping[str, Any], name: str, record: Record) -> str:
    if not entry.get(name):
        raise BrokenRecordError(record["origin"], f"an entry of the dialogue has no {name}")
    return str(entry[name])
