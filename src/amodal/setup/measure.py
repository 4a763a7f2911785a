"""Cost of encoding a source on this machine: timed on a few of its items."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from amodal.data.inspection import Inspection
from amodal.data.record import BrokenRecordError, Record, Source, readable_records
from amodal.modalities.registry import modality
from amodal.models.inputs import build_encoder, fit_preprocessors

TIMED = 16  # values of each input
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """Cost of one input.

    Args:
        name: of the input.
        frozen: its encoder is not trained, so that each value has to be encoded once.
        seconds: for a value: decoding, encoding and, where the encoder is trained, the gradient.
        values: of the source.
        bytes: of the pooled features of all values.
    """

    name: str
    frozen: bool
    seconds: float
    values: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """Cost of encoding a source on this machine.

    Args:
        encodings: one for each input that has an encoder.
        device: where it was measured.
        memory: peak of this process in bytes; None where the system does not tell.
    """

    encodings: tuple[Encoding, ...]
    device: str
    memory: int | None

    def seconds(self, epochs: float, captions: int, items: int) -> float:
        """Of a training run: each value once where the encoder is frozen, else in every epoch."""
        return sum(
            e.seconds * (e.values if e.frozen else epochs * min(e.values, captions * items))
            for e in self.encodings
        )


def measure(encoders: Mapping[str, Any], source: Source, found: Inspection) -> Cost:
    """Time the encoders on a few items of a source.

    Args:
        encoders: input -> configuration of its encoder.
        source: with random access.
        found: its description, perhaps of its first items alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepared = fit_preprocessors(encoders, lambda: readable_records(source))
    encodings = []
    for name, config in encoders.items():
        kind = modality(config.type)
        _, encoder, _ = build_encoder(config, prepared[name], pretrained=True)
        encoder.to(device)
        frozen = not any(p.requires_grad for p in encoder.parameters())
        encoder.train(not frozen)
        _encoded(kind, name, prepared[name], encoder, source, 2)  # what is loaded at first use
        start = time.perf_counter()
        count = _encoded(kind, name, prepared[name], encoder, source, TIMED)
        seconds = (time.perf_counter() - start) / max(count, 1)
        values = round(found.rows.get(name, found.items) * len(source) / max(found.items, 1))
        width = int(encoder.width)  # type: ignore[arg-type]
        encodings.append(Encoding(name, frozen, seconds, values, 4 * values * width))
    return Cost(tuple(encodings), device.type, _peak_memory())


def _encoded(
    kind: Any, name: str, prepare: Any, encoder: torch.nn.Module, source: Source, count: int
) -> int:
    """Encode the first values of a source; how many there were."""
    values = []
    for value, origin in _values(kind, name, prepare, source):
        with suppress(BrokenRecordError):
            values.append(kind.decode(value, origin, prepare))
        if len(values) == count:
            break
    if values:
        device = next(encoder.parameters()).device
        tensors = {key: tensor.to(device) for key, tensor in prepare(values).items()}
        trained = any(p.requires_grad for p in encoder.parameters())
        with torch.set_grad_enabled(trained):
            tokens = encoder(**tensors)[0]
            if trained:
                tokens.float().sum().backward()
        float(tokens.detach().flatten()[0])  # waits for the device
    return len(values)


def _values(kind: Any, name: str, prepare: Any, source: Source) -> Iterator[tuple[Any, str]]:
    record: Record
    for record in readable_records(source):
        for value in kind.values(name, prepare, record):
            yield value, record["origin"]


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak << 10)
