"""Work on many clips at once: in order, in bounded memory, one torch thread to a worker."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """How many cores this process may use; the environment variable AUSCULT_THREADS overrides it."""
    asked = os.environ.get("AUSCULT_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch and numpy use `count` threads inside the block: more than there are free cores is ruinous."""
    import threadpoolctl

    # Not imported for this alone: what was exported is judged without torch.
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else count
    if torch:
        torch.set_num_threads(count)
    try:
        with threadpoolctl.threadpool_limits(count, user_api="blas"):
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, a few items ahead of the consumer.

    Decoding, transforms and matrix products all release the interpreter, so threads fill the cores
    without copying a byte between processes. Each worker computes one clip with one torch thread: the
    result does not depend on the number of workers.
    """
    workers = workers or available_cores()
    with torch_threads(1):
        if workers == 1:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="auscult") as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) >= 4 * workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
