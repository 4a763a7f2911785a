"""Errors of a training run; free of heavy imports, so that the command line can name them."""

from __future__ import annotations


class RunError(RuntimeError):
    """Error of a run folder that cannot be used; the message names it and says what to do."""


class TrainingError(RuntimeError):
    """Error of a training run that cannot continue; the message says what to change."""


class ProcessError(TrainingError):
    """Error of another process of the same run; the message names it."""
