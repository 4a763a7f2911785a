"""The train part of a recipe: how long, how fast, in what precision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amodal.data.record import StrictModel
from amodal.training.progressive import ProgressiveResizing


class TrainRecipe(StrictModel):
    """How long, how fast, and in what precision."""

    epochs: float = Field(30, gt=0)  # passes over the training items
    batch_size: int = Field(256, ge=2)  # items per optimizer step, over all processes
    micro_batch_size: int | None = Field(None, ge=1)  # items encoded at once; loss stays exact
    optimizer: Literal["adamw", "muon"] = (
        "adamw"  # muon: for the matrices, see training/optim/muon.py
    )
    learning_rate: float = Field(5e-4, gt=0)  # highest one, after the warmup
    weight_decay: float = Field(0.1, ge=0)  # of matrices and filters
    betas: tuple[float, float] = (0.9, 0.98)  # of the moments of AdamW
    warmup: float = Field(0.05, ge=0, lt=1)  # fraction of all steps
    # of the learning rate after the warmup
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    gradient_clip: float = Field(1.0, ge=0)  # global norm; 0 switches it off
    # auto: what the machine is fastest in
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    progressive_resizing: ProgressiveResizing | None = None  # None: full images from the first step
    ema: float | None = Field(None, gt=0, lt=1)  # decay of the averaged weights
    checkpoint: Literal["best", "last"] = "best"  # which weights the run folder ends with
    evaluate_every: float = Field(1.0, gt=0)  # epochs
    save_every: float = Field(1.0, gt=0)  # epochs; there is a checkpoint before each evaluation too
    log_every: int = Field(10, ge=1)  # steps
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()  # beside train_log.jsonl
    seed: int = Field(0, ge=0, lt=1 << 63)  # of weights, order and augmentation
