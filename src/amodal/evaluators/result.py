"""The result that every evaluator returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from amodal.data.record import BrokenRecordError


class EvaluationResult(Protocol):
    """Metrics of a model on a source; each evaluator adds the outputs that they come from."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Flat metrics, such as `retrieval/text_to_image/recall@1`."""
        ...

    @property
    def items(self) -> int:
        """Number of items that were evaluated."""
        ...

    @property
    def broken(self) -> tuple[BrokenRecordError, ...]:
        """Records that were skipped."""
        ...
