"""Work in threads, in order, a little ahead of who takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Result]:
    """The results of some work on each item, in order.

    Args:
        work: done in the threads of the pool.
        items: read in the thread that takes the results.
        pool: of threads.
        ahead: items under way or done while a result is taken.

    Examples:
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(work_ahead(abs, [-1, 2, -3], pool, ahead=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
