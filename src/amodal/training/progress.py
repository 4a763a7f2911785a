"""Who is told how a run goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressCallbacks:
    """Who is told how a run goes; every method may stay silent."""

    stage: Callable[[str, int], None] = lambda name, total: None
    advance: Callable[[int], None] = lambda done: None
    logged: Callable[[int, dict[str, float]], None] = lambda step, values: None
    warn: Callable[[str], None] = lambda message: None
