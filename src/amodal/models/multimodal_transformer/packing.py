"""Unpacking of packed conversations into one row per answer.

Models that encode the image together with the question need it: their memory differs between the
questions about one image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.encoders.text.chat_template import IGNORED


class AnswerRows(NamedTuple):
    """One row per target answer; prompts end with the token that precedes the answer.

    Args:
        ids, attention_mask, labels: (R, L) the conversation up to the end of the answer.
        prompt_ids, prompt_mask: (R, P) the conversation up to the role token of the answer.
        item: (R,) int64 index of the item in the batch.
        conversation: (R,) int64 number of the conversation about the item, from 1 on.
    """

    ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    item: Tensor
    conversation: Tensor


def unpack_conversations(ids: Tensor, segment: Tensor, labels: Tensor, pad: int) -> AnswerRows:
    """Rows of their own for packed conversations, one for each answer that is a target.

    Args:
        ids: (B, L) int64 packed conversations.
        segment: (B, L) int64 number of the conversation, 0 at padding.
        labels: (B, L) int64 next token, `IGNORED` where it is no target.
        pad: id of the padding token.

    Examples:
        >>> import torch
        >>> ids = torch.tensor([[5, 1, 6, 2]])  # question 1, answer 2
        >>> labels = torch.tensor([[-100, -100, 2, -100]])
        >>> rows = unpack_conversations(ids, torch.ones_like(ids), labels, pad=0)
        >>> rows.ids.tolist(), rows.prompt_ids.tolist(), rows.labels.tolist()
        ([[5, 1, 6]], [[5, 1, 6]], [[-100, -100, 2]])
    """
    rows: list[tuple[list[int], list[int], int]] = []  # ids, labels, length of the prompt
    sources: list[tuple[int, int]] = []  # item, conversation
    lists = (ids.tolist(), segment.tolist(), labels.tolist())
    for b, (tokens, numbers, targets) in enumerate(zip(*lists, strict=True)):
        start = 0
        for position, number in enumerate(numbers):
            if position and number != numbers[position - 1]:
                start = position
            follows = position > start and targets[position - 1] != IGNORED
            if targets[position] == IGNORED or follows:
                continue  # no answer begins here
            stop = position
            while stop < len(targets) and targets[stop] != IGNORED and numbers[stop] == number:
                stop += 1
            before = position - start
            row_labels = [IGNORED] * before + targets[position:stop]
            rows.append((tokens[start:stop], row_labels, before + 1))
            sources.append((b, number))
    length = max((len(row) for row, _, _ in rows), default=1)
    prompt_length = max((count for _, _, count in rows), default=1)
    row_ids = torch.full((len(rows), length), pad)
    row_targets = torch.full((len(rows), length), IGNORED)
    prompt_ids = torch.full((len(rows), prompt_length), pad)
    mask, prompt_mask = torch.zeros_like(row_ids), torch.zeros_like(prompt_ids)
    for r, (row, row_labels, count) in enumerate(rows):
        row_ids[r, : len(row)] = torch.tensor(row)
        row_targets[r, : len(row)] = torch.tensor(row_labels)
        prompt_ids[r, :count] = torch.tensor(row[:count])
        mask[r, : len(row)], prompt_mask[r, :count] = 1, 1
    source = torch.tensor(sources, dtype=torch.int64).view(-1, 2)
    unpacked = AnswerRows(
        row_ids, mask, row_targets, prompt_ids, prompt_mask, source[:, 0], source[:, 1]
    )
    return AnswerRows(*(tensor.to(ids.device) for tensor in unpacked))
