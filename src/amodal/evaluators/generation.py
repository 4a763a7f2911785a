"""What a multimodal Transformer says about a source, and how right that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amodal.data.answer_vocabulary import AnswerVocabulary
from amodal.data.batch import Batch, key64
from amodal.data.conversation import Conversation, Task, Turn, conversations
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, DataError, Record, Source
from amodal.data.samplers import Draw
from amodal.losses.answer_classification import answer_classification_loss
from amodal.modalities.conversation import ConversationInput
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.answer_head import AnswerPredictions
from amodal.models.multimodal_transformer.layers import Memory
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.multimodal_transformer.network import TokenPredictions

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Checked:
    """How well a model goes on from the truth, token by token.

    Args:
        exact: (E,) bool, for every answer (caption) whether every token of it was the most
            likely one: what greedy decoding then says.
        item: (E,) int64 row number in the source.
        exchange: (E,) int64 which exchange about the item, from 0 on.
        turn: (E,) int64 which answer within the exchange, from 0 on.
        nats: mean -log p per token.
        broken: records that were skipped.
    """

    exact: Tensor
    item: Tensor
    conversation: Tensor
    turn: Tensor
    nats: float
    broken: tuple[BrokenRecordError, ...] = ()


@torch.inference_mode()
def check(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    autocast: Autocast = nullcontext,
    tick: Callable[[int], None] | None = None,
) -> Checked:
    """Compare what is most likely with what was said, given the truth so far.

    Raises:
        DataError: no record has anything to be said.
    """
    rows = list(items) if items is not None else list(range(len(source)))
    conversation = ConversationInput(
        "conversation", model.chat_template, {task: None}, answer_vocabulary(model)
    )
    reader = BatchReader(
        Numbered(source),
        collator_of(model, further=[conversation]),
        seed=0,
    )
    was_training = model.training
    model.eval()
    found: list[tuple[Tensor, ...]] = []
    broken: list[BrokenRecordError] = []
    nats, tokens = 0.0, 0
    end = model.chat_template.end_id
    for start in range(0, len(rows), batch_size):
        batch = reader.__getitems__([Draw(0, row) for row in rows[start : start + batch_size]])
        broken += batch.broken
        if len(batch):
            with autocast():
                said = model(batch.to(model.device))
            chunk = rows[start : start + batch_size]
            if task == "vqa" and said.classified is not None:
                of_list = said.classified
                loss = answer_classification_loss(of_list.logits, of_list.targets)
                inside = int((of_list.targets > 0).any(1).sum())
                nats += float(loss) * inside
                tokens += inside
                found.append(_chosen(of_list, row_numbers(batch, chunk)))
                continue
            log_p = said.logits.float().log_softmax(1)
            nats -= float(log_p.gather(1, said.labels[:, None]).sum())
            tokens += len(said.labels)
            found.append(_answers(said, log_p.argmax(1), end, row_numbers(batch, chunk)))
        if tick is not None:
            tick(min(start + batch_size, len(rows)))
    model.train(was_training)
    if not found or not any(len(part[0]) for part in found):
        first = f"; the first: {broken[0]}" if broken else ""
        raise DataError(f"{source.name}: no record has anything to be said for {task}{first}")
    exact, item, conversation, turn = (torch.cat(part) for part in zip(*found, strict=True))
    return Checked(exact, item, conversation, turn, nats / max(tokens, 1), tuple(broken))


@torch.inference_mode()
def generate_for(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    conversations_per_item: int | None = None,
    autocast: Autocast = nullcontext,
    tick: Callable[[int], None] | None = None,
    **options: Any,
) -> list[GeneratedText]:
    """What the model says by itself: an answer per question, or a caption per image.

    Args:
        items: row numbers; None means all.
        exchanges_per_item: the first so many questions of each; None: all. A caption is asked for
            once, whatever the number of true ones.
        options: of `generate`: num_beams, max_new_tokens, ...

    Raises:
        DataError: no record can be used.
    """
    rows = list(items) if items is not None else list(range(len(source)))
    reader = BatchReader(Numbered(source), collator_of(model), seed=0)
    was_training = model.training
    model.eval()
    found: list[GeneratedText] = []
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        batch = reader.__getitems__([Draw(0, row) for row in chunk])
        if len(batch):
            with autocast():
                encoded = model.encode_inputs(batch.to(model.device))
            numbers = row_numbers(batch, chunk)
            asked: list[tuple[int, int, Conversation]] = []
            for place, row in enumerate(numbers.tolist()):
                about = conversations(source[row], task) if task != "caption" else [CAPTION]
                for number, turns in enumerate(about[:conversations_per_item]):
                    asked += [(place, number, prompt) for prompt in _prompts(turns)]
            for at in range(0, len(asked), 4 * batch_size):
                part = asked[at : at + 4 * batch_size]
                places = torch.tensor([place for place, _, _ in part], device=model.device)
                memory_rows = (
                    Memory(encoded.tokens[places], encoded.keep[places])
                    if encoded is not None
                    else None
                )
                prompts = model.chat_template.prompts([prompt for _, _, prompt in part])
                with autocast():
                    generate = model.answer if task == "vqa" else model.generate_text
                    texts = generate(prompts, memory_rows, **options)
                found += [
                    GeneratedText(int(numbers[place]), number, prompt, text)
                    for (place, number, prompt), text in zip(part, texts, strict=True)
                ]
        if tick is not None:
            tick(min(start + batch_size, len(rows)))
    model.train(was_training)
    if not found:
        raise DataError(f"{source.name}: no record has anything to be said for {task}")
    return found


CAPTION: Conversation = (Turn("caption", "", True),)


class GeneratedText(NamedTuple):
    """What was said.

    Args:
        row: number of the record in the source.
        exchange: which exchange about it, from 0 on.
        prompt: the turns before, the last of them what was asked for.
        text: what the model said.
    """

    row: int
    conversation: int
    prompt: Conversation
    text: str


def answer_vocabulary(model: MultimodalTransformer) -> AnswerVocabulary | None:
    """What makes targets for the list of answers of a model; None where it says them."""
    return AnswerVocabulary(model.answer_head.answers) if model.answer_head is not None else None


def _chosen(found: AnswerPredictions, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each answer chosen from the list is right, and where it stands."""
    right = (found.logits.argmax(1) == found.labels).cpu()
    conversation = found.conversation.cpu() - 1
    return right, numbers[found.item.cpu()], conversation, torch.zeros_like(conversation)


