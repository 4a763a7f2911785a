"""Records of a source kept in memory, their images decoded."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from amodal.data.notes import notes_of
from amodal.data.record import BrokenRecordError, Record, Source

Decoder = Callable[[Any, str], Any]
CHUNK = 64  # records that a process reads at once
PARALLEL_FROM = 2000  # records; fewer are read before processes have started


class CachedSource:
    """Keeps the records of a source in memory, with decoded values.

    Args:
        source: where records come from.
        decoders: key of a record -> (value, origin) → decoded array to be kept.
        limit_bytes: stop caching decoded values beyond this many bytes; the rest is decoded each
            time.
    """

    def __init__(
        self, source: Source, decoders: Mapping[str, Decoder], *, limit_bytes: int = 8 << 30
    ) -> None:
        self.source = source
        self.name = source.name
        self.inputs = source.inputs
        self.broken_rows: tuple[BrokenRecordError, ...] = getattr(source, "broken_rows", ())
        self.notes = notes_of(source)
        self.decoders = dict(decoders)
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._records: list[Record | BrokenRecordError | None] = [None] * len(source)

    def __len__(self) -> int:
        return len(self.source)

    def fill(self, tick: Callable[[int], None] | None = None, *, processes: int = 1) -> None:
        """Read every record now, so that worker processes share the memory.

        Args:
            tick: called with the number of records read.
            processes: that read beside this one, which then only collects.
        """
        forks = "fork" in multiprocessing.get_all_start_methods()
        if processes < 2 or len(self) < PARALLEL_FROM or not forks:
            for i in range(len(self)):
                # A broken row is remembered in its place and raised again when it is drawn.
                with suppress(BrokenRecordError):
                    self[i]
                if tick is not None:
                    tick(i + 1)
            return
        # Each process counts what it keeps.
        whole, self.limit_bytes = self.limit_bytes, self.limit_bytes // processes
        chunks = [range(i, min(i + CHUNK, len(self))) for i in range(0, len(self), CHUNK)]
        loader = torch.utils.data.DataLoader(
            _Chunks(self, chunks),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=processes,
            multiprocessing_context="fork",  # the source need not be sent to the processes
        )
        for chunk, records in zip(chunks, loader, strict=True):
            for i, record in zip(chunk, records, strict=True):
                self._records[i] = record
                if not isinstance(record, BrokenRecordError):
                    arrays = (record.get(name) for name in self.decoders)
                    self.bytes += sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
            if tick is not None:
                tick(chunk.stop)
        self.limit_bytes = whole

    def read(self, index: int) -> Record | BrokenRecordError:
        """The record as it is kept, whatever is wrong with it."""
        try:
            return self[index]
        except BrokenRecordError as error:
            return error

    def __getitem__(self, index: int) -> Record:
        found = self._records[index]
        if found is None:
            try:
                found = dict(self.source[index])
                for name, decode in self.decoders.items():
                    value = found.get(name)
                    if value is None or isinstance(value, list | tuple):
                        continue
                    array = decode(value, found["origin"])
                    if self.bytes + array.nbytes <= self.limit_bytes:
                        found[name] = array
                        self.bytes += array.nbytes
            except BrokenRecordError as error:
                found = error
            self._records[index] = found
        if isinstance(found, BrokenRecordError):
            raise found
        return found


def _as_it_is(records: list[Any]) -> list[Any]:
    return records


class _Chunks(torch.utils.data.Dataset[list[Any]]):
    """Runs of records of a source, each read as a whole."""

    def __init__(self, source: CachedSource, chunks: Sequence[range]) -> None:
        self.source, self.chunks = source, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> list[Any]:
        return [self.source.read(i) for i in self.chunks[index]]
