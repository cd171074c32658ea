"""One collection's BinaryIndex, kept in step with the database.

The database is the truth. A *segment* is a saved, immutable index file; what the database has beyond it is added when
the index is first used, and a segment that is missing or damaged is made again from the stored vectors. The index is
one object whatever was saved when, so results do not depend on saving. Searches run together; a change waits for them
and they for it, so a search sees all of a document or nothing.

Adding encodes what is new and nothing else. Once a collection is large enough, and each time it has grown fourfold, its
quantiser is fitted anew to all of it, and all of it is encoded with that: a step of its own, between two additions.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, NotFound, StorageError
from holdfast.retrieval import store
from holdfast.retrieval.calibrate import is_fit_due
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.read_write_lock import ReadWriteLock

log = logging.getLogger(__name__)

SEGMENT_SUFFIX = ".segment"
MIN_UNSAVED = 8192
"""passages gathered before a segment is written while ingestion goes on ..."""
UNSAVED_SHARE = 16
"""... and at least one in this many of the index, so that all the writing together stays linear; what is unsaved, 450
bytes a vector with rows, ids and codes, is all of an index that is not mapped from a file: at most 28 a vector here"""


class Connections(Protocol):
    """Where transactions come from."""

    def write(self) -> AbstractContextManager[sqlite3.Connection]:
        """One serialised transaction, committed at the end."""
        ...

    def read(self) -> sqlite3.Connection:
        """This thread's reading connection."""
        ...


