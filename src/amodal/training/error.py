"""Errors of a run that a user can act on."""

from __future__ import annotations


class RunError(RuntimeError):
    """The run folder cannot be used; the message names it and says what to do."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""
