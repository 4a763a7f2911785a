"""Callbacks through which a long piece of work reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressCallbacks:
    """Callbacks of one piece of work; each does nothing by default.

    Args:
        stage: called with (name, total) when a stage begins; total is None where it is unknown.
        advance: called with how much of the stage is done so far.
        logged: called with (step, values) when metrics were logged.
        warn: called with a message that the user should read.
    """

    stage: Callable[[str, int | None], None] = lambda name, total: None
    advance: Callable[[int], None] = lambda done: None
    logged: Callable[[int, dict[str, float]], None] = lambda step, values: None
    warn: Callable[[str], None] = lambda message: None
