"""Answer vocabulary: soft targets of questions over a fixed set of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

OUT_OF_VOCABULARY = -1  # index of an answer outside the vocabulary
NOT_A_QUESTION = -2  # index of a conversation that is not a question with an answer


class AnswerVocabulary:
    """Indices and soft targets of the answers to the questions of a batch.

    Args:
        answers: the A answers of the vocabulary.

    Examples:
        >>> vocabulary = AnswerVocabulary(["yes", "no"])
        >>> vocabulary([[("yes", ["yes", "yes", "no"]), None]])[0]
        tensor([[ 0.0000,  0.6667,  0.3333],
                [-2.0000,  0.0000,  0.0000]])
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.index = {text: i for i, text in enumerate(answers)}

    def __call__(self, items: Sequence[Sequence[tuple[str, list[str]] | None]]) -> Tensor:
        """Index of the answer, and the soft target of every answer of the vocabulary.

        Args:
            items: for each conversation about each of B items its answer and the answers of all
                annotators; None where it is not a question.

        Returns:
            (B, X, 1 + A) float32: the index, `OUT_OF_VOCABULARY` or `NOT_A_QUESTION`; then
            min(count / 3, 1) over the annotators, or 1 where there is one annotator.

        References:
            Teney et al. 2017, arXiv:1708.02711, section 3.6.
        """
        longest = max((len(entries) for entries in items), default=1) or 1
        table = torch.zeros(len(items), longest, 1 + len(self.index))
        table[..., 0] = NOT_A_QUESTION
        for row, entries in enumerate(items):
            for number, entry in enumerate(entries):
                if entry is None:
                    continue
                answer, annotators = entry
                answers = annotators or [answer]
                full_score = 3 if len(answers) > 1 else 1
                table[row, number, 0] = self.index.get(answer, OUT_OF_VOCABULARY)
                for text, count in Counter(answers).items():
                    if text in self.index:
                        target = min(count / full_score, 1.0)
                        table[row, number, 1 + self.index[text]] = target
        return table
