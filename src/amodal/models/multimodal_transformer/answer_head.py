"""Classification head over an answer vocabulary, as an alternative to generated answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from amodal.data.answer_vocabulary import NOT_A_QUESTION
from amodal.encoders.text.chat_template import IGNORED


class GeneratedAnswers(BaseModel):
    """Answers are generated token by token.

    Examples:
        >>> GeneratedAnswers().kind
        'generation'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["generation"] = "generation"


class ClassifiedAnswers(BaseModel):
    """Answers are classified over the most frequent answers of the training source.

    Examples:
        >>> ClassifiedAnswers(max_answers=2).build_vocabulary(["no", "yes", "red", "yes", "no"])
        ('no', 'yes')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["classification"] = "classification"
    max_answers: int = Field(3129, ge=2)  # size limit of the vocabulary
    min_count: int = Field(1, ge=1)  # training questions that have the answer

    def build_vocabulary(self, answers: Iterable[str]) -> tuple[str, ...]:
        """Answers by falling frequency; equally frequent ones in alphabetical order.

        Args:
            answers: the answer of every training question.

        Raises:
            ValueError: no answer is frequent enough.
        """
        counts = Counter(answers)
        order = sorted(counts, key=lambda text: (-counts[text], text))
        frequent = [text for text in order if counts[text] >= self.min_count]
        if not frequent:
            raise ValueError(f"no answer occurs {self.min_count} times or more")
        return tuple(frequent[: self.max_answers])


AnswersConfig = Annotated[GeneratedAnswers | ClassifiedAnswers, Field(discriminator="kind")]


class AnswerPredictions(NamedTuple):
    """Logits over the answer vocabulary for the Q questions of a batch.

    Args:
        logits: (Q, A).
        targets: (Q, A) in [0, 1]; all 0 where the answers are out of vocabulary.
        labels: (Q,) int64 index of the answer in the vocabulary, -1 where it is out of vocabulary.
        item: (Q,) int64 and conversation: (Q,) int64 from 1 on, as in `TokenPredictions`.
    """

    logits: Tensor
    targets: Tensor
    labels: Tensor
    item: Tensor
    conversation: Tensor


class AnswerHead(nn.Module):
    """(..., D) decoder states at the token that precedes an answer → (..., A) logits.

    Args:
        width: D.
        answers: the A answers of the vocabulary.

    Examples:
        >>> import torch
        >>> AnswerHead(8, ["yes", "no", "red"])(torch.zeros(2, 8)).shape
        torch.Size([2, 3])

    References:
        Teney et al. 2017, arXiv:1708.02711, section 3.6.
    """

    def __init__(self, width: int, answers: Sequence[str]) -> None:
        super().__init__()
        self.answers = tuple(answers)
        self.linear = nn.Linear(width, len(self.answers))
        # About one answer of the vocabulary is correct; without this bias the first steps are
        # spent on learning that most are not.
        nn.init.constant_(self.linear.bias, -math.log(len(self.answers)))

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.linear(states)
        return logits

    def predict(
        self,
        hidden: Tensor,
        labels: Tensor,
        item: Tensor,
        conversation: Tensor,
        answer_targets: Tensor,
    ) -> tuple[AnswerPredictions, Tensor]:
        """Answer logits of all questions, and the token labels without those of their answers.

        Args:
            hidden: (R, L, D) decoder states.
            labels: (R, L) int64 token labels.
            item: (R, L) int64 and conversation: (R, L) int64, from 1 on, 0 at padding.
            answer_targets: (B, X, 1 + A) from `AnswerVocabulary`.
        """
        index = (conversation - 1).clamp(min=0)
        classified = (answer_targets[..., 0][item, index] != NOT_A_QUESTION) & (labels != IGNORED)
        first = classified.clone()
        first[:, 1:] &= labels[:, :-1] == IGNORED
        targets = answer_targets[item[first], index[first]]
        predictions = AnswerPredictions(
            self(hidden[first]),
            targets[:, 1:],
            targets[:, 0].long(),
            item[first],
            conversation[first],
        )
        return predictions, labels.masked_fill(classified, IGNORED)
