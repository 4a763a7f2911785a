"""Which answers of a closed list people gave to a question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

OUTSIDE = -1  # place of an answer that is not in the list
OTHER = -2  # in the place of an answer, where the exchange is not about a question


class AnswerVocabulary:
    """Targets of the questions about the items of a batch.

    Args:
        answers: the A texts.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.place = {text: i for i, text in enumerate(answers)}

    def __call__(self, items: Sequence[Sequence[tuple[str, list[str]] | None]]) -> Tensor:
        """The place of the answer in the list, and what each answer of the list is worth.

        Args:
            items: B items, for each exchange its answer and those of all people who were asked;
                None where it is no question.

        Returns:
            (B, X, 1 + A) float32: `OUTSIDE` or `OTHER` in the place of a place; then
            min(count / 3, 1), or 1 where only one person was asked.

        References:
            Teney et al. 2017, arXiv:1708.02711, section 3.6.
        """
        most = max((len(found) for found in items), default=1) or 1
        table = torch.zeros(len(items), most, 1 + len(self.place))
        table[..., 0] = OTHER
        for row, found in enumerate(items):
            for number, asked in enumerate(found):
                if asked is None:
                    continue
                answer, people = asked
                said = people or [answer]
                enough = 3 if len(said) > 1 else 1
                table[row, number, 0] = self.place.get(answer, OUTSIDE)
                for text, count in Counter(said).items():
                    if text in self.place:
                        table[row, number, 1 + self.place[text]] = min(count / enough, 1.0)
        return table
