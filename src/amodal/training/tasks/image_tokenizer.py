"""Runs of an image tokenizer: reconstruction loss, peak signal-to-noise ratio on held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from amodal.data.batch import Batch
from amodal.data.record import Source
from amodal.distributed import gather_integers, world_size
from amodal.evaluators.loop import Autocast
from amodal.evaluators.reconstruction import evaluate_reconstruction
from amodal.evaluators.result import EvaluationResult
from amodal.losses.reconstruction import ReconstructionConfig, reconstruction_loss
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TokenizerArchitecture,
)
from amodal.models.inputs import check_source, collator_of
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.image_tokenizer import ImageTokenizerRecipe
from amodal.training.tasks.protocol import ModelCard, Step
from amodal.training.trained import Trained


class ImageTokenizerRun:
    """Model, batches and task of an image tokenizer; see `protocol.Run`.

    Raises:
        DataError: the training source has no images.
    """

    notes: Sequence[str] = ()

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, saved: Path | None
    ) -> None:
        options = cast(ImageTokenizerRecipe, recipe.model)
        check_source(options.types, options.encoders, train)
        self.recipe, self.train, self.validation = recipe, train, validation
        architecture = TokenizerArchitecture(**options.model_dump(exclude={"kind"}))
        self.model = ImageTokenizer(ImageTokenizerConfig(architecture.model_dump(mode="json")))
        self.collator = collator_of(self.model, steps=recipe.steps())
        self.task = ImageTokenizerTask(
            cast(ReconstructionConfig, recipe.objectives[0]),
            micro_batch_size=recipe.train.micro_batch_size,
            validation=validation,
            max_validation_items=recipe.data.max_validation_items,
        )

    def trained(self) -> Trained:
        return Trained(self.model, nn.Module(), self.recipe.train.ema)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Nothing is fitted after the weights."""

    def evaluate(
        self, model: ImageTokenizer, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], dict[str, EvaluationResult]]:
        """Reconstruction error on the validation source."""
        assert self.validation is not None
        result = evaluate_reconstruction(
            model, self.validation, autocast=autocast, tick=callbacks.advance
        )
        return dict(result.metrics), {"reconstruction": result}

    def card(self, metrics: dict[str, float]) -> ModelCard:
        return ModelCard(
            title="An image tokenizer",
            usage="codes = model.encode(pixel_values)",
            pipeline_tag="image-to-image",
            metrics={n: v for n, v in metrics.items() if n.startswith("reconstruction/")},
        )


class ImageTokenizerTask:
    """Reconstruction; the best weights have the highest peak signal-to-noise ratio.

    Args:
        config: the loss.
        micro_batch_size: images at once; None: the whole batch.
        validation: source to measure on, or None.
        max_validation_items: so many of its first items; None: all.
    """

    score_name = "reconstruction/psnr"

    def __init__(
        self,
        config: ReconstructionConfig,
        *,
        micro_batch_size: int | None = None,
        validation: Source | None = None,
        max_validation_items: int | None = None,
    ) -> None:
        self.config, self.micro_batch_size = config, micro_batch_size
        self.validation = validation
        self.has_validation = validation is not None
        self.max_validation_items = max_validation_items
        self.logged: dict[str, list[Tensor]] = {}

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; the codebook learns from every part of it."""
        parts = batch.split(self.micro_batch_size or len(batch))
        images = [int(part.present["image"].sum()) for part in parts]
        # Averaged over processes, the contribution of each counts as often as there are processes.
        whole = max(sum(count for (count,) in gather_integers([sum(images)])), 1) / world_size()
        total = torch.zeros((), device=batch.item.device)
        for part, count in zip(parts, images, strict=True):
            with step.autocast():
                found = step.trained(part)
            target = part.tensors["image"]["pixel_values"][part.present["image"].reshape(-1)]
            with torch.autocast(batch.item.device.type, enabled=False):
                loss = reconstruction_loss(found.pixels, target, found.commitment, self.config)
            share = self.config.weight * count / whole
            total = total + share * loss.detach()
            self.logged.setdefault("perplexity", []).append(found.perplexity.detach())
            self.logged.setdefault("resampled_codes", []).append(found.resampled.detach())
            step.backward(share * loss)
        step.average_gradients()
        return total

    def after_step(self, trained: Trained) -> None:
        """Nothing has to be put back into bounds."""

    def log_metrics(self) -> dict[str, float]:
        """Since the last call: perplexity of the codes of a batch; dead codes resampled."""
        if not self.logged:
            return {"perplexity": 0.0, "resampled_codes": 0.0}
        found = {
            "perplexity": float(torch.stack(self.logged["perplexity"]).mean()),
            "resampled_codes": float(torch.stack(self.logged["resampled_codes"]).sum()),
        }
        self.logged.clear()
        return found

    def evaluate(self, model: PreTrainedModel, autocast: Autocast) -> dict[str, float]:
        """Reconstruction error on the validation source."""
        assert self.validation is not None
        size = min(self.max_validation_items or len(self.validation), len(self.validation))
        tokenizer = cast(ImageTokenizer, model)
        return evaluate_reconstruction(
            tokenizer, self.validation, items=range(size), autocast=autocast
        ).metrics
