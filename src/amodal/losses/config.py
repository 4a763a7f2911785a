"""Base classes of the loss configurations."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Base of every loss configuration: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(1.0, ge=0)  # factor of this loss in the sum of objectives


class ContrastiveConfig(Config):
    """Loss with positives: the rows of one item, or the rows of all items with the same label.

    An item without a label is a class of its own.

    References:
        Khosla et al. 2020, arXiv:2004.11362 (labels).
        Yang et al. 2022, arXiv:2204.03610 (labels across modalities).
    """

    positives: Literal["item", "label"] = "item"  # rows of one item, or of all items of one label


class TemperatureConfig(ContrastiveConfig):
    """Contrastive loss with a learned temperature that has a lower bound.

    Args:
        temperature: initial; logits are divided by it.
        min_temperature: floor: 0.01 keeps the scale at or below 100.
        per_pair: a temperature of its own for every pair of inputs, and whatever else the loss
            learns or remembers.
    """

    temperature: float = Field(0.07, gt=0)
    min_temperature: float = Field(0.01, gt=0)
    per_pair: bool = False

    @model_validator(mode="after")
    def _floor_is_below(self) -> TemperatureConfig:
        if self.min_temperature > self.temperature:
            raise ValueError(
                f"need min_temperature <= temperature, got {self.min_temperature} "
                f"and {self.temperature}"
            )
        return self
