"""Checks of a recipe: learning rates, batches, steps and encoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amodal.doctor.finding import Finding
from amodal.doctor.subject import Subject
from amodal.encoders.config import EncoderConfig
from amodal.models.frozen_features import is_frozen

# Adam moves a weight by about the learning rate per step. Weights are some hundredths wide, so a
# run whose steps add up to less than this leaves them where they were.
MIN_PATH = 1e-3
MIN_PRETRAINED_PATH = 1e-4  # fine-tuning changes weights by a few thousandths
MEAN_OF_SCHEDULE = 0.5  # of cosine and linear decay
# Full fine-tuning of pretrained encoders is done at 1e-6 to 1e-4 with Adam (CLIP: 1e-5, BERT:
# 5e-5); above 3e-4 what they know is lost within the first hundred steps.
MAX_PRETRAINED_RATE = 3e-4
PRETRAINED_RATE = 3e-5
HIGH_RATE = 3e-2  # of Adam, for any weights
MIN_NEGATIVES_BATCH = 16  # items; with fewer the task is too easy to teach much
LARGE_BATCH = 64
MIN_STEPS = 30
STEPS_PER_EPOCH = 8
MIN_SIZE_SHARE = 0.5  # of the side that pretrained weights were made for


def learning_rate(subject: Subject) -> Iterator[Finding]:
    """Learning rates that leave weights where they are, or make steps as wide as they are."""
    assert subject.recipe is not None
    train = subject.recipe.train
    if train.optimizer != "adamw":  # what follows is about the steps of Adam
        return
    steps, rate = len(subject.sampler), train.learning_rate
    path = path_length(subject)
    if path < MIN_PATH:
        better = round_rate(min(MIN_PATH * 30 / (steps * MEAN_OF_SCHEDULE), 1e-3))
        yield Finding(
            "learning_rate_too_low",
            "error",
            "train.learning_rate",
            f"{steps:,} steps at {rate:g} move a weight by {path:.1g} at most, and weights are "
            "some hundredths wide: they stay where they were",
            "raise the learning rate; `amodal doctor RECIPE --sweep` tries several",
            {"train.learning_rate": better},
        )
    elif rate >= HIGH_RATE:
        yield Finding(
            "learning_rate_too_high",
            "error",
            "train.learning_rate",
            f"steps of {rate:g} are as wide as the weights themselves (some hundredths): training "
            "diverges, or all embeddings become one",
            "lower the learning rate; `amodal doctor RECIPE --sweep` tries several",
            {"train.learning_rate": 1e-3},
        )


def pretrained_learning_rates(subject: Subject) -> Iterator[Finding]:
    """Learning rates of pretrained encoders that destroy what they know, or do not move them."""
    assert subject.recipe is not None
    rate = subject.recipe.train.learning_rate
    if subject.recipe.train.optimizer != "adamw":
        return
    for place, config in _encoders(subject):
        own = rate * config.learning_rate_scale
        path = path_length(subject) * config.learning_rate_scale
        if not config.is_pretrained or config.freeze == "all" or config.lora is not None:
            continue
        better = {f"{place}.learning_rate_scale": round_rate(PRETRAINED_RATE / rate)}
        if own > MAX_PRETRAINED_RATE:
            yield Finding(
                "pretrained_learning_rate_too_high",
                "error" if own > 10 * MAX_PRETRAINED_RATE else "warning",
                place,
                f"the pretrained weights are trained at {own:g}; full fine-tuning with Adam takes "
                "1e-6 to 1e-4, and above 3e-4 what they know is lost within some hundred steps",
                "give the encoder a smaller factor, and keep the learning rate for the layers "
                "that begin at random; or freeze it, or train low-rank adapters (`lora`)",
                better,
            )
        elif path < MIN_PRETRAINED_PATH and path_length(subject) >= MIN_PATH:
            yield Finding(
                "pretrained_learning_rate_too_low",
                "warning",
                place,
                f"{len(subject.sampler):,} steps at {own:g} move a pretrained weight by {path:.1g} "
                "at most: the encoder is as good as frozen, at the cost of training it",
                "raise its factor; or set `freeze: all`, which is faster",
                better,
            )


def batches(subject: Subject) -> Iterator[Finding]:
    """Batches that are too small to contrast items, or so large that there are few steps."""
    assert subject.recipe is not None
    train, sampler = subject.recipe.train, subject.sampler
    compared = subject.objectives.values()
    queued = any(getattr(objective, "queue_size", 0) for objective in compared)
    small = sampler.batch_size < MIN_NEGATIVES_BATCH
    if compared and not queued and small and sampler.size >= 4 * LARGE_BATCH:
        yield Finding(
            "small_batch",
            "warning",
            "train.batch_size",
            f"each item is distinguished from {sampler.batch_size - 1} others at a time, and a "
            f"search has to distinguish it from {sampler.size:,}",
            "raise the batch size; with `micro_batch_size` it takes no more memory, and the loss "
            "stays exact",
            {
                "train.batch_size": min(LARGE_BATCH, _batch_of(sampler.size)),
                "train.micro_batch_size": train.batch_size,
            },
        )
    few_a_epoch = sampler.steps_per_epoch < 3 and sampler.size >= 3 * MIN_NEGATIVES_BATCH
    if len(sampler) < MIN_STEPS or few_a_epoch:
        batch = min(_batch_of(sampler.size), sampler.batch_size)
        epochs = -(-2 * MIN_STEPS * batch // sampler.size)
        settings: dict[str, Any] = {}
        if batch < sampler.batch_size:
            settings["train.batch_size"] = batch
        if epochs > train.epochs:
            settings["train.epochs"] = epochs
        yield Finding(
            "few_steps",
            "warning",
            "train.batch_size",
            f"{sampler.size:,} items in batches of {sampler.batch_size} are "
            f"{sampler.steps_per_epoch} steps an epoch, {len(sampler)} in all",
            "take smaller batches, or train for more epochs",
            settings,
        )


def encoders(subject: Subject) -> Iterator[Finding]:
    """Random weights that are never trained, and images far smaller than the weights know."""
    assert subject.recipe is not None
    has_weights = getattr(subject.recipe.model, "init_from", None) is not None  # of another run
    for place, config in _encoders(subject):
        if is_frozen(config) and not config.is_pretrained and not has_weights:
            yield Finding(
                "random_encoder_is_frozen",
                "error",
                place,
                "the encoder begins with random weights and `freeze: all` keeps them",
                "train the encoder, or take one with pretrained weights",
                {f"{place}.freeze": "none"},
            )
        if not config.is_pretrained or "size" not in type(config).model_fields:
            continue
        default = type(config).model_fields["size"].default
        made_for = config.model_copy(update={"size": default}).preprocessor().size
        size = config.preprocessor().size
        if size < MIN_SIZE_SHARE * made_for:
            yield Finding(
                "images_smaller_than_pretrained",
                "warning",
                f"{place}.size",
                f"the weights were trained on images of {made_for} pixels and see {size}",
                "show images of the size that the weights were trained on",
                {f"{place}.size": made_for},
            )


def _encoders(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Key of the recipe and configuration of every encoder; a dual encoder is one."""
    assert subject.recipe is not None
    found = {
        place_of(subject, name): config_of(subject, name) for name in subject.recipe.model.types
    }
    for place, config in found.items():
        if isinstance(config, EncoderConfig):  # an image tokenizer has one that is part of it
            yield place, config


def place_of(subject: Subject, name: str) -> str:
    """Key of the recipe where the encoder of an input stands."""
    assert subject.recipe is not None
    inside = name in subject.recipe.model.encoders
    return f"model.encoders.{name}" if inside else "model.dual_encoder"


def config_of(subject: Subject, name: str) -> Any:
    """Configuration of the encoder of an input."""
    model: Any = subject.recipe.model if subject.recipe is not None else None
    return model.encoders.get(name, getattr(model, "dual_encoder", None))


def _batch_of(items: int) -> int:
    """A power of two that gives eight steps an epoch or more, where that is not too small."""
    return max(MIN_NEGATIVES_BATCH, 1 << (items // STEPS_PER_EPOCH).bit_length() - 1)


def path_length(subject: Subject) -> float:
    """Largest distance that the steps of Adam move a weight over the whole run."""
    assert subject.recipe is not None
    return subject.recipe.train.learning_rate * len(subject.sampler) * MEAN_OF_SCHEDULE


def round_rate(rate: float) -> float:
    """A learning rate with one significant digit."""
    return float(f"{rate:.0e}")
