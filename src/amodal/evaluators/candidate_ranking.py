"""Log-likelihoods of the candidate answers that a source offers, by a multimodal Transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from amodal.data.conversation import Conversation, Turn, conversations
from amodal.data.record import Record, Source
from amodal.data.sources.vqa import choices_of
from amodal.evaluators.loop import Autocast, NumberedSource, Tick, evaluation_batches, row_numbers
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.model import MultimodalTransformer

RankedTask = Literal["dialogue", "single_turn", "vqa"]  # tasks that may offer candidates


def rank_candidates(
    model: MultimodalTransformer,
    source: Source,
    items: Sequence[int] | None = None,
    task: RankedTask = "dialogue",
    *,
    batch_size: int = 32,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> dict[int, dict[int, Tensor]]:
    """Score each candidate answer of a question, or of a round given its true history.

    Args:
        items: row numbers; None means all.
        tick: called with the number of items done, for a progress bar.

    Returns:
        row number -> number of the round or question -> (C,) float32 log-likelihoods per token
        (scores, where the model has an answer vocabulary), where the record has `candidates` or
        `multiple_choices`.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import rank_candidates
        >>> from amodal.models import build_multimodal_transformer
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> source = parse_source("scenes:size=1,dialogue=true").open()
        >>> architecture = TransformerArchitecture(encoders={"image": {"kind": "small_cnn"}})
        >>> model = build_multimodal_transformer(architecture, source[0]["text"])
        >>> scores = rank_candidates(model, source, task="dialogue")
        >>> len(scores[0]), scores[0][2].shape  # rounds; candidate answers of the third one
        (6, torch.Size([20]))
    """
    found: dict[int, dict[int, Tensor]] = {}
    with evaluation_batches(
        model,
        NumberedSource(source),
        collator_of(model),
        items=items,
        batch_size=batch_size,
        tick=tick,
    ) as batches:
        for batch in batches:
            asked: list[tuple[int, int, int, Conversation, list[str]]] = []
            for place, row in enumerate(row_numbers(batch, batches.rows).tolist()):
                offered = candidates_of(source[row], task)
                asked += [(place, row, n, before, texts) for n, (before, texts) in offered.items()]
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
                    encoded = encoded.select(places)
                if task == "vqa" and model.answer_head is not None:
                    in_vocabulary = model.answer_scores(prompts, encoded).cpu()
                    scores = _vocabulary_scores(model, in_vocabulary, answers)
                else:
                    scores = model.log_likelihoods(prompts, encoded, answers)
            for (_, row, number, _, _), values in zip(asked, scores, strict=True):
                found.setdefault(row, {})[number] = values
    return found


def _vocabulary_scores(
    model: MultimodalTransformer, scores: Tensor, answers: Sequence[Sequence[str]]
) -> list[Tensor]:
    """The given answers' (R, A) scores; minus infinity where one is out of vocabulary."""
    assert model.answer_head is not None
    place = {text: i for i, text in enumerate(model.answer_head.answers)}
    return [
        torch.tensor([float(row[place[t]]) if t in place else -math.inf for t in texts])
        for row, texts in zip(scores, answers, strict=True)
    ]


def candidates_of(record: Record, task: RankedTask) -> dict[int, tuple[Conversation, list[str]]]:
    """Number of a round or question -> the turns before its answer, and the candidates."""
    about = conversations(record, task)
    if task == "vqa":
        choices = choices_of(record, len(about))
        return {n: (about[n][:-1], texts) for n, texts in enumerate(choices) if texts}
    found = {}
    for number, one in enumerate(record.get("dialog") or []):
        if one.get("candidates"):
            turns = about[0][: 2 * number + 1] if task == "dialogue" else about[number][:1]
            before = tuple(turn._replace(target=False) for turn in turns)
            found[number] = (before, [str(text) for text in one["candidates"]])
    return found
