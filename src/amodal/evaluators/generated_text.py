"""Generated texts of a source, with their references."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from amodal.data.conversation import Conversation, Task, conversations
from amodal.data.record import BrokenRecordError, Record


class GeneratedText(NamedTuple):
    """One generated answer or caption.

    Args:
        row: number of the record in the source.
        conversation: which conversation about it, from 0 on.
        prompt: the turns before, the last of them the one that was to be generated.
        text: the generated text.
    """

    row: int
    conversation: int
    prompt: Conversation
    text: str


@dataclass(frozen=True)
class GenerationResult:
    """Generated texts of a source with the records they are about.

    Args:
        task: what was asked for.
        generations: in the order of the source.
        records: row number -> record, without media.
        scores: row -> round or question -> (C,) log-likelihoods of its candidates.
        answer_vocabulary: the answers that the model chooses from; empty where it generates them.
        broken: records that were skipped.
        metrics: flat `TASK/…` values; empty before they are computed.
    """

    task: Task
    generations: list[GeneratedText]
    records: dict[int, Record]
    scores: dict[int, dict[int, Tensor]]
    answer_vocabulary: frozenset[str] = frozenset()
    broken: tuple[BrokenRecordError, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return len(self.records)

    def reference(self, one: GeneratedText) -> str:
        """The reference answer of a generated one."""
        turns = conversations(self.records[one.row], self.task)[one.conversation]
        return turns[len(one.prompt) - 1].text
