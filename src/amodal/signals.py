"""Ctrl-C and SIGTERM in a process that may have forked workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def on_interrupt(react: Callable[[int], object]) -> dict[int, Any]:
    """Let Ctrl-C and SIGTERM call `react` with the number of the signal.

    A worker that is forked later does not react: SIGTERM, with which its parent ends it, ends it
    at once, and Ctrl-C, which a terminal sends to all processes, is left to the parent.

    Returns:
        The handlers of before, by signal; none outside of the main thread, which alone can handle
        signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            react(number)
        elif number == signal.SIGTERM:
            os._exit(128 + number)

    return {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
