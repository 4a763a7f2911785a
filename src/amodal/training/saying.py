"""What a multimodal Transformer says about a source, and how right that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amodal.data.batch import Batch, key64
from amodal.data.collate import BatchReader, Collator
from amodal.data.exchange import Exchange, Task, Turn, exchanges
from amodal.data.record import BrokenRecordError, DataError, Record, Source, sample_rng
from amodal.data.samplers import Draw
from amodal.models.multimodal_transformer import MultimodalTransformer, Said
from amodal.models.transformer_layers import Memory

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
    exchange: Tensor
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
    reader = BatchReader(
        _Numbered(source), Collator(model.preprocessors, tasks={task: None}), seed=0
    )
    was_training = model.training
    model.eval()
    found: list[tuple[Tensor, ...]] = []
    broken: list[BrokenRecordError] = []
    nats, tokens = 0.0, 0
    end = model.turns.end_id
    for start in range(0, len(rows), batch_size):
        batch = reader.__getitems__([Draw(0, row) for row in rows[start : start + batch_size]])
        broken += batch.broken
        if len(batch):
            with autocast():
                said = model(batch.to(model.device))
            log_p = said.logits.float().log_softmax(1)
            nats -= float(log_p.gather(1, said.labels[:, None]).sum())
            tokens += len(said.labels)
            chunk = rows[start : start + batch_size]
            found.append(_answers(said, log_p.argmax(1), end, _numbers(batch, chunk)))
        if tick is not None:
            tick(min(start + batch_size, len(rows)))
    model.train(was_training)
    if not tokens:
        first = f"; the first: {broken[0]}" if broken else ""
        raise DataError(f"{source.name}: no record has anything to be said for {task}{first}")
    exact, item, exchange, turn = (torch.cat(part) for part in zip(*found, strict=True))
    return Checked(exact, item, exchange, turn, nats / tokens, tuple(broken))


@torch.inference_mode()
def say_about(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    exchanges_per_item: int | None = None,
    autocast: Autocast = nullcontext,
    tick: Callable[[int], None] | None = None,
    **options: Any,
) -> list[Utterance]:
    """What the model says by itself: an answer per question, or a caption per picture.

    Args:
        items: row numbers; None means all.
        exchanges_per_item: the first so many questions of each; None: all. A caption is asked for
            once, whatever the number of true ones.
        options: of `generate`: num_beams, max_new_tokens, ...

    Raises:
        DataError: no record can be used.
    """
    rows = list(items) if items is not None else list(range(len(source)))
    pictures = {m: p for m, p in model.preprocessors.items() if m != "turns"}
    reader = BatchReader(_Numbered(source), Collator(pictures), seed=0)
    was_training = model.training
    model.eval()
    found: list[Utterance] = []
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        batch = reader.__getitems__([Draw(0, row) for row in chunk])
        if len(batch):
            with autocast():
                seen = model.seen(batch.to(model.device))
            numbers = _numbers(batch, chunk)
            asked: list[tuple[int, int, Exchange]] = []
            for place, row in enumerate(numbers.tolist()):
                about = exchanges(source[row], task) if task != "caption" else [CAPTION]
                for number, turns in enumerate(about[:exchanges_per_item]):
                    asked += [(place, number, prompt) for prompt in _prompts(turns)]
            for at in range(0, len(asked), 4 * batch_size):
                part = asked[at : at + 4 * batch_size]
                places = torch.tensor([place for place, _, _ in part], device=model.device)
                looked = (
                    Memory(seen.tokens[places], seen.keep[places]) if seen is not None else None
                )
                prompts = model.turns.prompts([prompt for _, _, prompt in part])
                with autocast():
                    texts = model.say(prompts, looked, **options)
                found += [
                    Utterance(int(numbers[place]), number, prompt, text)
                    for (place, number, prompt), text in zip(part, texts, strict=True)
                ]
        if tick is not None:
            tick(min(start + batch_size, len(rows)))
    model.train(was_training)
    if not found:
        raise DataError(f"{source.name}: no record has anything to be said for {task}")
    return found


@torch.inference_mode()
def rank_candidates(
    model: MultimodalTransformer,
    source: Source,
    items: Sequence[int],
    *,
    autocast: Autocast = nullcontext,
) -> dict[int, Tensor]:
    """How likely each candidate answer of each round of a dialogue is, given the true history.

    Returns:
        row number -> (rounds, C) float32 log-likelihoods per token, for records whose rounds all
        have equally many `candidates`.
    """
    seen = {m: p for m, p in model.preprocessors.items() if m != "turns"}
    collate = Collator(seen)
    was_training = model.training
    model.eval()
    found: dict[int, Tensor] = {}
    for row in items:
        record = source[row]
        rounds = record.get("dialog") or []
        sizes = {len(one.get("candidates") or ()) for one in rounds}
        if len(sizes) != 1 or sizes == {0}:
            continue
        (turns,) = exchanges(record, "dialogue")
        rows: list[list[Exchange]] = []
        for number, one in enumerate(rounds):
            before = tuple(turn._replace(learned=False) for turn in turns[: 2 * number + 1])
            rows.append([(*before, Turn("answer", str(c), True)) for c in one["candidates"]])
        batch = collate([record] * len(rows), [sample_rng(0, 0, 0)] * len(rows))
        if len(batch) < len(rows):
            continue  # the picture is broken
        tensors = {**batch.tensors, "turns": model.turns(rows)}
        there = torch.ones(len(rows), 1, dtype=torch.bool)
        whole = replace(batch, tensors=tensors, present={**batch.present, "turns": there})
        with autocast():
            said = model(whole.to(model.device))
        log_p = said.logits.float().log_softmax(1).gather(1, said.labels[:, None])[:, 0].cpu()
        place = (said.item * next(iter(sizes)) + said.exchange - 1).cpu()
        total = torch.zeros(len(rows) * next(iter(sizes)))
        count = torch.zeros_like(total).index_add_(0, place, torch.ones_like(log_p))
        found[row] = (total.index_add_(0, place, log_p) / count.clamp(min=1)).view(len(rows), -1)
    model.train(was_training)
    return found


CAPTION: Exchange = (Turn("caption", "", True),)


class Utterance(NamedTuple):
    """What was said.

    Args:
        row: number of the record in the source.
        exchange: which exchange about it, from 0 on.
        prompt: the turns before, the last of them what was asked for.
        text: what the model said.
    """

    row: int
    exchange: int
    prompt: Exchange
    text: str


def _prompts(turns: Exchange) -> list[Exchange]:
    """The exchange up to each turn that is to be said, with the true turns before it."""
    return [turns[: i + 1] for i, turn in enumerate(turns) if turn.learned]


def _answers(
    said: Said, guess: Tensor, end: int, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each answer is right to its end, and where it stands."""
    right = (guess == said.labels).cpu()
    item, exchange = said.item.cpu(), said.exchange.cpu()
    done = (said.labels == end).cpu()
    # Tokens stand in order; an answer ends with its end token, a picture with its exchange.
    done[:-1] |= (item[1:] != item[:-1]) | (exchange[1:] != exchange[:-1])
    number = torch.cat([torch.zeros(1, dtype=torch.int64), done.cumsum(0)[:-1]])
    count = int(number[-1]) + 1 if len(number) else 0
    wrong = torch.zeros(count, dtype=torch.int64).index_add_(0, number, (~right).long())
    first = torch.full((count,), len(number)).scatter_reduce_(
        0, number, torch.arange(len(number)), "amin"
    )
    item, exchange = item[first], exchange[first] - 1
    same = torch.zeros(count, dtype=torch.bool)
    same[1:] = (item[1:] == item[:-1]) & (exchange[1:] == exchange[:-1])
    place = torch.arange(count)
    begun = torch.where(same, 0, place).cummax(0).values
    return wrong == 0, numbers[item], exchange, place - begun


class _Numbered:
    """A source whose records have their row number as id, so that batches can name them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.modalities = source.name, source.modalities

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return {**self.source[index], "id": str(index)}


def _numbers(batch: Batch, rows: Sequence[int]) -> Tensor:
    """(B,) row numbers of the items of a batch."""
    known = {key64(str(row)): row for row in rows}
    return torch.tensor([known[key] for key in batch.item.tolist()])