class StoredIndex:
    """The index of `collection`, loaded on first use; segments lie in `folder`. Safe to call from many threads."""

    def __init__(self, collection: int, folder: Path, dim: int, connections: Connections) -> None:
        self._collection = collection
        self._folder = folder
        self._dim = dim
        self._connections = connections
        self._index: BinaryIndex | None = None
        self._num_unsaved = 0
        self._is_dirty = False
        self._changes = threading.Lock()
        self._lock = ReadWriteLock()

    @contextmanager
    def reading(self) -> Iterator[BinaryIndex]:
        """The index for searching; it does not change inside, nor does what its passages belong to."""
        while True:
            if self._index is None:
                with self._changes:
                    self.load()
            with self._lock.reading():
                if self._index is not None:
                    yield self._index
                    return

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other changes out; searches go on."""
        with self._changes:
            yield

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Inside `changing`, keep searches out: `add`, commit, or commit, `remove`.

        After an exception the index is loaded from the database again, so it is never ahead of it.
        """
        with self._lock.writing():
            try:
                yield
            except BaseException:
                self._index = None
                raise

    def add(self, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        """Add passages that are about to be committed; raises InvalidInput where that cannot be."""
        assert self._index is not None, "load before the rows are changed"
        self._index.add(ids, vectors)
        self._num_unsaved += len(ids)
        self._is_dirty = True

    def remove(self, ids: NDArray[np.uint64]) -> None:
        """Drop passages that a commit deleted, and the file of a segment that it forgot."""
        assert self._index is not None, "load before the rows are changed"
        try:
            self._index.remove(ids)
        except IntegrityError as error:
            log.warning("collection %d: %s; making the index again from the database", self._collection, error)
            self._index = None
        self._is_dirty = True
        name = store.find_segment(self._connections.read(), self._collection)
        if name is None and self._index is not None:
            self._num_unsaved = len(self._index)
        self._unlink_all_but(name)

    def save_if_due(self) -> None:
        """Fit anew when the collection has grown enough; save when so much is unsaved that starting would be slow."""
        index = self._index
        if index is not None and is_fit_due(len(index), index.calibration):
            with self._changes:
                self.load()
                self._fit_if_due()
                self._save()
        elif index is not None and self._num_unsaved >= max(MIN_UNSAVED, len(index) // UNSAVED_SHARE):
            self.save()

    def save(self) -> None:
        """Write a segment of what is in the index now, if anything changed; searches go on meanwhile.

        A disk that is too full for it is logged, not raised: nothing is lost, the next start takes longer.
        """
        with self._changes:
            if self._is_dirty:
                self.load()
                self._save()

    def _save(self) -> None:
        assert self._index is not None
        path = self._folder / f"{self._collection}-{secrets.token_hex(8)}{SEGMENT_SUFFIX}"
        try:
            self._write_segment(self._index, path)
        except (OSError, StorageError) as error:
            path.unlink(missing_ok=True)
            log.warning("collection %d: no segment written: %s", self._collection, error)
            return
        with self._lock.writing():
            self._index = BinaryIndex.load(path) if len(self._index) else BinaryIndex(self._dim)
            self._num_unsaved, self._is_dirty = 0, False

    def _fit_if_due(self) -> None:
        """Encode the collection with a quantiser fitted to it, inside `changing`; searches go on meanwhile."""
        index = self._index
        if index is None or not is_fit_due(len(index), index.calibration):
            return
        fitted = self._fitted(index)
        with self._lock.writing():
            self._index, self._is_dirty = fitted, True

    def _fitted(self, index: BinaryIndex) -> BinaryIndex:
        connection = self._connections.read()
        documents = store.list_documents(connection, self._collection)
        fitted = index.refitted(lambda: store.iterate_vectors(connection, documents, self._dim))
        log.info("collection %d: %s", self._collection, fitted.describe())
        return fitted

    def discard_segment(self) -> None:
        """Forget a damaged segment; the next use makes the index again from the stored vectors."""
        with self._changes, self._lock.writing():
            self._forget_segment()
            self._index = None

    def describe(self) -> str | None:
        """Say in one line how passages are encoded and what was measured of it; None while nothing is known.

        An index that is not in use yet is not loaded for it: then its saved segment is asked.
        """
        index = self._index
        if index is None:
            name = store.find_segment(self._connections.read(), self._collection)
            if name is None:
                return None
            try:
                index = BinaryIndex.load(self._folder / name)
            except (OSError, NotFound, IntegrityError):
                return None
        return index.describe() if len(index) else None

    def delete_files(self) -> None:
        """Remove the collection's segment files, inside `committing`, once the collection is deleted."""
        self._unlink_all_but(None)
        self._index = BinaryIndex(self._dim)
        self._is_dirty = False

    def verify(self) -> list[str]:
        """Return one line per fault of the saved segment, and of what it holds against the database."""
        with self._changes:
            connection = self._connections.read()
            name = store.find_segment(connection, self._collection)
            if name is None:
                return []
            unsaved = set(store.list_documents(connection, self._collection, is_unsaved=True))
            saved = [doc for doc in store.list_documents(connection, self._collection) if doc not in unsaved]
            try:
                index = BinaryIndex.load(self._folder / name)
                index.verify()
                if not np.array_equal(index.ids(), np.sort(store.load_passage_ids(connection, saved))):
                    return [f"segment {name}: holds other passages than the database says"]
            except (OSError, NotFound, IntegrityError) as error:
                return [f"segment {name}: {error}"]
            return []

    def load(self) -> None:
        """Load what is saved and what is not, inside `changing`, unless that is done."""
        if self._index is None:
            with self._lock.writing():
                self._load()

    def _load(self) -> None:
        """Map the saved segment and add what the database has beyond it."""
        connection = self._connections.read()
        index = self._load_segment(store.find_segment(connection, self._collection))
        unsaved = store.list_documents(connection, self._collection, is_unsaved=True)
        self._num_unsaved = 0
        for ids, vectors in store.iterate_vectors(connection, unsaved, self._dim):
            index.add(ids, vectors)
            self._num_unsaved += len(ids)
        self._is_dirty = self._is_dirty or self._num_unsaved > 0
        if is_fit_due(len(index), index.calibration):
            index, self._is_dirty = self._fitted(index), True
        self._index = index

    def _load_segment(self, name: str | None) -> BinaryIndex:
        if name is None:
            return BinaryIndex(self._dim)
        try:
            return BinaryIndex.load(self._folder / name)
        except (OSError, NotFound, IntegrityError) as error:
            log.warning("segment %s cannot be used (%s); making it again from the database", name, error)
            self._forget_segment()
            return BinaryIndex(self._dim)

    def _write_segment(self, index: BinaryIndex, path: Path) -> None:
        if len(index):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            index.save(path)
        with self._connections.write() as connection:
            store.replace_segment(connection, self._collection, path.name if len(index) else None, len(index))
        self._unlink_all_but(path.name)

    def _forget_segment(self) -> None:
        with self._connections.write() as connection:
            store.replace_segment(connection, self._collection, None)
        self._unlink_all_but(None)

    def _unlink_all_but(self, name: str | None) -> None:
        for path in self._folder.glob(f"{self._collection}-*{SEGMENT_SUFFIX}"):
            if path.name != name:
                path.unlink(missing_ok=True)


def sweep_segments(folder: Path, connection: sqlite3.Connection) -> None:
    """Remove files that no collection refers to, such as one that a crash left half-written."""
    known = {str(row["name"]) for row in connection.execute("SELECT name FROM segments")}
    for path in folder.glob("*"):
        if path.name not in known:
            path.unlink()
