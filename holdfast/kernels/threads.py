"""Threads that outlive a call: starting them anew would cost as much as a short scan.

Kernels release the interpreter lock, so plain threads suffice. The caller always works too and takes what no thread has
begun, so that a busy pool slows nothing down and cannot block.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

MAX_THREADS = 64


def num_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_threads(work: Callable[[int], None], num_workers: int) -> None:
    """Call `work(worker)` for some workers below `num_workers` at a time, worker 0 in this thread.

    A worker that no thread has begun when worker 0 is done is left out: `work` must share out what there is to do
    among the workers that come, as by a common iterator.
    """
    futures = [_pool().submit(work, worker) for worker in range(1, num_workers)]
    try:
        work(0)
    finally:
        begun = [future for future in futures if not future.cancel()]
        for future in begun:
            future.exception()  # waits
    for future in begun:
        future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="holdfast-kernel")
