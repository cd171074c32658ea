"""Rotations of sealed vector stores while the server runs: one after the other, in the background.

Whether a rotation is under way is written in the key record, so one that a stop or a crash ended goes on at the next
start. Searches, ingestion and deletion see both epochs meanwhile.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

from holdfast.errors import HoldfastError
from holdfast.serving.sealed_collections import SealedCollections

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far a vector store's rotation is."""

    status: Literal["in_progress", "completed", "failed"]
    """`completed` also where none was asked for"""
    num_left: int | None = None
    """documents and parts of the index that are still to be sealed again; None while that is not known"""
    error: str | None = None


class Rotations:
    """Rotates vector stores of `sealed`, by their numbers. Safe to call from many threads."""

    def __init__(self, sealed: SealedCollections) -> None:
        self._sealed = sealed
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rotation")
        self._running: dict[int, Future[None]] = {}
        self._num_left: dict[int, int] = {}
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()

    def start(self, collection: int) -> None:
        """Rotate a sealed vector store, unless that is under way."""
        with self._lock:
            running = self._running.get(collection)
            if running is None or running.done():
                self._num_left.pop(collection, None)
                self._running[collection] = self._worker.submit(self._rotate, collection)

    def resume(self) -> None:
        """Go on with what was begun before the last stop."""
        for collection in self._sealed.unfinished():
            self.start(collection)

    def describe(self, collection: int) -> Rotation:
        """Say how far a vector store's rotation is."""
        with self._lock:
            running = self._running.get(collection)
        if running is None:
            return Rotation("completed")
        if not running.done():
            return Rotation("in_progress", self._num_left.get(collection))
        error = running.exception()
        if error is None:
            return Rotation("completed")
        known = error.message if isinstance(error, HoldfastError) else "the log says more"
        return Rotation("failed", self._num_left.get(collection), known)

    def stop(self) -> None:
        """End after the step that is being done; nothing is lost."""
        self._is_stopping.set()
        self._worker.shutdown(cancel_futures=True)

    def _rotate(self, collection: int) -> None:
        try:
            self._sealed.rotate(collection, partial(self._note, collection))
        except _Stopped:
            log.info("the rotation of collection %d goes on at the next start", collection)
        except Exception:
            log.exception("the rotation of collection %d stopped", collection)
            raise

    def _note(self, collection: int, num_left: int) -> None:
        self._num_left[collection] = num_left
        if self._is_stopping.is_set():
            raise _Stopped


class _Stopped(Exception):
    """The server stops."""
