"""What is in each vector store: the one place where database and indexes change together.

Searches of the stores that a change touches wait while it commits and their indexes are brought in step, so a search
sees all of a file or nothing. Locks are taken in one order: changes of indexes by ascending number, the database, and
last, for the moment of the commit, searches.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval import store
from holdfast.retrieval.stored_index import StoredIndex, sweep_segments
from holdfast.serving import sealed_tables
from holdfast.serving.database import Database
from holdfast.serving.ingestion_queue import Job
from holdfast.serving.parsed_document import ParsedDocument
from holdfast.serving.sealed_collection import SealedCollection
from holdfast.serving.sealed_collections import SealedCollections
from holdfast.serving.sealed_document import SealedDocument


class StoreContents:
    """The documents of all vector stores; `folder` holds their indexes' segments, `dim` is the vectors' length.

    Those that are sealed are in `sealed`, and change in step with the database as well.
    """

    def __init__(self, database: Database, folder: Path, dim: int, sealed: SealedCollections) -> None:
        self._database = database
        self._sealed = sealed
        self._folder = folder
        self._dim = dim
        self._indexes: dict[int, StoredIndex] = {}
        self._lock = threading.Lock()
        sweep_segments(folder, database.read())

    def index(self, position: int) -> StoredIndex:
        """Return the index of a plain vector store; it is loaded when first used."""
        with self._lock:
            if position not in self._indexes:
                self._indexes[position] = StoredIndex(position, self._folder, self._dim, self._database)
            return self._indexes[position]

    def complete(self, job: Job, parsed: ParsedDocument | None = None) -> bool:
        """Commit a queued file as completed, with what was `parsed` or with the document that is known by its content.

        Returns:
            False if neither is there, so that the file must be read first; True also if the file has been detached or
            cancelled meanwhile, and nothing is left to do.
        """
        sealed = self._sealed.find(job.store)
        if sealed is not None:
            return self._complete_sealed(sealed, job, parsed)
        index = self.index(job.store)
        with index.changing(), ExitStack() as searches_wait:
            index.load()
            with self._database.write() as connection:
                if not job.is_queued(connection):
                    return True
                document = store.find_document(connection, job.key)
                if document is None:
                    if parsed is None:
                        return False
                    document = store.insert_document(
                        connection, job.key, parsed.document, parsed.passages, parsed.vectors
                    )
                job.mark_completed(connection, document)
                searches_wait.enter_context(index.committing())  # given back after the commit
                if store.link_document(connection, job.store, document):
                    ids = store.load_passage_ids(connection, [document])
                    index.add(ids, store.load_vectors(connection, document, self._dim))
        index.save_if_due()
        return True

    def _complete_sealed(self, sealed: SealedCollection, job: Job, parsed: ParsedDocument | None) -> bool:
        """As `complete`; the document's objects are in the store before the database says so."""
        with sealed.changing(), ExitStack() as searches_wait:
            sealed.load()
            known = store.find_document(self._database.read(), job.key)
            if known is None and parsed is None:
                return False
            added = sealed.add(parsed, job.key.passage_ids(parsed.passages)) if known is None and parsed else None
            with self._database.write() as connection:
                is_queued = job.is_queued(connection)
                if added is not None:
                    sealed_tables.save_anchor(connection, job.store, added.anchor)
                if is_queued and added is not None and parsed is not None:
                    known = store.insert_document_row(
                        connection, job.key, parsed.document.format, len(parsed.passages), added.num_bytes
                    )
                    sealed_tables.insert_document(connection, job.store, known, added.sealed)
                    store.link_document(connection, job.store, known)
                if is_queued and known is not None:
                    job.mark_completed(connection, known)
                searches_wait.enter_context(sealed.committing())  # given back after the commit
            if added is not None and is_queued and known is not None:
                sealed.publish(added, known)
            elif added is not None:
                sealed.unload()  # loading removes what has no row
        sealed.merge_parts_if_due()
        return True

    def unlink(
        self, where: str, params: tuple[object, ...], also: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        """Take the rows of `store_files` that match out of their stores, and with them what nothing else holds.

        `also` runs in the same transaction. When this returns, no file of the data directory has what was removed.
        """
        while not self._try_unlink(where, params, also):
            pass
        self._database.purge()

    def delete_store(self, position: int) -> None:
        """Delete a vector store with everything in it."""
        if self._sealed.find(position) is not None:
            self._sealed.delete(position)
            self._database.purge()
            return
        index = self.index(position)
        with index.changing(), ExitStack() as searches_wait:
            with self._database.write() as connection:
                connection.execute("DELETE FROM store_files WHERE store = ?", (position,))
                connection.execute("DELETE FROM vector_stores WHERE position = ?", (position,))
                store.delete_collection(connection, position)
                searches_wait.enter_context(index.committing())
            index.delete_files()
        with self._lock:
            self._indexes.pop(position, None)
        self._database.purge()

    def verify(self) -> list[str]:
        """Return one line per fault of the saved segments, and of what is sealed."""
        rows = self._database.read().execute("SELECT position FROM vector_stores ORDER BY position").fetchall()
        faults = []
        for row in rows:
            contents = self._sealed.find(row["position"]) or self.index(row["position"])
            faults += contents.verify()
        return faults

    def close(self) -> None:
        """Save the indexes that changed, so that the next start need not encode anything."""
        with self._lock:
            indexes = list(self._indexes.values())
        for index in indexes:
            index.save()

    def _try_unlink(
        self, where: str, params: tuple[object, ...], also: Callable[[sqlite3.Connection], None] | None
    ) -> bool:
        """Unlink as above; return False, with nothing done, if a file was completed in a store not locked yet."""
        filled = f"SELECT DISTINCT store FROM store_files WHERE ({where}) AND document IS NOT NULL ORDER BY store"
        stores = [int(row["store"]) for row in self._database.read().execute(filled, params).fetchall()]
        sealed = {position: found for position in stores if (found := self._sealed.find(position)) is not None}
        indexes = {position: self.index(position) for position in stores if position not in sealed}
        removed: dict[int, NDArray[np.uint64]] = {}
        hidden: dict[int, list[SealedDocument]] = {}
        with ExitStack() as locks:
            for position in stores:
                contents = sealed.get(position) or indexes[position]
                locks.enter_context(contents.changing())
                contents.load()
            with ExitStack() as searches_wait:
                with self._database.write() as connection:
                    filled_now = connection.execute(filled, params).fetchall()
                    if not set(stores) >= {int(row["store"]) for row in filled_now}:
                        return False
                    for position in stores:
                        documents = _orphaned(connection, position, where, params)
                        if position in sealed:
                            hidden[position] = sealed_tables.find_documents(connection, documents)
                        else:
                            removed[position] = store.load_passage_ids(connection, documents)
                        matching = f"DELETE FROM store_files WHERE store = ? AND ({where})"
                        connection.execute(matching, (position, *params))
                        store.unlink_documents(connection, position, documents)
                    connection.execute(f"DELETE FROM store_files WHERE {where}", params)
                    if also is not None:
                        also(connection)
                    for position in stores:
                        contents = sealed.get(position) or indexes[position]
                        searches_wait.enter_context(contents.committing())
                for position, ids in removed.items():
                    indexes[position].remove(ids)
                for position, gone in hidden.items():
                    sealed[position].hide(gone)
            for position, gone in hidden.items():
                sealed[position].remove(gone)
        for index in indexes.values():
            index.save_if_due()
        return True


def _orphaned(connection: sqlite3.Connection, position: int, where: str, params: tuple[object, ...]) -> list[int]:
    """Return the documents of a store that only the matching files point to."""
    rows = connection.execute(
        f"SELECT document FROM store_files WHERE store = ? AND document IS NOT NULL GROUP BY document "
        f"HAVING SUM(NOT COALESCE(({where}), 0)) = 0",
        (position, *params),
    )
    return [int(row["document"]) for row in rows.fetchall()]
