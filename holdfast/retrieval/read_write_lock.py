"""A lock for many readers or one writer. A waiting writer goes before readers that come after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Neither side may be taken again by the thread that holds it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_readers = 0
        self._num_waiting_writers = 0
        self._is_writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold off writers."""
        with self._condition:
            self._condition.wait_for(lambda: not self._is_writing and self._num_waiting_writers == 0)
            self._num_readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._num_readers -= 1
                self._condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off everybody."""
        with self._condition:
            self._num_waiting_writers += 1
            try:
                self._condition.wait_for(lambda: not self._is_writing and self._num_readers == 0)
            finally:
                self._num_waiting_writers -= 1
                self._condition.notify_all()
            self._is_writing = True
        try:
            yield
        finally:
            with self._condition:
                self._is_writing = False
                self._condition.notify_all()
