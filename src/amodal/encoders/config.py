"""Options of every encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

PoolingName = Literal["mean", "max", "cls", "last", "attention"]
# What `freeze: n` counts, in depth order: the stem with its positions, then stages or layers.
LayerGroups = Sequence[Sequence[nn.Module | nn.Parameter]]


class StrictConfig(BaseModel):
    """Unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoRAConfig(StrictConfig):
    """Low-rank adapters in the place of full fine-tuning (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(8, ge=1)  # of the update of each layer
    alpha: int = Field(16, gt=0)  # the update is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)  # of what the adapters read
    targets: tuple[str, ...] | None = None  # names of layers; None means all linear ones


class EncoderConfig(StrictConfig):
    """Options of every encoder."""

    # n: the stem (embeddings) and the first n stages or layers after it
    freeze: Literal["none", "all"] | Annotated[int, Field(ge=0, strict=True)] = "none"
    batch_norm: Literal["train", "frozen"] = "train"  # frozen: running statistics, not the batch's
    lora: LoRAConfig | None = None  # trains low-rank adapters, and nothing else of the encoder
    learning_rate_scale: float = Field(1.0, ge=0)  # factor on train.learning_rate for this encoder
    gradient_checkpointing: bool = False  # less memory, more computing in the backward pass
    pooling: PoolingName | None = None  # None means the encoder's own choice

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder starts from pretrained weights."""
        return False

    def for_preprocessor(self, prepare: Any) -> Self:
        """The same with what the preprocessor has found out, such as the size of a vocabulary."""
        return self
