"""Conversations: questions with answers, captions and dialogues as sequences of turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from amodal.data.answer_vocabulary import AnswerVocabulary
from amodal.data.conversation import Conversation, Task, conversations
from amodal.data.inputs import BatchContext, Effects, InputRows
from amodal.data.near_duplicates import Fingerprint
from amodal.data.record import Record
from amodal.data.sources.vqa import annotator_answers
from amodal.encoders.text.chat_template import ChatTemplate
from amodal.modalities.modality import ColumnStyle, InputOptions, Preview, Records
from amodal.modalities.text import followed

CONVERSATION = "conversation"  # name of the input of a multimodal Transformer
# Conversations of a task with the answers that several annotators gave to each.
OfTask = list[tuple[Conversation, list[str]]]


class ConversationModality:
    """The text of a multimodal Transformer; a recipe names no encoder for it."""

    name: ClassVar[str] = "conversation"
    column_style: ClassVar[ColumnStyle] = None
    is_text: ClassVar[bool] = True
    augmentations: ClassVar[tuple[type, ...]] = ()
    file_suffixes: ClassVar[tuple[str, ...]] = ()

    def fit(self, config: Any, name: str, records: Records | None) -> Any:
        raise ValueError("a conversation has no encoder of its own")

    def load(self, folder: Path) -> ChatTemplate:
        return ChatTemplate.load(folder)

    def input(self, name: str, prepare: ChatTemplate, options: InputOptions) -> None:
        """None: `ConversationInput` is built by the task."""

    def values(self, name: str, prepare: ChatTemplate, record: Record) -> list[Any]:
        return []

    def decode(self, value: Any, origin: str, prepare: ChatTemplate) -> Any:
        return value

    def content_key(self, value: Any) -> str:
        return repr(value)

    def fingerprints(self, name: str, record: Record) -> list[Fingerprint]:
        return []

    def preview(self, value: Any, decoded: Any | None = None) -> Preview:
        return Preview(text=str(value))

    def parse(self, text: str) -> str:
        return text

    def follows(self, value: Any, effects: Effects) -> bool:
        return False  # a conversation is no value of its own

    def initialise(self, encoder: Any, prepare: Any, name: str, records: Records) -> None:
        """The decoder starts as it was built."""

    def cache_decoder(self, config: Any) -> Callable[[Any, str], Any] | None:
        return None


@dataclass(frozen=True)
class ConversationInput:
    """An input that takes the conversations about an item.

    Args:
        tasks: task -> most conversations per item and step; None: all that there are.
        answers: the answer vocabulary that answers are classified into, or None.
        training: choose conversations at random, and follow the augmentation of the item.
    """

    name: str
    prepare: ChatTemplate
    tasks: Mapping[Task, int | None] = field(default_factory=dict)
    answers: AnswerVocabulary | None = None
    training: bool = False
    has_effects: ClassVar[bool] = False

    def read(self, record: Record) -> list[OfTask]:
        found = []
        for task in self.tasks:
            about = conversations(record, task)
            wanted = self.answers is not None and task == "vqa"
            found.append(
                [(c, annotator_answers(record, j) if wanted else []) for j, c in enumerate(about)]
            )
        return found

    def count_unknown(self, record: Record) -> tuple[int, int]:
        """Tokens of the conversations that are out of vocabulary, and all their tokens."""
        about = [turns for task in self.tasks for turns in conversations(record, task)]
        return self.prepare.count_unknown([turn.text for turns in about for turn in turns])

    def batch(self, values: Sequence[list[OfTask] | None], context: BatchContext) -> InputRows:
        """All conversations about an item in one row, see `ChatTemplate`."""
        chosen: list[list[Conversation]] = []
        asked: list[list[tuple[str, list[str]] | None]] = []
        for i, by_task in enumerate(values):
            kept: list[Conversation] = []
            answers: list[tuple[str, list[str]] | None] = []
            for about, (task, most) in zip(by_task or [], self.tasks.items(), strict=True):
                order = list(range(len(about)))
                if self.training:
                    order = context.rngs[i].permutation(len(about)).tolist()
                for j in order[:most]:
                    turns, annotators = about[j]
                    if self.training:
                        effects = context.effects[i]
                        turns = tuple(t._replace(text=followed(t.text, effects)) for t in turns)
                        annotators = [followed(text, effects) for text in annotators]
                    kept.append(turns)
                    answers.append((turns[-1].text, annotators) if task == "vqa" else None)
            chosen.append(kept)
            asked.append(answers)
        present = torch.tensor([bool(found) for found in chosen], dtype=torch.bool)[:, None]
        truncated = self.prepare.count_truncated([turns for found in chosen for turns in found])
        tensors = self.prepare(chosen)
        if self.answers is not None:
            tensors["answer_targets"] = self.answers(asked)
        return InputRows(tensors, present, truncated=truncated)
