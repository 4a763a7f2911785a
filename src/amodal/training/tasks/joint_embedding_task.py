"""Learning a joint embedding: objectives over the rows of a batch, recall on held-out items."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from amodal.data.batch import Batch
from amodal.data.record import Source
from amodal.distributed import world_size
from amodal.evaluators.retrieval import embed_items, mean_recall, retrieval_metrics
from amodal.models.joint_embedding import Embeddings, JointEmbedding, concatenate
from amodal.models.opening import RunModel
from amodal.training.objectives import Objectives
from amodal.training.optim.grad_cache import backward_in_chunks
from amodal.training.trainer import Step, Trained

Slow = dict[str, Embeddings] | None  # rows of the momentum encoder


class EmbeddingTask:
    """Weighted objectives, exact in micro-batches; the best weights have the highest recall.

    Args:
        objectives: over the embeddings of a batch.
        chunk: items encoded at once; None: the whole batch.
        validation: source on which recall is measured, or None.
        validation_items: so many of its first items; None: all.
    """

    score_name = "mean_recall"

    def __init__(
        self,
        objectives: Objectives,
        *,
        chunk: int | None = None,
        validation: Source | None = None,
        validation_items: int | None = None,
    ) -> None:
        self.objectives = objectives
        self.chunk = chunk
        self.validation = validation
        self.measures = validation is not None
        self.validation_items = validation_items
        self.components: dict[str, list[Tensor]] = {}

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; `chunk` items are encoded at a time."""
        slow = self._slow_rows(batch, step)
        loss_of = partial(self._loss_of, step=step, slow=slow)
        if self.chunk is not None and self.chunk < len(batch):
            return self._in_chunks(batch, step, loss_of, self.chunk)
        with step.autocast():
            loss = loss_of(step.model(batch))
        step.backward(loss)
        return loss.detach()

    def after_step(self, trained: Trained) -> None:
        """Put learned temperatures back into their bounds."""
        self.objectives.constrain_()

    def figures(self) -> dict[str, float]:
        """Means of the objectives since the last call, temperatures and what else they tell."""
        found = {name: float(torch.stack(v).mean()) for name, v in self.components.items()}
        self.components.clear()
        return {**found, **self.objectives.temperatures(), **self.objectives.figures()}

    def measure(
        self, model: RunModel, autocast: Callable[[], AbstractContextManager[object]]
    ) -> dict[str, float]:
        """Recall on the validation source, in every direction."""
        assert self.validation is not None
        assert isinstance(model, JointEmbedding)
        size = len(self.validation)
        embedded = embed_items(
            model,
            self.validation,
            items=range(min(self.validation_items or size, size)),
            autocast=autocast,
        )
        values = retrieval_metrics(embedded.rows)
        return {**values, self.score_name: mean_recall(values)}

    @torch.no_grad()
    def _slow_rows(self, batch: Batch, step: Step) -> Slow:
        """The batch as the momentum encoder embeds it, or None where no objective wants that."""
        slow = step.trained.momentum
        if slow is None:
            return None
        with step.autocast():
            parts = batch.split(self.chunk or len(batch))
            found = concatenate([slow.module(part) for part in parts])
        return {m: rows._replace(z=rows.z.float()) for m, rows in found.items()}

    def _in_chunks(
        self,
        batch: Batch,
        step: Step,
        loss_of: Callable[[dict[str, Embeddings]], Tensor],
        chunk: int,
    ) -> Tensor:
        network = step.trained.network
        assert isinstance(network, JointEmbedding)
        with step.no_sync():
            loss = backward_in_chunks(
                step.model,
                network,
                loss_of,
                batch,
                chunk=chunk,
                backward=step.backward,
                autocast=step.autocast,
            )
        if world_size() > 1:
            for parameter in step.trained.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad, torch.distributed.ReduceOp.AVG)
        return loss

    def _loss_of(self, embedded: dict[str, Embeddings], *, step: Step, slow: Slow) -> Tensor:
        device = next(iter(embedded.values())).z.device.type
        with torch.autocast(device, enabled=False):
            rows = {m: found._replace(z=found.z.float()) for m, found in embedded.items()}
            loss, values = self.objectives(rows, slow)
            for name, value in values.items():
                self.components.setdefault(f"loss/{name}", []).append(value.detach())
            if len(values) > 1 and step.logged:
                for name, norm in self.objectives.gradient_norms(rows, values).items():
                    self.components[f"gradient_norm/{name}"] = [torch.tensor(norm)]
        return loss
