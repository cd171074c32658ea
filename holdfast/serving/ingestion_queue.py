"""The queue of files waiting to be ingested: the rows of `store_files` with status `in_progress`, oldest first.

It lies in the database, so it survives a crash. An attempt is counted before it begins: a file that kills the process
each time is given up.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from holdfast.errors import Conflict, NotFound, StorageError
from holdfast.retrieval.chunks import Chunking
from holdfast.retrieval.store import DocumentKey
from holdfast.serving.database import Database
from holdfast.serving.vector_store import NewFile, to_json

READY = """
SELECT s.*, f.id, f.tenant, f.filename, f.sha256, c.prefix FROM store_files s JOIN files f ON f.position = s.file
LEFT JOIN sealed_collections c ON c.collection = s.store
WHERE s.status = 'in_progress' ORDER BY s.position"""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to ingest into one vector store."""

    position: int
    store: int
    tenant: str
    file_id: str
    filename: str
    num_attempts: int
    """this one included"""
    key: DocumentKey
    is_sealed: bool = False
    """the vector store's contents are"""

    def is_queued(self, connection: sqlite3.Connection) -> bool:
        """Return False once the file was detached or its batch cancelled."""
        query = "SELECT 1 FROM store_files WHERE position = ? AND status = 'in_progress'"
        return connection.execute(query, (self.position,)).fetchone() is not None

    def mark_completed(self, connection: sqlite3.Connection, document: int) -> None:
        connection.execute(
            "UPDATE store_files SET status = 'completed', document = ? WHERE position = ?", (document, self.position)
        )


def enqueue(
    connection: sqlite3.Connection, tenant: str, store: int, file: NewFile, batch: int | None, created_at: int
) -> None:
    """Put a file of `tenant` into a vector store, to be ingested.

    One that is completed there keeps its document.

    Raises:
        NotFound: the tenant has no such file.
        Conflict: the document that the file has there is cut in another way than is wanted now.
    """
    query = "SELECT position FROM files WHERE tenant = ? AND id = ?"
    row = connection.execute(query, (tenant, file.file_id)).fetchone()
    if row is None:
        raise NotFound(f"no file {file.file_id!r}", param="file_id")
    chunking = file.chunking or Chunking()
    old = connection.execute(
        "SELECT document, max_tokens, overlap_tokens FROM store_files WHERE store = ? AND file = ?",
        (store, row["position"]),
    ).fetchone()
    document = old["document"] if old else None
    if document is not None and Chunking(old["max_tokens"], old["overlap_tokens"]) != chunking:
        raise Conflict(f"file {file.file_id!r} has just been ingested with another chunking; attach it again")
    connection.execute("DELETE FROM store_files WHERE store = ? AND file = ?", (store, row["position"]))
    connection.execute(
        "INSERT INTO store_files (store, file, batch, document, status, attributes, max_tokens, overlap_tokens, "
        "is_chunking_chosen, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            store,
            row["position"],
            batch,
            document,
            "in_progress" if document is None else "completed",
            to_json(file.attributes),
            chunking.max_tokens,
            chunking.overlap_tokens,
            file.chunking is not None,
            created_at,
        ),
    )


class IngestionQueue:
    """Hands each queued file to one worker at a time."""

    def __init__(self, database: Database, model_id: str) -> None:
        self._database = database
        self._model_id = model_id
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> Job | None:
        """Return the oldest file that no other worker has, its attempt counted; None if there is none."""
        with self._lock, self._database.write() as connection:
            for row in connection.execute(READY):
                if row["position"] not in self._taken:
                    connection.execute(
                        "UPDATE store_files SET num_attempts = num_attempts + 1 WHERE position = ?", (row["position"],)
                    )
                    self._taken.add(row["position"])
                    return self._to_job(row)
        return None

    def uncount(self, job: Job) -> None:
        """Take an attempt back that ended for no fault of the file; where the disk is full, it stays counted."""
        with suppress(StorageError), self._database.write() as connection:
            connection.execute(
                "UPDATE store_files SET num_attempts = num_attempts - 1 WHERE position = ?", (job.position,)
            )

    def fail(self, job: Job, code: str, message: str) -> None:
        """End the file as failed, unless it was cancelled meanwhile."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE store_files SET status = 'failed', error_code = ?, error_message = ? "
                "WHERE position = ? AND status = 'in_progress'",
                (code, message, job.position),
            )

    def release(self, job: Job) -> None:
        """Say that no worker has the file any more."""
        with self._lock:
            self._taken.discard(job.position)

    def status(self, job: Job) -> str:
        """Return the file's status, or `detached`."""
        query = "SELECT status FROM store_files WHERE position = ?"
        row = self._database.read().execute(query, (job.position,)).fetchone()
        return "detached" if row is None else str(row["status"])

    def count(self) -> int:
        """Return how many files are queued, those being worked on included."""
        query = "SELECT COUNT(*) FROM store_files WHERE status = 'in_progress'"
        return int(self._database.read().execute(query).fetchone()[0])

    def _to_job(self, row: sqlite3.Row) -> Job:
        return Job(
            position=row["position"],
            store=row["store"],
            tenant=row["tenant"],
            file_id=row["id"],
            filename=row["filename"],
            num_attempts=row["num_attempts"] + 1,
            key=DocumentKey(
                owner=row["prefix"] or row["tenant"],
                sha256=row["sha256"],
                reader=PurePath(row["filename"]).suffix.lower(),
                chunking=Chunking(row["max_tokens"], row["overlap_tokens"]),
                model_id=self._model_id,
            ),
            is_sealed=row["prefix"] is not None,
        )
