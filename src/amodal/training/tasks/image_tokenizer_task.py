"""Learning to turn images into tokens and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from amodal.data.batch import Batch
from amodal.data.reader import BatchReader
from amodal.data.record import DataError, Source
from amodal.data.samplers import Draw
from amodal.losses.reconstruction import ReconstructionConfig, reconstruction_loss
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.inputs import collator_of
from amodal.models.opening import RunModel
from amodal.training.trainer import Step, Trained

Autocast = Callable[[], AbstractContextManager[object]]


class TokenizerTask:
    """Reconstruction; the best weights have the highest peak signal-to-noise ratio.

    Args:
        config: the loss.
        chunk: images at once; None: the whole batch.
        validation: source to measure on, or None.
        validation_items: so many of its first items; None: all.
    """

    score_name = "reconstruction/psnr"

    def __init__(
        self,
        config: ReconstructionConfig,
        *,
        chunk: int | None = None,
        validation: Source | None = None,
        validation_items: int | None = None,
    ) -> None:
        self.config, self.chunk = config, chunk
        self.validation = validation
        self.measures = validation is not None
        self.validation_items = validation_items
        self.perplexity: list[Tensor] = []
        self.revived: list[Tensor] = []

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; the codebook of codes learns from every part of it."""
        parts = batch.split(self.chunk or len(batch))
        total = torch.zeros((), device=batch.item.device)
        for i, part in enumerate(parts):
            with step.autocast():
                found = step.model(part)
            target = part.tensors["image"]["pixel_values"][part.present["image"].reshape(-1)]
            with torch.autocast(batch.item.device.type, enabled=False):
                loss = reconstruction_loss(found.pixels, target, found.commitment, self.config)
            share = self.config.weight * len(part) / len(batch)
            total = total + share * loss.detach()
            self.perplexity.append(found.perplexity.detach())
            self.revived.append(found.revived.detach())
            if i < len(parts) - 1:
                with step.no_sync():
                    step.backward(share * loss)
            else:
                step.backward(share * loss)
        return total

    def after_step(self, trained: Trained) -> None:
        """Nothing has to be put back into bounds."""

    def figures(self) -> dict[str, float]:
        """Since the last call: codes that a batch used, as a perplexity; dead ones drawn anew."""
        if not self.perplexity:
            return {"perplexity": 0.0, "restarted_codes": 0.0}
        found = {
            "perplexity": float(torch.stack(self.perplexity).mean()),
            "restarted_codes": float(torch.stack(self.revived).sum()),
        }
        self.perplexity.clear()
        self.revived.clear()
        return found

    def measure(self, model: RunModel, autocast: Autocast) -> dict[str, float]:
        """Error of the images of the validation source."""
        assert self.validation is not None
        assert isinstance(model, ImageTokenizer)
        size = min(self.validation_items or len(self.validation), len(self.validation))
        return reconstruction_metrics(model, self.validation, range(size), autocast=autocast)


@torch.inference_mode()
def reconstruction_metrics(
    model: ImageTokenizer,
    source: Source,
    rows: range,
    *,
    autocast: Autocast,
    batch_size: int = 64,
    tick: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Flat `reconstruction/…` figures, of images with values from 0 to 1.

    - psnr: -10 log10 of the mean squared error, in dB. mae: mean absolute error.
    - perplexity: exp of the entropy of all codes. used: share of the codes that occur.

    Raises:
        DataError: not one image can be read.
    """
    reader = BatchReader(source, collator_of(model), seed=0)
    was_training = model.training
    model.eval()
    squared = absolute = values = 0.0
    counts = torch.zeros(model.vocabulary)
    for start in range(0, len(rows), batch_size):
        batch = reader.__getitems__([Draw(0, row) for row in rows[start : start + batch_size]])
        if len(batch) and bool(batch.present["image"].any()):
            batch = batch.to(model.device)
            with autocast():
                found = model(batch)
            target = batch.tensors["image"]["pixel_values"][batch.present["image"].reshape(-1)]
            error = (found.pixels.float().clamp(-1, 1) - target) / 2
            squared += float(error.square().sum())
            absolute += float(error.abs().sum())
            values += error.numel()
            counts += torch.bincount(found.codes.flatten().cpu(), minlength=len(counts))
        if tick is not None:
            tick(min(start + batch_size, len(rows)))
    model.train(was_training)
    if not values:
        raise DataError(f"{source.name}: no image can be read")
    share = counts / counts.sum()
    return {
        "reconstruction/psnr": -10 * math.log10(max(squared / values, 1e-12)),
        "reconstruction/mae": absolute / values,
        "reconstruction/perplexity": float((-(share * (share + 1e-12).log()).sum()).exp()),
        "reconstruction/used": float((counts > 0).float().mean()),
    }
