"""How likely a multimodal Transformer holds each of the candidate answers that a source offers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from amodal.data.conversation import Conversation, Turn, conversations
from amodal.data.reader import BatchReader
from amodal.data.record import Record, Source
from amodal.data.samplers import Draw
from amodal.data.sources.vqa import choices_of
from amodal.evaluators.generation import Numbered, row_numbers
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.layers import Memory
from amodal.models.multimodal_transformer.model import MultimodalTransformer

Ranked = Literal["dialogue", "single_turn", "vqa"]  # tasks that may offer candidates
Autocast = Callable[[], AbstractContextManager[object]]


@torch.inference_mode()
def rank_candidates(
    model: MultimodalTransformer,
    source: Source,
    items: Sequence[int],
    task: Ranked = "dialogue",
    *,
    batch_size: int = 32,
    autocast: Autocast = nullcontext,
) -> dict[int, dict[int, Tensor]]:
    """How likely each candidate answer is: of each round given the true history, or of a question.

    Returns:
        row number -> number of the round or question -> (C,) float32 log-likelihoods per token
        (scores, where the model has a list of answers), where there are `candidates` or
        `multiple_choices`.
    """
    reader = BatchReader(Numbered(source), collator_of(model), seed=0)
    was_training = model.training
    model.eval()
    found: dict[int, dict[int, Tensor]] = {}
    for start in range(0, len(items), batch_size):
        chunk = items[start : start + batch_size]
        batch = reader.__getitems__([Draw(0, row) for row in chunk])
        if not len(batch):
            continue  # all of them are broken
        asked: list[tuple[int, int, int, Conversation, list[str]]] = []
        for place, row in enumerate(row_numbers(batch, chunk).tolist()):
            about = offered(source[row], task)
            asked += [(place, row, n, before, texts) for n, (before, texts) in about.items()]
        if not asked:
            continue
        prompts = model.chat_template.prompts(
            [(*before, Turn("answer", "", True)) for _, _, _, before, _ in asked]
        )
        answers = [texts for _, _, _, _, texts in asked]
        with autocast():
            encoded = model.encode_inputs(batch.to(model.device))
            if encoded is not None:
                places = torch.tensor([place for place, *_ in asked], device=model.device)
                encoded = Memory(encoded.tokens[places], encoded.keep[places])
            if task == "vqa" and model.answer_head is not None:
                scores = _of_listed(model, model.answer_scores(prompts, encoded).cpu(), answers)
            else:
                scores = model.log_likelihoods(prompts, encoded, answers)
        for (_, row, number, _, _), values in zip(asked, scores, strict=True):
            found.setdefault(row, {})[number] = values
    model.train(was_training)
    return found


def _of_listed(
    model: MultimodalTransformer, scores: Tensor, answers: Sequence[Sequence[str]]
) -> list[Tensor]:
    """Of (R, A) scores those of the given answers; minus infinity where one is not listed."""
    assert model.answer_head is not None
    place = {text: i for i, text in enumerate(model.answer_head.answers)}
    return [
        torch.tensor([float(row[place[t]]) if t in place else -math.inf for t in texts])
        for row, texts in zip(scores, answers, strict=True)
    ]


def offered(record: Record, task: Ranked) -> dict[int, tuple[Conversation, list[str]]]:
    """Number of a round or question -> the turns before its answer, and the candidates."""
    about = conversations(record, task)
    if task == "vqa":
        choices = choices_of(record, len(about))
        return {n: (about[n][:-1], found) for n, found in enumerate(choices) if found}
    rounds = record.get("dialog") or []
    found = {}
    for number, one in enumerate(rounds):
        if one.get("candidates"):
            said = about[0][: 2 * number + 1] if task == "dialogue" else about[number][:1]
            before = tuple(turn._replace(target=False) for turn in said)
            found[number] = (before, [str(text) for text in one["candidates"]])
    return found
