"""Short trainings of a recipe at several learning rates, from the same start."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice

import torch
from transformers import set_seed

from amodal.data.reader import BatchReader
from amodal.doctor.finding import Finding
from amodal.doctor.recipe_checks import round_rate
from amodal.doctor.subject import Subject
from amodal.training.kinds import kind_of_recipe, run_class
from amodal.training.optim.groups import parameter_groups
from amodal.training.tasks.protocol import Run, Step
from amodal.training.trained import Trained

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the learning rate of the recipe
STEPS = 24
WARMUP = 6  # steps
LAST = 6  # steps whose mean loss is compared
# Short trainings favour large steps. Of the rates that come within this share of the largest fall
# of the loss, the smallest one is suggested.
CLOSE = 0.1


def sweep(subject: Subject) -> Iterator[Finding]:
    """A learning rate of the recipe that does worse than another one in short trainings."""
    assert subject.recipe is not None
    own = subject.recipe.train.learning_rate
    losses = subject.swept = short_trainings(subject)
    start = losses.pop(0.0)
    finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return
    best = min(finite.values())
    close = [rate for rate, loss in finite.items() if loss <= best + CLOSE * (start - best)]
    if own in close or not close:
        return
    chosen = min(close)
    further = (
        "; it is the largest that was tried: sweep again from it" if chosen == max(losses) else ""
    )
    tried = ", ".join(f"{rate:.1g}: {loss:.3f}" for rate, loss in losses.items())
    yield Finding(
        "learning_rate_sweep",
        "warning",
        "train.learning_rate",
        f"loss after {STEPS} steps from {start:.3f}, by learning rate: {tried}",
        f"{chosen:.1g} is the smallest rate that does about as well as the best one, and the "
        f"recipe has {own:g}{further}",
        {"train.learning_rate": round_rate(chosen)},
    )


def short_trainings(subject: Subject) -> dict[float, float]:
    """Learning rate -> mean loss of the last of 24 steps; under 0.0 the loss of the first step.

    Args:
        subject: with a recipe.

    Raises:
        ValueError: the recipe has another optimizer than AdamW.
    """
    recipe = subject.recipe
    assert recipe is not None
    if recipe.train.optimizer != "adamw":
        raise ValueError("learning rates are swept for `train.optimizer: adamw` alone")
    set_seed(recipe.train.seed % (1 << 32))
    train, held_out = subject.train_source, subject.opened[1]
    run = run_class(kind_of_recipe(recipe))(recipe, train, held_out, saved=None)
    trained = run.trained().to("cuda" if torch.cuda.is_available() else "cpu")
    start = copy.deepcopy(trained.state_dict())
    subject.callbacks.stage("trying learning rates", len(FACTORS) * STEPS)
    found: dict[float, float] = {}
    for number, factor in enumerate(FACTORS):
        trained.load_state_dict(start)
        set_seed(recipe.train.seed % (1 << 32))

        def tick(step: int, before: int = number * STEPS) -> None:
            subject.callbacks.advance(before + step)

        losses = _losses(subject, run, trained, recipe.train.learning_rate * factor, tick)
        found.setdefault(0.0, losses[0])
        found[recipe.train.learning_rate * factor] = sum(losses[-LAST:]) / LAST
    run.task.log_metrics()  # forgets what was logged
    return found


def _losses(
    subject: Subject, run: Run, trained: Trained, rate: float, tick: Callable[[int], None]
) -> list[float]:
    """The loss of each step of a short training."""
    recipe = run.recipe.train
    groups = parameter_groups(trained, rate, weight_decay=recipe.weight_decay, muon=False)
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=recipe.betas)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / WARMUP))
    reader = BatchReader(subject.train_source, run.collator, seed=recipe.seed)
    device = next(trained.parameters()).device
    losses: list[float] = []
    trained.train()
    while len(losses) < STEPS:
        for rows in islice(iter(subject.sampler), STEPS - len(losses)):
            batch = reader.__getitems__(rows).to(device)
            step = Step(
                trained=trained,
                backward=lambda loss: loss.backward() if loss.requires_grad else None,
                autocast=nullcontext,
                number=len(losses),
                steps=STEPS,
                logged=False,
            )
            optimizer.zero_grad()
            losses.append(float(run.task.backward(batch, step)))
            if recipe.gradient_clip:
                torch.nn.utils.clip_grad_norm_(trained.parameters(), recipe.gradient_clip)
            optimizer.step()
            warm.step()
            run.task.after_step(trained)
            tick(len(losses))
            if not math.isfinite(losses[-1]):
                return [*losses, *[math.inf] * (STEPS - len(losses))]
    return losses
