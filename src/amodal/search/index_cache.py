"""Indexes of a table's versions: kept in memory and on disk, followed by later versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amodal.search.ann import EXACT_BELOW, AnnIndex, RowIndex
from amodal.search.tail import TailedIndex, follow

Read = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class IndexCache:
    """Indexes of the inputs of one store.

    A small table is indexed anew for each version. A large one keeps its graph: rows that came
    since are searched exactly beside it, and once they are many, another graph is built in the
    background while searches go on with the old one.

    Args:
        folder: where the indexes are kept; it is a cache and may be deleted.
        dim: E, the width of the vectors.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self._folder = folder
        self._dim = dim
        self._graphs: dict[str, AnnIndex] = {}
        self._building: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def of(self, input: str, version: int, row_ids: NDArray[np.uint64], read: Read) -> RowIndex:
        """Index of one input.

        Args:
            input: its name.
            version: of the table.
            row_ids: (N,) of its rows, in the order of the keys.
            read: places in `row_ids` -> their (P, E) vectors.
        """
        file = self._folder / f"{_file_name(input)}-v{version}.faiss"
        graph = self._graph(input, file)
        if graph is not None and np.array_equal(graph.row_ids, row_ids):
            return graph
        if graph is None or graph.exact or len(row_ids) < EXACT_BELOW:
            return self._build(input, file, row_ids, read)
        followed = follow(graph, row_ids, read)
        if followed.stale:
            self._build_later(input, file, row_ids, read)
        return followed

    def renewed(self, input: str, index: RowIndex) -> bool:
        """Whether another graph was built since `index` was made."""
        return isinstance(index, TailedIndex) and index.graph is not self._graphs.get(input)

    def wait(self) -> None:
        """Return when no graph is being built in the background."""
        for thread in list(self._building.values()):
            thread.join()

    def _graph(self, input: str, file: Path) -> AnnIndex | None:
        with self._lock:
            if input not in self._graphs:
                newest = [file, *sorted(self._files(input), key=_version, reverse=True)]
                for candidate in newest:
                    loaded = AnnIndex.load(candidate)
                    if loaded is not None and loaded.dim == self._dim:
                        self._graphs[input] = loaded
                        break
            return self._graphs.get(input)

    def _build(self, input: str, file: Path, row_ids: NDArray[np.uint64], read: Read) -> AnnIndex:
        index = AnnIndex.build(read(np.arange(len(row_ids))), row_ids)
        with self._lock:
            self._graphs[input] = index
        with suppress(OSError, RuntimeError):  # an index on a read-only disk works too
            index.save(file)
            for old in self._folder.glob(f"{_file_name(input)}-v*"):
                if not old.name.startswith(file.name):
                    old.unlink(missing_ok=True)
        return index

    def _build_later(self, input: str, file: Path, row_ids: NDArray[np.uint64], read: Read) -> None:
        running = self._building.get(input)
        if running is not None and running.is_alive():
            return

        def build() -> None:
            # The table may be merged meanwhile, and its old files gone: the next search tries
            # again, with the rows that it finds.
            with suppress(OSError, RuntimeError):
                self._build(input, file, row_ids, read)

        self._building[input] = threading.Thread(target=build, daemon=True)
        self._building[input].start()

    def _files(self, input: str) -> list[Path]:
        return list(self._folder.glob(f"{_file_name(input)}-v*.faiss"))


def _version(file: Path) -> int:
    digits = file.stem.rpartition("-v")[2]
    return int(digits) if digits.isdecimal() else -1


def _file_name(input: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in input)
