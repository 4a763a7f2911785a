"""Free generation over a source by a multimodal Transformer: answers, captions, dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from amodal.data.conversation import Conversation, Task, Turn, conversations
from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.candidate_ranking import RankedTask, candidates_of, rank_candidates
from amodal.evaluators.generated_text import GeneratedText, GenerationResult
from amodal.evaluators.generation_metrics import generation_metrics
from amodal.evaluators.loop import Autocast, NumberedSource, Tick, evaluation_batches, row_numbers
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.model import MultimodalTransformer

CAPTION: Conversation = (Turn("caption", "", True),)
RANKED: tuple[RankedTask, ...] = ("dialogue", "single_turn", "vqa")
MEDIA = "image"  # left out of the records that a result keeps


def evaluate_generation(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    beams: int = 1,
    max_new_tokens: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> GenerationResult:
    """Answer every question, caption every image, or go through every dialogue, and score it.

    Args:
        task: vqa, caption, dialogue or single_turn.
        items: row numbers; None means all.
        beams: of beam search; 1 is greedy.
        max_new_tokens: length limit of a generated text; None: as much as there is room for.
        bootstrap: resamples of the 95 % intervals; 0 leaves them out.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: no record has anything to generate.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_generation
        >>> from amodal.models import build_multimodal_transformer
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> source = parse_source("scenes:size=4,questions_per_scene=2").open()
        >>> architecture = TransformerArchitecture(encoders={"image": {"kind": "small_cnn"}})
        >>> model = build_multimodal_transformer(architecture, source[0]["question"])
        >>> result = evaluate_generation(model, source, "vqa", max_new_tokens=4, bootstrap=0)
        >>> result.items, result.metrics["vqa/num_answers"]  # two questions about each scene
        (4, 8)
    """
    result = generate(
        model,
        source,
        task,
        items=items,
        beams=beams,
        max_new_tokens=max_new_tokens,
        autocast=autocast,
        tick=tick,
    )
    return replace(result, metrics=generation_metrics(result, bootstrap=bootstrap, seed=seed))


def generate(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    beams: int = 1,
    max_new_tokens: int | None = None,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> GenerationResult:
    """Generated texts with their references and the scores of candidates, without metrics."""
    generations, broken = _generate(
        model,
        source,
        task,
        items=items,
        autocast=autocast,
        tick=tick,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )
    rows = dict.fromkeys(one.row for one in generations)
    records = {row: {k: v for k, v in source[row].items() if k != MEDIA} for row in rows}
    scores: dict[int, dict[int, Tensor]] = {}
    for ranked in RANKED:
        if ranked == task:
            with_candidates = [r for r, record in records.items() if candidates_of(record, ranked)]
            scores = rank_candidates(model, source, with_candidates, ranked, autocast=autocast)
    head = model.answer_head if task == "vqa" else None
    vocabulary = frozenset(head.answers if head is not None else ())
    return GenerationResult(task, generations, records, scores, vocabulary, broken)


def generate_texts(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    conversations_per_item: int | None = None,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
    **options: Any,
) -> list[GeneratedText]:
    """An answer per question, or a caption per image.

    Args:
        items: row numbers; None means all.
        conversations_per_item: the first so many questions of each; None: all. One caption is
            generated per image, whatever the number of references.
        tick: called with the number of items done, for a progress bar.
        options: of `generate`: num_beams, max_new_tokens, ...

    Raises:
        DataError: no record can be used.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import generate_texts
        >>> from amodal.models import build_multimodal_transformer
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> source = parse_source("scenes:size=1,questions_per_scene=1").open()
        >>> architecture = TransformerArchitecture(encoders={"image": {"kind": "small_cnn"}})
        >>> model = build_multimodal_transformer(architecture, source[0]["question"])
        >>> (generated,) = generate_texts(model, source, "vqa", max_new_tokens=4)
        >>> generated.prompt[0].text
        'what colour is the dotted object below the big star?'
        >>> isinstance(generated.text, str)  # the answer of an untrained model
        True
    """
    return _generate(
        model,
        source,
        task,
        items=items,
        batch_size=batch_size,
        conversations_per_item=conversations_per_item,
        autocast=autocast,
        tick=tick,
        **options,
    )[0]


def _generate(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None,
    batch_size: int = 64,
    conversations_per_item: int | None = None,
    autocast: Autocast,
    tick: Tick | None,
    **options: Any,
) -> tuple[list[GeneratedText], tuple[BrokenRecordError, ...]]:
    found: list[GeneratedText] = []
    with evaluation_batches(
        model,
        NumberedSource(source),
        collator_of(model),
        items=items,
        batch_size=batch_size,
        tick=tick,
    ) as batches:
        for batch in batches:
            with autocast():
                encoded = model.encode_inputs(batch.to(model.device))
            numbers = row_numbers(batch, batches.rows)
            asked: list[tuple[int, int, Conversation]] = []
            for place, row in enumerate(numbers.tolist()):
                about = conversations(source[row], task) if task != "caption" else [CAPTION]
                for number, turns in enumerate(about[:conversations_per_item]):
                    asked += [(place, number, prompt) for prompt in _prompts(turns)]
            for at in range(0, len(asked), 4 * batch_size):
                part = asked[at : at + 4 * batch_size]
                places = torch.tensor([place for place, _, _ in part], device=model.device)
                memory = encoded.select(places) if encoded is not None else None
                prompts = model.chat_template.prompts([prompt for _, _, prompt in part])
                with autocast():
                    decode = model.answer if task == "vqa" else model.generate_text
                    texts = decode(prompts, memory, **options)
                found += [
                    GeneratedText(int(numbers[place]), number, prompt, text)
                    for (place, number, prompt), text in zip(part, texts, strict=True)
                ]
    if not found:
        raise batches.nothing_usable(f"no record has anything to generate for {task}")
    return found, tuple(batches.broken)


def _prompts(turns: Conversation) -> list[Conversation]:
    """The conversation up to each turn to be generated, with the reference turns before it."""
    return [turns[: i + 1] for i, turn in enumerate(turns) if turn.target]
