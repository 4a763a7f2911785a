"""The data part of a recipe: sources, and how many values of an item a step takes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from amodal.data.record import StrictModel
from amodal.data.sources.specification import SourceConfig, source_values

CHEAP = 20_000  # items whose near-duplicates are found where a recipe does not say


class DataRecipe(StrictModel):
    """Sources of training and validation records.

    Args:
        train: training source; a list of sources is all of them, see `ConcatConfig`.
        validation: held-out source; left out, a share of the training items is held out.
        holdout: that share; 0 trains on all items, without validation.
        near_duplicates: items with nearly the same image, or with an equal caption or file, are
            held out together or not at all; `ignore`: each on its own. `auto`: together, up to
            20,000 items, as every image is decoded for it.
        train_share: share of the training items that is trained on; smaller shares are parts of
            larger ones.
        balance: every batch has the same number of items of each combination of inputs; None: as
            they come. A share is proportional to the number of such items in the source to the
            power of this: 1 keeps their proportions, 0 makes all equal.
        captions_per_item: captions per item and step; all are positives of the item.
        questions_per_item: question-answer pairs per item and step.
        views_per_item: augmented images per item and step.
        cache: keep decoded values in memory.
        feature_cache: compute the features of frozen encoders once and keep them on the disk, where
            no augmentation changes the values; `docs/features.md` says where.
        cached_views: augmented views of each value of a frozen encoder whose features are computed
            once as well; a step takes one of them, or the value as it is. 0: values that are
            augmented are encoded in every step.
        workers: data-loading worker processes.
        max_validation_items: validation items that are read while training; null: all.
    """

    train: SourceConfig
    validation: SourceConfig | None = None
    holdout: float = Field(0.1, ge=0, lt=1)
    near_duplicates: Literal["auto", "together", "ignore"] = "auto"
    train_share: float = Field(1.0, gt=0, le=1)
    balance: float | None = Field(None, ge=0, le=1)
    captions_per_item: int = Field(1, ge=1)
    questions_per_item: int = Field(8, ge=1)
    views_per_item: int = Field(1, ge=1)
    cache: bool = False
    feature_cache: bool = True
    cached_views: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    max_validation_items: int | None = Field(1000, ge=2)

    def keeps_together(self, items: int) -> bool:
        """Whether near-duplicates among so many items stay on one side."""
        return self.near_duplicates == "together" or (
            self.near_duplicates == "auto" and items <= CHEAP
        )

    @property
    def has_validation(self) -> bool:
        """Whether anything is held out."""
        return self.validation is not None or self.holdout > 0

    def conversations(self, task: str) -> int:
        """Conversations of a task per item and step."""
        if task in ("vqa", "single_turn"):
            return self.questions_per_item
        return self.captions_per_item if task in ("caption", "text_to_image") else 1

    @model_validator(mode="before")
    @classmethod
    def _source_strings(cls, values: Any) -> Any:
        if isinstance(values, dict):
            named = {key: values[key] for key in ("train", "validation") if key in values}
            return {**values, **{key: source_values(value) for key, value in named.items()}}
        return values
