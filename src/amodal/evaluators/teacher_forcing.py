"""Teacher-forced evaluation: exact match and nll of each token given the reference before it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.data.answer_vocabulary import AnswerVocabulary
from amodal.data.conversation import Task
from amodal.data.record import BrokenRecordError, Source
from amodal.evaluators.loop import Autocast, NumberedSource, Tick, evaluation_batches, row_numbers
from amodal.losses.answer_classification import answer_classification_loss
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.answer_head import AnswerPredictions
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.multimodal_transformer.network import TokenPredictions


@dataclass(frozen=True)
class TeacherForcedResult:
    """Token by token prediction of the references, each token given the reference before it.

    Args:
        task: what was evaluated.
        exact: (E,) bool, for every answer (caption) whether every token of it was the most
            likely one: then greedy decoding gives the reference.
        item: (E,) int64 row number in the source.
        conversation: (E,) int64 which conversation about the item, from 0 on.
        turn: (E,) int64 which answer within the conversation, from 0 on.
        nll: mean negative log-likelihood in nats per token.
        broken: records that were skipped.
    """

    task: Task
    exact: Tensor
    item: Tensor
    conversation: Tensor
    turn: Tensor
    nll: float
    broken: tuple[BrokenRecordError, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """`TASK/exact_match` and `TASK/nll`."""
        return {
            f"{self.task}/exact_match": float(self.exact.float().mean()),
            f"{self.task}/nll": self.nll,
        }

    @property
    def items(self) -> int:
        return len(self.item.unique())


def evaluate_teacher_forced(
    model: MultimodalTransformer,
    source: Source,
    task: Task,
    *,
    items: Sequence[int] | None = None,
    batch_size: int = 64,
    autocast: Autocast = nullcontext,
    tick: Tick | None = None,
) -> TeacherForcedResult:
    """Compare the most likely tokens with the references, given the reference so far.

    Args:
        items: row numbers; None means all.
        tick: called with the number of items done, for a progress bar.

    Raises:
        DataError: no record has anything to generate.

    Examples:
        >>> from amodal.data import parse_source
        >>> from amodal.evaluators import evaluate_teacher_forced
        >>> from amodal.models import build_multimodal_transformer
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> source = parse_source("scenes:size=4,questions_per_scene=2").open()
        >>> architecture = TransformerArchitecture(encoders={"image": {"kind": "small_cnn"}})
        >>> model = build_multimodal_transformer(architecture, source[0]["question"])
        >>> result = evaluate_teacher_forced(model, source, "vqa")
        >>> sorted(result.metrics)
        ['vqa/exact_match', 'vqa/nll']
        >>> len(result.exact)  # one per answer
        8
    """
    found: list[tuple[Tensor, ...]] = []
    nll, tokens = 0.0, 0
    end = model.chat_template.end_id
    collator = collator_of(model, tasks={task: None}, answers=answer_vocabulary(model))
    with evaluation_batches(
        model, NumberedSource(source), collator, items=items, batch_size=batch_size, tick=tick
    ) as batches:
        for batch in batches:
            with autocast():
                predicted = model(batch.to(model.device))
            numbers = row_numbers(batch, batches.rows)
            if task == "vqa" and predicted.classified is not None:
                classified = predicted.classified
                loss = answer_classification_loss(classified.logits, classified.targets)
                in_vocabulary = int((classified.targets > 0).any(1).sum())
                nll += float(loss) * in_vocabulary
                tokens += in_vocabulary
                found.append(_classified(classified, numbers))
                continue
            log_p = predicted.logits.float().log_softmax(1)
            nll -= float(log_p.gather(1, predicted.labels[:, None]).sum())
            tokens += len(predicted.labels)
            found.append(_answers(predicted, log_p.argmax(1), end, numbers))
    if not any(len(part[0]) for part in found):
        raise batches.nothing_usable(f"no record has anything to generate for {task}")
    exact, item, conversation, turn = (torch.cat(part) for part in zip(*found, strict=True))
    return TeacherForcedResult(
        task, exact, item, conversation, turn, nll / max(tokens, 1), tuple(batches.broken)
    )


def answer_vocabulary(model: MultimodalTransformer) -> AnswerVocabulary | None:
    """The answer vocabulary of a model that classifies answers; None where it generates them."""
    return AnswerVocabulary(model.answer_head.answers) if model.answer_head is not None else None


def _classified(found: AnswerPredictions, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each classified answer is correct, and where it stands."""
    correct = (found.logits.argmax(1) == found.labels).cpu()
    conversation = found.conversation.cpu() - 1
    return correct, numbers[found.item.cpu()], conversation, torch.zeros_like(conversation)


def _answers(
    predicted: TokenPredictions, guess: Tensor, end: int, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each answer is correct to its end, and where it stands."""
    correct = (guess == predicted.labels).cpu()
    item, conversation = predicted.item.cpu(), predicted.conversation.cpu()
    done = (predicted.labels == end).cpu()
    # Tokens stand in order; an answer ends with its end token, an image with its conversation.
    done[:-1] |= (item[1:] != item[:-1]) | (conversation[1:] != conversation[:-1])
    number = torch.cat([torch.zeros(1, dtype=torch.int64), done.cumsum(0)[:-1]])
    count = int(number[-1]) + 1 if len(number) else 0
    wrong = torch.zeros(count, dtype=torch.int64).index_add_(0, number, (~correct).long())
    first = torch.full((count,), len(number)).scatter_reduce_(
        0, number, torch.arange(len(number)), "amin"
    )
    item, conversation = item[first], conversation[first] - 1
    same = torch.zeros(count, dtype=torch.bool)
    same[1:] = (item[1:] == item[:-1]) & (conversation[1:] == conversation[:-1])
    place = torch.arange(count)
    begun = torch.where(same, 0, place).cummax(0).values
    return wrong == 0, numbers[item], conversation, place - begun
