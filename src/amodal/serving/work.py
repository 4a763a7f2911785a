"""Threads beside the event loop: one for the models, one that reads the state of the index."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from amodal.search.store import VectorStore

ABOUT_WAITS_S = 0.2  # for the state of the index, which a writer may hold

Result = TypeVar("Result")


class Worker:
    """A single thread for model calls, so that the event loop stays responsive."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def __call__(self, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(call, *args, **options))


class IndexState:
    """Rows and columns of an index as they were read last; a slow reading is not waited for."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")
        self._last = self._read()
        self._reading: Future[dict[str, Any]] | None = None

    async def __call__(self) -> dict[str, Any]:
        if self._reading is None or self._reading.done():
            self._reading = self._thread.submit(self._read)
        await asyncio.wait([asyncio.wrap_future(self._reading)], timeout=ABOUT_WAITS_S)
        if self._reading.done() and self._reading.exception() is None:
            self._last = self._reading.result()
        return self._last

    def _read(self) -> dict[str, Any]:
        return {"rows": self._store.counts(), "columns": self._store.columns}
