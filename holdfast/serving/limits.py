"""Admission: how much work runs at once, how much may wait, and how much one request may take.

A `Gate` lets `capacity` holders in, keeps `max_waiting` more in line, first come first served, and turns the rest away
with an estimate of when to come back. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.errors import InvalidInput, Overloaded

SMOOTHING = 0.2
MAX_QUERY_CHARS = 32_768
"""about the 8192 word-pieces that one text may have elsewhere: a few seconds of embedding"""


def check_query(query: str, param: str) -> None:
    """Raise InvalidInput, naming `param`, if `query` is too long to be embedded while others wait."""
    if len(query) > MAX_QUERY_CHARS:
        raise InvalidInput(
            f"a question or query may have {MAX_QUERY_CHARS} characters, and this one has {len(query)}", param=param
        )


class Gate:
    """At most `capacity` holders at once and `max_waiting` in line."""

    def __init__(self, name: str, capacity: int, max_waiting: int) -> None:
        self.name = name
        self.capacity = capacity
        self.max_waiting = max_waiting
        self.num_running = 0
        self.num_waiting = 0
        self._slots = asyncio.Semaphore(capacity)
        self._mean_hold_s = 1.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one slot.

        Raises:
            Overloaded: the line is full.
        """
        if self._slots.locked() and self.num_waiting >= self.max_waiting:
            raise Overloaded(
                f"the server is busy: {self.num_running} {self.name} running and {self.num_waiting} waiting; try again",
                retry_after_s=self._expected_wait_s(),
            )
        self.num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.num_running -= 1
            self._mean_hold_s += SMOOTHING * (time.monotonic() - started - self._mean_hold_s)
            self._slots.release()

    def _expected_wait_s(self) -> float:
        """Seconds until a newcomer would find a free slot, between 1 and 60."""
        return min(60.0, max(1.0, self._mean_hold_s * (self.num_waiting + 1) / self.capacity))
