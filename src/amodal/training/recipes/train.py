"""The train part of a recipe: how long, how fast, in what precision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amodal.data.record import StrictModel
from amodal.training.progressive import ProgressiveResizing


class TrainRecipe(StrictModel):
    """How long, how fast, and in what precision."""

    epochs: float = Field(30, gt=0)
    batch_size: int = Field(256, ge=2)  # items per optimizer step, over all processes
    micro_batch_size: int | None = Field(None, ge=1)  # items encoded at once; loss stays exact
    optimizer: Literal["adamw", "muon"] = (
        "adamw"  # muon: for the matrices, see training/optim/muon.py
    )
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = Field(0.05, ge=0, lt=1)  # fraction of all steps
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    gradient_clip: float = Field(1.0, ge=0)  # global norm; 0 switches it off
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    progressive_resizing: ProgressiveResizing | None = None  # None: full images from the first step
    ema: float | None = Field(None, gt=0, lt=1)  # decay of the averaged weights
    checkpoint: Literal["best", "last"] = "best"  # which weights the run folder ends with
    evaluate_every: float = Field(1.0, gt=0)  # epochs
    save_every: float = Field(1.0, gt=0)  # epochs
    log_every: int = Field(10, ge=1)  # steps
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    seed: int = Field(0, ge=0, lt=1 << 63)
