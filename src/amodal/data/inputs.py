"""The interface between the collator and the inputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from amodal.data.record import Record

# Changes of one item that its other inputs have to follow: {"horizontal_flip": True}.
Effects = dict[str, bool]


def effects_of(steps: Iterable[Any]) -> Effects:
    """The changes of an item that augmentation steps may make and its other inputs follow."""
    return {step.kind: True for step in steps if getattr(step, "changes_other_inputs", False)}


class InputRows(NamedTuple):
    """The batched values of one input.

    Args:
        tensors: name -> (B * V, ...) tensor, the arguments of the encoder.
        present: (B, V) bool, True where a row holds a value.
        content: (B, V) int64 key of each value where equal values mean the same (captions).
        truncated: number of values cut to the encoder's maximum length; None where none can be.
    """

    tensors: dict[str, Tensor]
    present: Tensor
    content: Tensor | None = None
    truncated: int | None = None


@dataclass(frozen=True)
class BatchContext:
    """State that the inputs of one batch share.

    Args:
        rngs: B generators, one per item.
        effects: B mappings; an input whose augmentation changes what other inputs say about the
            item writes here, and inputs that follow read it.
    """

    rngs: Sequence[np.random.Generator]
    effects: list[Effects] = field(default_factory=list)


class Input(Protocol):
    """One named input of a model: reads a value of a record, and batches values.

    Args:
        name: key of the record that holds the value.
        has_effects: its augmentation may write `BatchContext.effects`; such inputs are batched
            before the others.
    """

    @property
    def name(self) -> str: ...
    @property
    def has_effects(self) -> bool: ...

    def read(self, record: Record) -> Any | None:
        """The decoded value of a record, or None where the record has none.

        Raises:
            BrokenRecordError: the value cannot be decoded.
            ValueError: the value is of a wrong kind.
        """
        ...

    def batch(self, values: Sequence[Any | None], context: BatchContext) -> InputRows:
        """The values of B items as rows."""
        ...


def spread(found: dict[str, Tensor], there: Tensor) -> dict[str, Tensor]:
    """Tensors of the present values, with rows of zeros where there is none.

    Args:
        found: (P, ...) tensors.
        there: (B,) bool with P entries True.

    Returns:
        (B, ...) tensors.
    """
    if bool(there.all()):
        return found
    spread = {}
    for name, tensor in found.items():
        spread[name] = tensor.new_zeros(len(there), *tensor.shape[1:])
        spread[name][there] = tensor
    return spread
