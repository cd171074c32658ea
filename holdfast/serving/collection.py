"""Vector stores as users see them: files, passages, index.

A *document* is (tenant, SHA-256 of the bytes, reader, chunking, embedding model): parsed and embedded once, its text,
passages and float vectors kept in SQLite. A vector store holds files, each pointing to its document once processed;
its BinaryIndex holds the passages of its documents once, whichever files they came from. Blocking; call from a worker
thread.
"""

from __future__ import annotations

import logging
import re
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import Conflict, IntegrityError, InvalidInput, ShapeError, StorageError
from holdfast.retrieval import store
from holdfast.retrieval.chunks import Chunking
from holdfast.retrieval.embed import Embedder
from holdfast.retrieval.filters import make_filter
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.store_filesystem import FilesystemStore
from holdfast.serving.collection_search import Candidate, all_passages, find_candidates, search_passages
from holdfast.serving.database import Cursor, Database, Page, fetch_page
from holdfast.serving.engine.protocol import Source
from holdfast.serving.files import Files
from holdfast.serving.ingestion_queue import enqueue
from holdfast.serving.sealed_collection import SealedCollection
from holdfast.serving.sealed_collections import SealedCollections
from holdfast.serving.store_contents import StoreContents
from holdfast.serving.vector_store import (
    STORE_FILES,
    STORES,
    Attributes,
    FileBatch,
    FileCounts,
    FileStatus,
    Mode,
    NewFile,
    StoredFile,
    VectorStore,
    check_references,
    find_batch,
    find_store,
    find_store_file,
    is_expired,
    to_batch,
    to_json,
    to_store,
    to_stored_file,
)

__all__ = [
    "Attributes",
    "Collections",
    "FileBatch",
    "FileCounts",
    "FileStatus",
    "NewFile",
    "StoredFile",
    "VectorStore",
]

log = logging.getLogger(__name__)

Sources = list[Source]
StoredFiles = list[StoredFile]
Candidates = list[Candidate]
Lines = list[str]
T = TypeVar("T")

CHOSEN_ID = re.compile(r"vs_[A-Za-z0-9_-]{1,64}")
ACTIVITY_RESOLUTION_S = 60
"""`last_active_at` is brought up to date by searches this often: each time costs a commit"""


