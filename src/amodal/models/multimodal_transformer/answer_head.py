"""Answers from a closed list: which they are, and a score for each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from amodal.data.answer_vocabulary import OTHER
from amodal.encoders.text.chat_template import IGNORED


class GeneratedAnswers(BaseModel):
    """Answers are said token by token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["generated"] = "generated"


class ClassifiedAnswers(BaseModel):
    """Answers are chosen from the most frequent ones of the training source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["classified"] = "classified"
    max_answers: int = Field(3129, ge=2)  # answers in the list
    min_count: int = Field(1, ge=1)  # questions with the answer

    def listed(self, answers: Iterable[str]) -> tuple[str, ...]:
        """The list, most frequent first and equally frequent ones by the alphabet.

        Args:
            answers: the answer of every training question.

        Raises:
            ValueError: no answer is frequent enough.
        """
        counted = Counter(answers)
        order = sorted(counted, key=lambda text: (-counted[text], text))
        found = tuple(text for text in order if counted[text] >= self.min_count)[: self.max_answers]
        if not found:
            raise ValueError(f"no answer occurs {self.min_count} times or more")
        return found


AnswersConfig = Annotated[GeneratedAnswers | ClassifiedAnswers, Field(discriminator="kind")]


class Classified(NamedTuple):
    """Scores of the listed answers to the Q questions of a batch.

    Args:
        logits: (Q, A).
        targets: (Q, A) in [0, 1]; 0 throughout where the answers are outside the list.
        true: (Q,) int64 place of the answer in the list, -1 outside.
        item: (Q,) int64 and exchange: (Q,) int64 from 1 on, as in `TokenPredictions`.
    """

    logits: Tensor
    targets: Tensor
    true: Tensor
    item: Tensor
    conversation: Tensor


class AnswerHead(nn.Module):
    """(..., D) states at the place where an answer would begin → (..., A) scores.

    Args:
        width: D.
        answers: the A texts.

    References:
        Teney et al. 2017, arXiv:1708.02711, section 3.6.
    """

    def __init__(self, width: int, answers: Sequence[str]) -> None:
        super().__init__()
        self.answers = tuple(answers)
        self.linear = nn.Linear(width, len(self.answers))
        # About one answer of the list is right; else the first steps only learn that most are not.
        nn.init.constant_(self.linear.bias, -math.log(len(self.answers)))

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.linear(states)
        return found

    def classified(
        self,
        hidden: Tensor,
        labels: Tensor,
        item: Tensor,
        conversation: Tensor,
        asked: Tensor,
    ) -> tuple[Classified, Tensor]:
        """Scores where answers of the list begin, and the labels without what they would say.

        Args:
            hidden: (R, L, D) states.
            labels: (R, L) int64.
            item: (R, L) int64 and exchange: (R, L) int64, from 1 on, 0 at padding.
            asked: (B, X, 1 + A) what `ListedAnswers` found.
        """
        number = (conversation - 1).clamp(min=0)
        chosen = (asked[..., 0][item, number] != OTHER) & (labels != IGNORED)
        begins = chosen.clone()
        begins[:, 1:] &= labels[:, :-1] == IGNORED
        wanted = asked[item[begins], number[begins]]
        found = Classified(
            self(hidden[begins]),
            wanted[:, 1:],
            wanted[:, 0].long(),
            item[begins],
            conversation[begins],
        )
        return found, labels.masked_fill(chosen, IGNORED)
