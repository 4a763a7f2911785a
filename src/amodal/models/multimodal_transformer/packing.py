"""Packed exchanges as rows of their own, for models whose images are read with the question."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.encoders.text.chat_template import IGNORED


class AnswerRows(NamedTuple):
    """One row per answer: ids and labels to its end, and what is asked, which ends before it."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    prompt: Tensor
    read: Tensor
    item: Tensor
    conversation: Tensor


def unpack(ids: Tensor, segment: Tensor, labels: Tensor, pad: int) -> AnswerRows:
    """Packed exchanges, (B, L) each, as rows of their own, one for each answer that is learned."""
    rows: list[tuple[list[int], list[int], int]] = []  # ids, labels, length of what is asked
    where: list[tuple[int, int]] = []
    lists = (ids.tolist(), segment.tolist(), labels.tolist())
    for b, (tokens, numbers, said) in enumerate(zip(*lists, strict=True)):
        start = 0
        for place, number in enumerate(numbers):
            if place and number != numbers[place - 1]:
                start = place
            if said[place] == IGNORED or (place > start and said[place - 1] != IGNORED):
                continue  # nothing begins here
            stop = place
            while stop < len(said) and said[stop] != IGNORED and numbers[stop] == number:
                stop += 1
            before = place - start
            rows.append((tokens[start:stop], [IGNORED] * before + said[place:stop], before + 1))
            where.append((b, number))
    length = max((len(row) for row, _, _ in rows), default=1)
    asked = max((first for _, _, first in rows), default=1)
    whole, target = torch.full((len(rows), length), pad), torch.full((len(rows), length), IGNORED)
    prompt, mask = torch.full((len(rows), asked), pad), torch.zeros_like(whole)
    read = torch.zeros_like(prompt)
    for r, (row, learned, first) in enumerate(rows):
        whole[r, : len(row)], target[r, : len(row)] = torch.tensor(row), torch.tensor(learned)
        prompt[r, :first] = torch.tensor(row[:first])
        mask[r, : len(row)], read[r, :first] = 1, 1
    about = torch.tensor(where, dtype=torch.int64).view(-1, 2)
    found = AnswerRows(whole, mask, target, prompt, read, about[:, 0], about[:, 1])
    return AnswerRows(*(tensor.to(ids.device) for tensor in found))
