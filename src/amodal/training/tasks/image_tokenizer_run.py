"""What a run of an image tokenizer is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from torch import nn

from amodal.data.record import Source
from amodal.losses.reconstruction import ReconstructionConfig
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TokenizerArchitecture,
)
from amodal.models.inputs import check_source, collator_of
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.image_tokenizer import ImageTokenizerRecipe
from amodal.training.tasks.image_tokenizer_task import TokenizerTask, reconstruction_metrics
from amodal.training.trainer import Trained

Autocast = Callable[[], AbstractContextManager[object]]


class TokenizerRun:
    """Model, batches and task of an image tokenizer.

    Args:
        recipe: with a model of kind image_tokenizer.
        train: training source.
        validation: held-out source, or None.
        resume: weights will come from a checkpoint.

    Raises:
        DataError: the training source has no images.
    """

    title = "An image tokenizer"
    pipeline = "image-to-image"
    usage = "codes = model.encode(pixel_values)"

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, resume: bool
    ) -> None:
        options = recipe.model
        assert isinstance(options, ImageTokenizerRecipe)
        check_source(options.types, train)
        self.recipe, self.train, self.validation = recipe, train, validation
        architecture = TokenizerArchitecture(**options.model_dump(exclude={"kind"}))
        config = ImageTokenizerConfig(architecture.model_dump(mode="json"))
        self.model = ImageTokenizer(config)
        self.collator = collator_of(self.model, steps=recipe.steps())
        (objective,) = (o for o in recipe.objectives if isinstance(o, ReconstructionConfig))
        self.task = TokenizerTask(
            objective,
            chunk=recipe.train.micro_batch_size,
            validation=validation,
            validation_items=recipe.data.validation_items,
        )

    def trained(self) -> Trained:
        """What the optimizer sees."""
        return Trained(self.model, nn.Module(), self.recipe.train.ema)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Nothing is fitted after the weights."""

    def reopened(self, folder: Path) -> ImageTokenizer:
        """The model that the folder now holds."""
        return ImageTokenizer.from_pretrained(folder)

    def measured(
        self, kept: ImageTokenizer, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], None]:
        """How alike the images of the validation source are once they have come back."""
        assert self.validation is not None
        rows = range(len(self.validation))
        return reconstruction_metrics(
            kept, self.validation, rows, autocast=autocast, tick=callbacks.advance
        ), None

    def shown(self, metrics: dict[str, float]) -> dict[str, float]:
        """The figures that a model card shows."""
        return {n: v for n, v in metrics.items() if n.startswith("reconstruction/")}
