"""The table of all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from amodal.doctor import (
    data_checks,
    embedding_checks,
    learning_rate_sweep,
    log_checks,
    recipe_checks,
    target_checks,
    text_checks,
)
from amodal.doctor.finding import Finding
from amodal.doctor.subject import Subject


class Check(NamedTuple):
    """One check.

    Args:
        what: what it looks at, for the list of what was checked.
        needs: parts of a `Subject`; it is left out where one of them is missing.
        find: the findings, none where all is well.
    """

    what: str
    needs: frozenset[str]
    find: Callable[[Subject], Iterable[Finding]]


DATA = frozenset({"data"})
RECIPE = frozenset({"data", "recipe"})
LOG = frozenset({"recipe", "log"})
MODEL = frozenset({"recipe", "model"})
EMBEDDINGS = frozenset({"recipe", "embeddings"})
CHECKS: tuple[Check, ...] = (
    Check("rows that cannot be read", DATA, data_checks.broken_rows),
    Check("blank and placeholder images", DATA, data_checks.blank_images),
    Check("captions of several items", DATA, data_checks.shared_captions),
    Check("false negatives", DATA, data_checks.false_negatives),
    Check("overlap of training and validation", RECIPE, data_checks.overlap),
    Check("columns that give the target away", RECIPE, target_checks.target),
    Check("truncated texts", RECIPE, text_checks.truncated),
    Check("words outside of the vocabulary", RECIPE, text_checks.unknown_tokens),
    Check("learning rate", RECIPE, recipe_checks.learning_rate),
    Check("learning rates of pretrained encoders", RECIPE, recipe_checks.pretrained_learning_rates),
    Check("batch size and steps", RECIPE, recipe_checks.batches),
    Check("encoders", RECIPE, recipe_checks.encoders),
    Check("loss at chance", LOG, log_checks.loss_at_chance),
    Check("rising loss", LOG, log_checks.loss_rises),
    Check("temperature", LOG, log_checks.temperature),
    Check("overfitting", LOG, log_checks.overfitting),
    Check("validation at chance", LOG, log_checks.validation_at_chance),
    Check("waiting for data", LOG, log_checks.waiting_for_data),
    Check("collapse", EMBEDDINGS, embedding_checks.collapse),
    Check("modality gap", EMBEDDINGS, embedding_checks.modality_gap),
    Check("normalisation of pixels", MODEL, embedding_checks.normalization),
)
# Takes as long as some hundred steps of training, so it is done only where it is asked for.
SWEEP = Check("learning rates in short trainings", RECIPE, learning_rate_sweep.sweep)
