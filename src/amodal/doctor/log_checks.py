"""Checks of the log of a run: loss at chance, temperature, overfitting, time spent waiting."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from amodal.data.record import readable_records
from amodal.doctor.embedding_checks import chance_recall
from amodal.doctor.finding import Finding
from amodal.doctor.recipe_checks import path_length, round_rate
from amodal.doctor.subject import Curve, Subject
from amodal.losses.info_nce import InfoNCEConfig
from amodal.training.folder import LOG
from amodal.training.objectives import objective_names
from amodal.training.sources import decoders_of

NEAR_CHANCE = 0.03  # share of ln(batch) within which a loss is at chance
MIN_STEPS = 20  # fewer say nothing about the end of a run
# Of the steps of Adam: a run that goes farther than this and is still at chance did not take too
# small steps.
LONG_PATH = 1e-2
LAST = 0.2  # share of the log whose mean is the final loss
AT_BOUND = 1.01  # times the lowest temperature
SHARPEST = 0.01  # temperature that CLIP and its successors allow
RISE = 1.2  # final loss over the lowest one, from which on training diverged
EARLY = 0.6  # share of the run before which the best score of an overfitted run lies
DECLINE = 0.1  # share of the best score that is lost by the end
STANDARD_ERRORS = 2.5  # by which scores have to differ
LEARNED = 0.8  # of the loss at chance, below which pairs were told apart
MIN_VALIDATION = 40  # items; of fewer recall says little
FALL = 0.8  # of the training loss, from the best score to the end of an overfitted run
MAX_WAIT = 0.5  # share of the time in which steps wait for data
MIN_WAIT_S = 10.0  # of waiting, below which there is nothing to save
MAX_WORKERS = 8
CACHE_BYTES = 4 << 30  # of decoded images that are kept in memory without asking


def loss_at_chance(subject: Subject) -> Iterator[Finding]:
    """A contrastive loss that ends where it would be with random embeddings."""
    assert subject.recipe is not None
    values, chance = _info_nce(subject)
    if len(values) < 2 or _last_step(subject) < MIN_STEPS:
        return
    first, last = values[0][1], _final(values)
    if last < (1 - NEAR_CHANCE) * chance:
        return
    rate = subject.recipe.train.learning_rate
    high = path_length(subject) > LONG_PATH
    yield Finding(
        "loss_at_chance",
        "error",
        f"{LOG}, steps {values[0][0]} to {values[-1][0]}",
        f"the loss is {last:.3f} at the end and {first:.3f} at the beginning; embeddings that say "
        f"nothing have {chance:.3f} in batches of {subject.sampler.batch_size}, ln of the number "
        "of candidates",
        f"{'lower' if high else 'raise'} the learning rate first, now {rate:g} (`amodal doctor "
        "RECIPE --sweep` finds one); then make sure that captions and images belong together and "
        "that the encoders are trained or pretrained",
        {"train.learning_rate": round_rate(rate / 10 if high else max(10 * rate, 1e-4))},
    )


def loss_rises(subject: Subject) -> Iterator[Finding]:
    """A training loss that ends far above its lowest value."""
    assert subject.recipe is not None
    values = subject.logged.get("loss", [])
    # A queue that begins to be used, or an adversary that learns, may raise a loss.
    queued = any(getattr(o, "queue_size", 0) for o in subject.recipe.objectives)
    if queued or len(subject.recipe.objectives) > 1:
        return
    if len(values) < 5 or _last_step(subject) < MIN_STEPS:
        return
    smooth = [sum(v for _, v in values[i : i + 3]) / 3 for i in range(len(values) - 2)]
    lowest, last = min(smooth), smooth[-1]
    if lowest > 0 and last > RISE * lowest and last > lowest + 0.1:
        step = values[smooth.index(lowest) + 1][0]
        rate = subject.recipe.train.learning_rate
        yield Finding(
            "loss_rises",
            "error",
            f"{LOG}, steps {step} to {values[-1][0]}",
            f"the training loss was {lowest:.3f} at step {step} and ends at {last:.3f}",
            f"lower the learning rate, now {rate:g}, or lengthen `train.warmup`",
            {"train.learning_rate": round_rate(rate / 10)},
        )


def temperature(subject: Subject) -> Iterator[Finding]:
    """A learned temperature that has reached its bound."""
    assert subject.recipe is not None
    names = objective_names(subject.recipe.objectives)
    for place, objective in subject.objectives.items():
        bound: float | None = getattr(objective, "min_temperature", None)
        name = f"temperature/{names[place]}"
        values = subject.logged.get(name)
        if bound is None or not values or _last_step(subject) < MIN_STEPS:
            continue
        reached = [step for step, value in values if value <= AT_BOUND * bound]
        started = objective.temperature <= AT_BOUND * bound
        if bound <= SHARPEST and started:
            continue  # as pretrained dual encoders do
        if values[-1][0] not in reached:
            continue
        if bound > SHARPEST:
            advice = "lower the bound: the softmax cannot become as sharp as the data allow"
            settings = subject.changed_objective(place, "min_temperature", SHARPEST)
        else:
            advice = (
                "0.01 is as sharp as CLIP allows: the training pairs are distinguished with "
                "certainty, which mostly means that they are known by heart; smooth the labels, "
                "or stop earlier"
            )
            settings = subject.smoothed(place)
        yield Finding(
            "temperature_at_bound",
            "warning",
            f"{LOG}, from step {reached[0]}",
            f"the temperature is {values[-1][1]:.4f} and its bound {bound:g}, since step "
            f"{reached[0]} of {_last_step(subject)}",
            advice,
            settings,
        )


def overfitting(subject: Subject) -> Iterator[Finding]:
    """A validation score that declines while the training loss goes on falling."""
    assert subject.recipe is not None
    name = subject.score_name
    scores = subject.logged.get(f"eval/{name}", [])
    losses = subject.logged.get("loss", [])
    if len(scores) < 3 or not losses:
        return
    best_step, best = max(scores, key=lambda pair: pair[1])
    last_step, last = scores[-1]
    before = [v for s, v in losses if s <= best_step] or [losses[0][1]]
    fell = _final(losses) < FALL * before[-1]
    items = len(subject.opened[1] or ())
    noise = math.sqrt(max(best * (1 - best), 0) / items) if items and 0 < best < 1 else 0.0
    dropped = best - last
    if not (
        fell
        and best_step <= EARLY * last_step
        and dropped > DECLINE * abs(best)
        and dropped > STANDARD_ERRORS * noise
    ):
        return
    epochs = best_step / subject.sampler.steps_per_epoch
    kept = "the best weights were kept" if subject.recipe.train.checkpoint == "best" else ""
    yield Finding(
        "overfitting",
        "warning",
        f"{LOG}, steps {best_step} to {last_step}",
        f"{name} on validation was {best:.3f} at step {best_step} and is {last:.3f} at step "
        f"{last_step}, while the training loss fell from {before[-1]:.3f} to {_final(losses):.3f}"
        + (f"; {kept}" if kept else ""),
        "stop earlier; more data, augmentation, or frozen pretrained encoders overfit less",
        {"train.epochs": max(1, round(epochs)), "train.checkpoint": "best"},
    )


def waiting_for_data(subject: Subject) -> Iterator[Finding]:
    """Training steps that wait for the reader."""
    assert subject.recipe is not None
    lines = [line for line in subject.log if "data_seconds" in line]
    if not lines or _last_step(subject) < MIN_STEPS:
        return
    waited, stepped = lines[-1]["data_seconds"], lines[-1]["seconds"]
    share = waited / max(waited + stepped, 1e-9)
    if share <= MAX_WAIT or waited < MIN_WAIT_S:
        return
    data = subject.recipe.data
    cores = os.cpu_count() or 1
    settings: dict[str, Any] = {}
    if not data.cache and 0 < _decoded_bytes(subject) < CACHE_BYTES:
        advice, settings = "keep the decoded values in memory; they fit", {"data.cache": True}
    elif data.workers < cores:
        advice, settings = "read in more processes", {"data.workers": min(MAX_WORKERS, cores)}
    else:
        advice = "store the images at the size that the encoder sees, or take a larger batch"
    yield Finding(
        "waiting_for_data",
        "warning",
        f"{LOG}, {lines[-1]['step']} steps",
        f"steps waited {waited:.1f} s for data and computed {stepped:.1f} s: {share:.0%} of the "
        f"time with {data.workers} reading processes",
        advice,
        settings,
    )


def validation_at_chance(subject: Subject) -> Iterator[Finding]:
    """Recall on validation data that is chance, though the training loss has fallen."""
    assert subject.recipe is not None
    losses, chance = _info_nce(subject)
    scores = subject.logged.get("eval/mean_recall", [])
    if not losses or not scores or _last_step(subject) < MIN_STEPS:
        return
    if _final(losses) > LEARNED * chance:
        return  # nothing was learned, which is another finding
    held_out = subject.opened[1]
    items = min(len(held_out or ()), subject.recipe.data.max_validation_items or 1 << 62)
    if items < MIN_VALIDATION:
        return
    by_chance = chance_recall(items)
    best = max(value for _, value in scores)
    noise = math.sqrt(by_chance / items)
    if best > by_chance + STANDARD_ERRORS * noise:
        return
    yield Finding(
        "validation_at_chance",
        "error",
        f"{LOG}, steps 1 to {_last_step(subject)}",
        f"the training loss fell to {_final(losses):.2f} of {chance:.2f}, and the best "
        f"mean recall on {items} validation items is {best:.3f}; chance is {by_chance:.3f}",
        "what is learned holds for the training pairs alone: look whether its captions belong to "
        "its images (a shifted column, a sorted list), with `amodal data inspect`, and whether "
        "training and validation are of one kind",
    )


def _info_nce(subject: Subject) -> tuple[Curve, float]:
    """The logged values of the first InfoNCE, and its value for embeddings that say nothing.

    That is the logarithm of the number of candidates: B with one caption per item, and the queue
    with them; among C captions per item a caption competes with those of all other items.
    """
    assert subject.recipe is not None
    names = objective_names(subject.recipe.objectives)
    for place, objective in subject.objectives.items():
        if isinstance(objective, InfoNCEConfig):
            items, captions = subject.sampler.batch_size, subject.recipe.data.captions_per_item
            queued = objective.queue_size
            images, texts = items + queued, (items - 1) * captions + 1 + queued
            chance = (math.log(images) + math.log(texts)) / 2
            return subject.logged.get(f"loss/{names[place]}", []), chance
    return [], 0.0


def _final(values: Curve) -> float:
    """Mean of the last values."""
    count = max(1, round(LAST * len(values)))
    return sum(value for _, value in values[-count:]) / count


def _last_step(subject: Subject) -> int:
    return int(subject.log[-1]["step"])


def _decoded_bytes(subject: Subject) -> float:
    """Memory of the training source with its values decoded, from the first record; 0: none are."""
    assert subject.recipe is not None
    decoders = decoders_of(subject.recipe)
    record = next(readable_records(subject.train_source), {})
    values = [
        decode(record[name], record["origin"]).nbytes
        for name, decode in decoders.items()
        if record.get(name) is not None
    ]
    return float(sum(values) * len(subject.train_source))