class Collections:
    """All vector stores. Another tenant's are NotFound.

    Attributes:
        observe_rescored: told how many passages each search compared by better vectors than codes.

    Raises:
        Conflict: the data directory was embedded with another model, whose vectors cannot be compared.
    """

    observe_rescored: Callable[[int], None]

    def __init__(
        self,
        database: Database,
        files: Files,
        embedder: Embedder,
        data_dir: Path,
        *,
        sealed: SealedCollections | None = None,
        default_mode: Mode = "plain",
    ) -> None:
        """`sealed` are the vector stores that are not plain; `default_mode` is a new one's."""
        self.observe_rescored = lambda num_rescored: None
        self.database = database
        self.files = files
        self.embedder = embedder
        row = database.read().execute("SELECT model_id FROM documents LIMIT 1").fetchone()
        if row is not None and row["model_id"] != embedder.model_id:
            raise Conflict(
                f"{data_dir} holds vectors of the embedding model {row['model_id']}, not of {embedder.model_id}; "
                "start with that model, or with another data directory",
            )
        self.sealed = sealed or SealedCollections(
            database, None, lambda: FilesystemStore(data_dir / "sealed"), dim=embedder.dim
        )
        self.default_mode = default_mode
        self.contents = StoreContents(database, data_dir / "segments", embedder.dim, self.sealed)
        files.unlink = self._unlink_upload

    # vector stores

    def create(
        self,
        tenant: str,
        *,
        name: str = "",
        description: str | None = None,
        metadata: dict[str, str] | None = None,
        expires_after_days: int | None = None,
        vector_store_id: str | None = None,
        mode: Mode | None = None,
    ) -> VectorStore:
        """Make an empty vector store; `vector_store_id` chooses its id (`vs_` and letters, digits, `_`, `-`).

        Args:
            mode: how its contents are encrypted, for as long as it lives; None: the server's default.

        Raises:
            Conflict: the tenant has a vector store of that id.
            KeyUnavailable: it should be sealed, and there is no key to seal it with.
        """
        if vector_store_id is None:
            vector_store_id = f"vs_{secrets.token_hex(12)}"
        elif not CHOSEN_ID.fullmatch(vector_store_id):
            raise InvalidInput(
                f"vector_store_id must be vs_ and up to 64 letters, digits, _ or -; not {vector_store_id!r:.80}",
                param="vector_store_id",
            )
        now = self.database.now()
        mode = mode or self.default_mode
        self._refuse_taken(self.database.read(), tenant, vector_store_id)
        insert_sealed = None if mode == "plain" else self.sealed.prepare(tenant, mode)
        with self.database.write() as connection:
            self._refuse_taken(connection, tenant, vector_store_id)
            position = connection.execute("INSERT INTO collections DEFAULT VALUES").lastrowid
            connection.execute(
                "INSERT INTO vector_stores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (position, vector_store_id, tenant, name, description, to_json(metadata), now, now, expires_after_days),
            )
            if insert_sealed is not None and position is not None:
                insert_sealed(connection, position)
        return self.get(tenant, vector_store_id)

    def get(self, tenant: str, vector_store_id: str) -> VectorStore:
        connection = self.database.read()
        return self._to_store(connection, find_store(connection, tenant, vector_store_id), self.database.now())

    def list(self, tenant: str, cursor: Cursor) -> Page[VectorStore]:
        connection, now = self.database.read(), self.database.now()
        page = fetch_page(connection, STORES, (tenant,), cursor)
        return Page([self._to_store(connection, row, now) for row in page.items], page.has_more)

    def update(
        self,
        tenant: str,
        vector_store_id: str,
        *,
        name: str | None = None,
        metadata: dict[str, str] | None = None,
        expires_after_days: int | None = None,
        clear_expiry: bool = False,
    ) -> VectorStore:
        """Change what is given and leave the rest. Conflict once it has expired: that cannot be undone."""
        with self.database.write() as connection:
            row = find_store(connection, tenant, vector_store_id)
            self._refuse_expired(row)
            connection.execute(
                "UPDATE vector_stores SET name = ?, metadata = ?, expires_after_days = ?, last_active_at = ? "
                "WHERE position = ?",
                (
                    row["name"] if name is None else name,
                    row["metadata"] if metadata is None else to_json(metadata),
                    None if clear_expiry else expires_after_days or row["expires_after_days"],
                    self.database.now(),
                    row["position"],
                ),
            )
        return self.get(tenant, vector_store_id)

    def delete(self, tenant: str, vector_store_id: str) -> None:
        """Delete a vector store and all it holds; the uploads stay."""
        self.contents.delete_store(find_store(self.database.read(), tenant, vector_store_id)["position"])

    # files in them

    def attach(
        self, tenant: str, vector_store_id: str, files: Sequence[NewFile], *, batch: bool = False
    ) -> tuple[StoredFiles, FileBatch | None]:
        """Queue files for ingestion, all or none; with `batch`, under a new batch.

        A file named twice counts once, as named last. A file that is in the store already, with the same chunking,
        takes the new attributes and stays searchable; with another chunking it is ingested again.
        """
        chosen = {file.file_id: file for file in files}
        row = find_store(self.database.read(), tenant, vector_store_id)
        self._refuse_expired(row)
        is_sealed = self.sealed.find(row["position"]) is not None
        for file_id in chosen:
            if is_sealed and not self.files.get(tenant, file_id).is_sealed:
                raise Conflict(f"file {file_id!r} was uploaded before the server had a key: upload it again")
            self.files.get(tenant, file_id)
        self._detach_rechunked(row["position"], chosen)
        with self.database.write() as connection:
            position = find_store(connection, tenant, vector_store_id)["position"]
            now = self.database.now()
            batch_id, batch_position = f"vsfb_{secrets.token_hex(12)}", None
            if batch:
                batch_position = connection.execute(
                    "INSERT INTO batches (id, store, created_at) VALUES (?, ?, ?)", (batch_id, position, now)
                ).lastrowid
            for file in chosen.values():
                enqueue(connection, tenant, position, file, batch_position, now)
            connection.execute("UPDATE vector_stores SET last_active_at = ? WHERE position = ?", (now, position))
            rows = [find_store_file(connection, position, file_id) for file_id in chosen]
            attached = [to_stored_file(row) for row in rows]
            return attached, to_batch(connection, find_batch(connection, position, batch_id)) if batch else None

    def get_file(self, tenant: str, vector_store_id: str, file_id: str) -> StoredFile:
        connection = self.database.read()
        position = find_store(connection, tenant, vector_store_id)["position"]
        return to_stored_file(find_store_file(connection, position, file_id))

    def list_files(
        self,
        tenant: str,
        vector_store_id: str,
        cursor: Cursor,
        *,
        status: FileStatus | None = None,
        batch_id: str | None = None,
    ) -> Page[StoredFile]:
        connection = self.database.read()
        position = find_store(connection, tenant, vector_store_id)["position"]
        select = STORE_FILES
        params: tuple[object, ...] = (position,)
        if status is not None:
            select += " AND s.status = ?"
            params += (status,)
        if batch_id is not None:
            select += " AND s.batch = ?"
            params += (find_batch(connection, position, batch_id)["position"],)
        page = fetch_page(connection, select, params, cursor)
        return Page([to_stored_file(row) for row in page.items], page.has_more)

    def update_file(self, tenant: str, vector_store_id: str, file_id: str, attributes: Attributes) -> StoredFile:
        """Replace a file's attributes."""
        with self.database.write() as connection:
            position = find_store(connection, tenant, vector_store_id)["position"]
            row = find_store_file(connection, position, file_id)
            connection.execute(
                "UPDATE store_files SET attributes = ? WHERE position = ?", (to_json(attributes), row["position"])
            )
            return to_stored_file(find_store_file(connection, position, file_id))

    def detach(self, tenant: str, vector_store_id: str, file_id: str) -> None:
        """Take a file out of the store: its passages, codes and vectors go unless another file shares them."""
        connection = self.database.read()
        position = find_store(connection, tenant, vector_store_id)["position"]
        row = find_store_file(connection, position, file_id)
        self.contents.unlink("store = ? AND file = ?", (position, row["file"]))

    def get_batch(self, tenant: str, vector_store_id: str, batch_id: str) -> FileBatch:
        connection = self.database.read()
        position = find_store(connection, tenant, vector_store_id)["position"]
        return to_batch(connection, find_batch(connection, position, batch_id))

    def cancel_batch(self, tenant: str, vector_store_id: str, batch_id: str) -> FileBatch:
        """Cancel the files of a batch that are not finished; the finished ones stay."""
        with self.database.write() as connection:
            position = find_store(connection, tenant, vector_store_id)["position"]
            row = find_batch(connection, position, batch_id)
            connection.execute("UPDATE batches SET is_cancelled = 1 WHERE position = ?", (row["position"],))
            connection.execute(
                "UPDATE store_files SET status = 'cancelled' WHERE batch = ? AND status = 'in_progress'",
                (row["position"],),
            )
            return to_batch(connection, find_batch(connection, position, batch_id))

    def file_text(self, tenant: str, vector_store_id: str, file_id: str) -> str:
        """Return the extracted text that citations' offsets point into. Conflict until the file is completed."""
        position = find_store(self.database.read(), tenant, vector_store_id)["position"]
        sealed = self.sealed.find(position)
        with sealed.reading() if sealed else nullcontext(), self.database.snapshot() as connection:
            find_store(connection, tenant, vector_store_id)
            row = find_store_file(connection, position, file_id)
            if row["status"] != "completed":
                raise Conflict(f"file {file_id!r} is {row['status']}; its text is there once it is completed")
            return sealed.load_text(row["document"]) if sealed else store.load_text(connection, row["document"])

    # search

    def search(
        self,
        tenant: str,
        vector_store_id: str,
        query_vectors: NDArray[np.float32],
        k: int,
        *,
        filters: dict[str, Any] | None = None,
        score_threshold: float = 0.0,
        exact: bool = False,
    ) -> Sources:
        """Return the best `k` passages over all query vectors (Q, dim), score descending, then passage id.

        The score is max(0, cosine). `filters` is OpenAI's comparison or compound filter over file attributes, checked
        here (InvalidInput names the faulty part). `exact` ranks by the stored float vectors instead of the codes.
        """
        self._check_queries(query_vectors)
        predicate = None if filters is None else make_filter(filters)

        def find(
            connection: sqlite3.Connection, position: int, index: BinaryIndex, sealed: SealedCollection | None
        ) -> Sources:
            if exact and sealed is not None:
                raise InvalidInput("a sealed vector store keeps no float vectors to rank by", param="exact")
            codes = None if exact else index
            observe = self.observe_rescored
            return search_passages(
                connection, position, codes, query_vectors, k, predicate, sealed, observe_rescored=observe
            )

        sources = self._search(tenant, vector_store_id, find)
        return [source for source in sources if source.score >= score_threshold]

    def find_candidates(
        self,
        tenant: str,
        vector_store_id: str,
        query_vector: NDArray[np.float32],
        question: str,
        *,
        filters: dict[str, Any] | None = None,
    ) -> Candidates:
        """Return the passages nearest to `query_vector` (1, dim), and those that hold the words of `question` best."""
        self._check_queries(query_vector)
        predicate = None if filters is None else make_filter(filters)

        def find(
            connection: sqlite3.Connection, position: int, index: BinaryIndex, sealed: SealedCollection | None
        ) -> Candidates:
            observe = self.observe_rescored
            return find_candidates(
                connection, position, index, query_vector, question, predicate, sealed, observe_rescored=observe
            )

        return self._search(tenant, vector_store_id, find)

    def passages(self, tenant: str, vector_store_id: str) -> Sources:
        """Return every passage of a plain store, as a search would find it. InvalidInput for a sealed one."""
        with self.database.snapshot() as connection:
            position = find_store(connection, tenant, vector_store_id)["position"]
            if self.sealed.find(position) is not None:
                raise InvalidInput(f"{vector_store_id} is sealed: nothing read of it is kept", param="vector_store_id")
            return all_passages(connection, position)

    # housekeeping

    def delete_expired(self) -> None:
        """Delete expired uploads, and empty the vector stores that have expired (they stay, as `expired`)."""
        self.files.delete_expired()
        now = self.database.now()
        rows = self.database.read().execute("SELECT * FROM vector_stores WHERE expires_after_days IS NOT NULL")
        for row in rows.fetchall():
            if is_expired(row, now) and self.get(row["tenant"], row["id"]).file_counts.total:
                self.contents.unlink("store = ?", (row["position"],))

    def verify(self) -> Lines:
        """Check every checksum and cross-reference; return one line per fault, empty if all is well."""
        faults = self.database.check()
        if faults:
            return faults  # what the rows say cannot be relied on
        with self.database.snapshot() as connection:
            elsewhere = {int(row["document"]) for row in connection.execute("SELECT document FROM sealed_documents")}
            faults = [
                *store.check_documents(connection, self.embedder.dim, elsewhere=elsewhere),
                *check_references(connection),
            ]
        return [*faults, *self.files.verify(), *self.contents.verify()]

    def close(self) -> None:
        """Save what the indexes hold; call before the database is closed."""
        self.contents.close()
        self.sealed.close()

    def _search(
        self,
        tenant: str,
        vector_store_id: str,
        find: Callable[[sqlite3.Connection, int, BinaryIndex, SealedCollection | None], T],
    ) -> T:
        """Return what `find` finds in one state of a vector store; a damaged index is made again on the way."""
        row = find_store(self.database.read(), tenant, vector_store_id)
        self._refuse_expired(row)
        self._touch(row)
        sealed = self.sealed.find(row["position"])
        if sealed is not None:
            with sealed.reading(), self.database.snapshot() as connection:
                find_store(connection, tenant, vector_store_id)
                return find(connection, row["position"], sealed.index, sealed)
        index = self.contents.index(row["position"])
        for is_last_try in (False, True):
            try:
                with index.reading() as codes, self.database.snapshot() as connection:
                    find_store(connection, tenant, vector_store_id)
                    return find(connection, row["position"], codes, None)
            except IntegrityError as error:
                if is_last_try:
                    raise
                log.warning("vector store %s: %s; making its index again from the database", vector_store_id, error)
                index.discard_segment()
        raise AssertionError("the last try returns or raises")

    def _check_queries(self, query_vectors: NDArray[np.float32]) -> None:
        if query_vectors.ndim != 2 or query_vectors.shape[1] != self.embedder.dim:
            shape = query_vectors.shape
            raise ShapeError(f"query_vectors must be (Q, {self.embedder.dim}), not {shape}", param="query_vectors")

    def _detach_rechunked(self, position: int, files: dict[str, NewFile]) -> None:
        """Take out the files that are in the store with another chunking than they are attached with now."""
        rows = self.database.read().execute(f"{STORE_FILES} AND s.document IS NOT NULL", (position,)).fetchall()
        for row in rows:
            file = files.get(row["id"])
            if file is not None and Chunking(row["max_tokens"], row["overlap_tokens"]) != (file.chunking or Chunking()):
                self.contents.unlink("position = ?", (row["position"],))

    def _unlink_upload(self, tenant: str, file_id: str, also: Callable[[sqlite3.Connection], None]) -> None:
        """Take an upload out of every vector store; `also` drops the upload itself in the same transaction."""
        self.contents.unlink(
            "file = (SELECT f.position FROM files f WHERE f.tenant = ? AND f.id = ?)", (tenant, file_id), also
        )

    def _refuse_taken(self, connection: sqlite3.Connection, tenant: str, vector_store_id: str) -> None:
        if connection.execute(f"{STORES} AND id = ?", (tenant, vector_store_id)).fetchone():
            raise Conflict(f"vector store {vector_store_id!r} exists", param="vector_store_id")

    def _to_store(self, connection: sqlite3.Connection, row: sqlite3.Row, now: int) -> VectorStore:
        found = to_store(connection, row, now)
        return replace(found, codes=self.contents.index(row["position"]).describe()) if found.mode == "plain" else found

    def _refuse_expired(self, row: sqlite3.Row) -> None:
        if is_expired(row, self.database.now()):
            raise Conflict(f"vector store {row['id']!r} has expired", code="vector_store_expired")

    def _touch(self, row: sqlite3.Row) -> None:
        """Note that a vector store was used; a full disk does not stop searches."""
        now = self.database.now()
        if now - row["last_active_at"] < ACTIVITY_RESOLUTION_S:
            return
        try:
            with self.database.write() as connection:
                connection.execute(
                    "UPDATE vector_stores SET last_active_at = ? WHERE position = ?", (now, row["position"])
                )
        except StorageError as error:
            log.warning("vector store %s: its last use is not noted: %s", row["id"], error)
