"""The data part of a recipe: sources, and how many values of an item a step takes."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from amodal.data.record import StrictModel
from amodal.data.sources.specification import SourceConfig


class DataRecipe(StrictModel):
    """Where records come from."""

    train: SourceConfig
    validation: SourceConfig | None = None
    captions: int = Field(1, ge=1)  # captions per item and step; all are positives of the item
    questions: int = Field(8, ge=1)  # with their answers, per item and step
    views: int = Field(1, ge=1)  # augmented images per item and step
    cache: bool = False  # keep decoded images in memory
    workers: int = Field(0, ge=0)  # processes that read, beside the one that trains
    validation_items: int | None = Field(1000, ge=2)  # read this many of them while training

    def conversations(self, task: str) -> int:
        """How many exchanges of a task are learned per item and step."""
        if task in ("vqa", "single_turn"):
            return self.questions
        return self.captions if task in ("caption", "text_to_image") else 1

    @model_validator(mode="before")
    @classmethod
    def _source_strings(cls, values: Any) -> Any:
        from amodal.data.sources.specification import parse_source

        if isinstance(values, dict):
            for key in ("train", "validation"):
                if isinstance(values.get(key), str):
                    values = {**values, key: parse_source(values[key])}
        return values