def _prompts(turns: Conversation) -> list[Conversation]:
    """The exchange up to each turn that is to be said, with the true turns before it."""
    return [turns[: i + 1] for i, turn in enumerate(turns) if turn.target]


def _answers(
    said: TokenPredictions, guess: Tensor, end: int, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each answer is right to its end, and where it stands."""
    right = (guess == said.labels).cpu()
    item, conversation = said.item.cpu(), said.conversation.cpu()
    done = (said.labels == end).cpu()
    # Tokens stand in order; an answer ends with its end token, an image with its exchange.
    done[:-1] |= (item[1:] != item[:-1]) | (conversation[1:] != conversation[:-1])
    number = torch.cat([torch.zeros(1, dtype=torch.int64), done.cumsum(0)[:-1]])
    count = int(number[-1]) + 1 if len(number) else 0
    wrong = torch.zeros(count, dtype=torch.int64).index_add_(0, number, (~right).long())
    first = torch.full((count,), len(number)).scatter_reduce_(
        0, number, torch.arange(len(number)), "amin"
    )
    item, conversation = item[first], conversation[first] - 1
    same = torch.zeros(count, dtype=torch.bool)
    same[1:] = (item[1:] == item[:-1]) & (conversation[1:] == conversation[:-1])
    place = torch.arange(count)
    begun = torch.where(same, 0, place).cummax(0).values
    return wrong == 0, numbers[item], conversation, place - begun


class Numbered:
    """A source whose records have their row number as id, so that batches can name them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.inputs = source.name, source.inputs

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return {**self.source[index], "id": str(index)}


def row_numbers(batch: Batch, rows: Sequence[int]) -> Tensor:
    """(B,) row numbers of the items of a batch."""
    known = {key64(str(row)): row for row in rows}
    return torch.tensor([known[key] for key in batch.item.tolist()])
