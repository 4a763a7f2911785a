"""Ctrl-C and SIGTERM: a run stops after its current step, or at once while it is evaluated."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch

from amodal.signals import on_interrupt

SAME_PRESS = 0.5  # seconds; torchrun passes on a signal that the terminal has sent as well


class Interruptible(Protocol):
    """Trainer as `graceful_interrupt` sees it.

    Args:
        interrupted: set by the first signal; a checkpoint is then written after the step.
        evaluating: a checkpoint of this moment is on the disk, nothing is lost by stopping now.
        saved_at: step of the last checkpoint; None: there is none.
    """

    interrupted: bool
    evaluating: bool
    saved_at: int | None


@contextmanager
def graceful_interrupt(trainer: Interruptible, warn: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run with a checkpoint; the third ends it without.

    Raises:
        KeyboardInterrupt: during an evaluation, before which a checkpoint was written; or at the
            third signal.
    """
    presses, pressed_at = 0, float("-inf")

    def stop(number: int) -> None:
        nonlocal presses, pressed_at
        now = time.monotonic()
        again, pressed_at = now - pressed_at < SAME_PRESS, now
        if again:
            return
        presses += 1
        trainer.interrupted = True
        with contextlib.suppress(RuntimeError):  # it came while another line was being written
            warn(_message(trainer, presses))
        if presses >= 3 or (presses == 1 and trainer.evaluating):
            raise KeyboardInterrupt

    before = on_interrupt(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _message(trainer: Interruptible, presses: int) -> str:
    if trainer.evaluating:
        return "stopping now; the evaluation is repeated when the run is resumed"
    if presses == 1:
        return "stopping after this step, when its checkpoint is written"
    kept = f"step {trainer.saved_at}" if trainer.saved_at is not None else "the beginning"
    if presses == 2:
        return f"still at this step; once more ends it at once and goes back to {kept}"
    return f"ended at once; --resume goes on from {kept}"


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the random state of this process as it is, whatever the block draws."""
    # The global generator of numpy, which libraries may draw from.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
