"""Learning to say: cross-entropy of the true tokens, exact answers on held-out items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from amodal.data.answer_vocabulary import NOT_A_QUESTION
from amodal.data.batch import Batch
from amodal.data.conversation import Task as What
from amodal.data.record import Source
from amodal.evaluators.generation import check
from amodal.losses.answer_classification import answer_classification_loss
from amodal.losses.language_modeling import LanguageModelingConfig, language_modeling_loss
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.opening import RunModel
from amodal.training.objectives import Objectives
from amodal.training.trainer import Step, Trained


class MultimodalTransformerTask:
    """Language modeling in micro-batches; the best weights say most answers exactly.

    Captions have no single right wording, and images no single right look, so there the
    likelihood of the true ones decides: the geometric mean of what each of their tokens got.

    Args:
        config: the loss.
        tasks: what is said.
        chunk: items at once; None: the whole batch.
        validation: source to measure on, or None.
        validation_items: so many of its first items; None: all.
        contrast: objectives over what the model embeds, added to the loss; needs a whole batch.
    """

    def __init__(
        self,
        config: LanguageModelingConfig,
        tasks: Sequence[What],
        *,
        chunk: int | None = None,
        validation: Source | None = None,
        validation_items: int | None = None,
        contrast: Objectives | None = None,
    ) -> None:
        self.config, self.tasks, self.chunk = config, tuple(tasks), chunk
        self.validation = validation
        self.measures = validation is not None
        self.validation_items = validation_items
        self.score_name = "score"
        self.contrast = contrast
        self.right: list[Tensor] = []
        self.compared: list[Tensor] = []
        self.outside: list[Tensor] = []

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; parts count by what is to be said in them."""
        parts = batch.split(self.chunk or len(batch))
        counts = [self._count(part) for part in parts]
        total = max(sum(counts), 1)
        listed = [_listed(part) for part in parts]
        loss_of_all = torch.zeros((), device=batch.item.device)
        for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
            with step.autocast():
                said = step.model(part)
            with torch.autocast(batch.item.device.type, enabled=False):
                loss = language_modeling_loss(
                    said.logits,
                    said.labels,
                    said.item * (1 << 20) + said.conversation,
                    smoothing=self.config.smoothing,
                    per=self.config.per,
                )
                weighted = self.config.weight * count / total * loss
                if said.classified is not None:
                    chosen = answer_classification_loss(
                        said.classified.logits, said.classified.targets
                    )
                    share = self.config.weight * listed[i] / max(sum(listed), 1)
                    weighted = weighted + share * chosen
                    inside = (said.classified.targets > 0).any(1)
                    self.outside.append((~inside).float())
                if self.contrast is not None:
                    compared, _ = self.contrast(said.embedded)
                    self.compared.append(compared.detach())
                    weighted = weighted + compared
            loss_of_all = loss_of_all + weighted.detach()
            if len(said.labels):
                with torch.no_grad():
                    self.right.append((said.logits.argmax(1) == said.labels).float().mean())
            if i < len(parts) - 1:
                with step.no_sync():
                    step.backward(weighted)
            else:
                step.backward(weighted)
        return loss_of_all

    def _count(self, part: Batch) -> int:
        labels, segment = (
            part.tensors["conversation"]["labels"],
            part.tensors["conversation"]["segment"],
        )
        said = labels >= 0
        asked = part.tensors["conversation"].get("asked")
        if asked is not None:
            item = torch.arange(len(labels), device=labels.device)[:, None]
            said &= asked[..., 0][item, (segment - 1).clamp(min=0)] == NOT_A_QUESTION
        if self.config.per == "token":
            return int(said.sum())
        return sum(len(segment[i][said[i]].unique()) for i in range(len(part)))

    def after_step(self, trained: Trained) -> None:
        """Put learned temperatures back into their bounds."""
        if self.contrast is not None:
            self.contrast.constrain_()

    def figures(self) -> dict[str, float]:
        """Share of tokens that were most likely, since the last call."""
        found = torch.stack(self.right).mean() if self.right else torch.tensor(0.0)
        self.right.clear()
        figures = {"token_accuracy": float(found)}
        if self.outside:
            figures["vqa/answers_outside_list"] = float(torch.cat(self.outside).mean())
            self.outside.clear()
        if self.contrast is not None:
            if self.compared:
                figures["contrast"] = float(torch.stack(self.compared).mean())
                self.compared.clear()
            figures |= self.contrast.temperatures()
        return figures

    def measure(
        self, model: RunModel, autocast: Callable[[], AbstractContextManager[object]]
    ) -> dict[str, float]:
        """Exact answers and likelihood on the validation source."""
        assert self.validation is not None
        assert isinstance(model, MultimodalTransformer)
        size = min(self.validation_items or len(self.validation), len(self.validation))
        values: dict[str, float] = {}
        scores = []
        for task in self.tasks:
            found = check(model, self.validation, task, items=range(size), autocast=autocast)
            values[f"{task}/exact"] = float(found.exact.float().mean())
            values[f"{task}/likelihood"] = -found.nats
            likely = task in ("caption", "text_to_image")
            scores.append(math.exp(-found.nats) if likely else values[f"{task}/exact"])
        return {**values, self.score_name: sum(scores) / len(scores)}


def _listed(part: Batch) -> int:
    """How many questions have an answer in the list."""
    asked = part.tensors["conversation"].get("asked")
    return int((asked[..., 1:] > 0).any(2).sum()) if asked is not None else 0
