"""The interface between the trainer and a kind of model: its run, its task and one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from amodal.data.batch import Batch
from amodal.data.collate import Collator
from amodal.data.record import Source
from amodal.distributed import average_gradients
from amodal.evaluators.loop import Autocast
from amodal.evaluators.result import EvaluationResult
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.trained import Trained


@dataclass(frozen=True)
class Step:
    """One training step, as a task sees it.

    Args:
        trained: model, objectives and slow copies.
        backward: takes the loss; knows about loss scaling.
        autocast: the number format of the run.
        number: steps before this one.
        steps: of the whole run.
        logged: whether the log gets a line after this step.
    """

    trained: Trained
    backward: Callable[[Tensor], None]
    autocast: Autocast
    number: int
    steps: int
    logged: bool

    def average_gradients(self) -> None:
        """Give all processes the mean of their gradients; a task ends its backward pass so."""
        average_gradients(self.trained.parameters())


class Task(Protocol):
    """Training task: the gradient of one batch, and the score of some weights."""

    score_name: str  # of the metric that picks the best weights; more is better
    has_validation: bool
    logged: dict[str, list[Tensor]]  # values since the last call of `log_metrics`

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch into the weights, averaged over processes; the detached loss.

        A batch may be without items on some of several processes. A loss that is a sum over the
        rows of this process is multiplied by their number, see `amodal.distributed`.
        """
        ...

    def after_step(self, trained: Trained) -> None:
        """Called once the optimizer has moved the weights."""
        ...

    def log_metrics(self) -> dict[str, float]:
        """Values for the log since the last call."""
        ...

    def evaluate(self, model: PreTrainedModel, autocast: Autocast) -> dict[str, float]:
        """Flat metrics on held-out data, `score_name` among them."""
        ...


@dataclass(frozen=True)
class ModelCard:
    """Content of the model card of a run folder, beside its recipe.

    Args:
        title: the kind of model, with its article.
        usage: one line of Python that uses `model`.
        pipeline_tag: of the Hugging Face hub.
        metrics: the metrics that it shows.
    """

    title: str
    usage: str
    pipeline_tag: str
    metrics: dict[str, float] = field(default_factory=dict)


class Run(Protocol):
    """A run of one kind of model; `training.kinds` names the class of each.

    Attributes:
        notes: what the user should know as training begins.

    Args:
        recipe: with a model of this kind.
        train: training source.
        validation: held-out source, or None.
        saved: the folder of the run where it is resumed: it holds what was fitted on the training
            data when it began, and weights will come from a checkpoint; None: a new run.

    Raises:
        DataError: the training source lacks what the model needs.
    """

    recipe: Recipe
    train: Source
    collator: Collator  # with the augmentation of the recipe
    notes: Sequence[str]

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, saved: Path | None
    ) -> None: ...

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def task(self) -> Task: ...

    def trained(self) -> Trained:
        """The module for the optimizer."""
        ...

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Fit what is fitted after the weights, into the run folder."""
        ...

    def evaluate(
        self, model: Any, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], dict[str, EvaluationResult]]:
        """Metrics on the validation source with intervals, and the result of each evaluation.

        Args:
            model: the weights that the run folder keeps.
        """
        ...

    def card(self, metrics: dict[str, float]) -> ModelCard:
        """The model card; `metrics` are all of the run."""
        ...
