"""Vector stores, the files in them and file batches: what they look like, and how they are read from the database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.errors import NotFound
from holdfast.retrieval.chunks import Chunking

FileStatus = Literal["in_progress", "completed", "cancelled", "failed"]
Mode = Literal["plain", "sealed", "asym", "sap", "codes", "caprise"]
"""how the contents of a vector store are kept: readable, sealed and ranked here, or sealed and ranked by the store"""
Attributes = dict[str, str | float | bool]

SECONDS_PER_DAY = 86_400

STORES = "SELECT * FROM vector_stores WHERE tenant = ?"
STORE_FILES = """
SELECT s.*, f.id, f.filename, v.id AS store_id, b.id AS batch_id, d.num_bytes, d.num_passages
FROM store_files s JOIN files f ON f.position = s.file JOIN vector_stores v ON v.position = s.store
LEFT JOIN batches b ON b.position = s.batch LEFT JOIN documents d ON d.id = s.document AND s.status = 'completed'
WHERE s.store = ?"""


@dataclass(frozen=True, slots=True)
class FileCounts:
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


@dataclass(frozen=True, slots=True)
class VectorStore:
    id: str
    """`vs_` and 24 hex digits, or a chosen name (`vs_default`)"""
    tenant: str
    name: str
    description: str | None
    created_at: int
    last_active_at: int
    metadata: dict[str, str]
    expires_after_days: int | None
    expires_at: int | None
    file_counts: FileCounts
    usage_bytes: int
    """bytes of text, passages and vectors held for this store"""
    is_expired: bool = False
    mode: Mode = "plain"
    codes: str | None = None
    """which codes its passages have, and what was measured of them; None before there are any, and of sealed stores"""
    key_id: str | None = None
    """the operator's key that protects it; None of plain stores"""

    @property
    def status(self) -> Literal["expired", "in_progress", "completed"]:
        if self.is_expired:
            return "expired"
        return "in_progress" if self.file_counts.in_progress else "completed"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a vector store."""

    file_id: str
    vector_store_id: str
    filename: str
    created_at: int
    status: FileStatus
    usage_bytes: int
    attributes: Attributes
    chunking: Chunking
    is_chunking_chosen: bool
    """False: the server's default was used"""
    error_code: str | None
    """stable code: one of errors.DOCUMENT_CODES, or `server_error`"""
    error_message: str | None
    num_passages: int
    batch_id: str | None


@dataclass(frozen=True, slots=True)
class FileBatch:
    id: str
    """`vsfb_` and 24 hex digits"""
    vector_store_id: str
    created_at: int
    is_cancelled: bool
    file_counts: FileCounts


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to attach."""

    file_id: str
    attributes: Attributes | None = None
    chunking: Chunking | None = None


def find_store(connection: sqlite3.Connection, tenant: str, vector_store_id: str) -> sqlite3.Row:
    """Return the row of a vector store; NotFound if it is another tenant's."""
    row: sqlite3.Row | None = connection.execute(f"{STORES} AND id = ?", (tenant, vector_store_id)).fetchone()
    if row is None:
        raise NotFound(f"no vector store {vector_store_id!r}", param="vector_store_id")
    return row


def find_store_file(connection: sqlite3.Connection, store: int, file_id: str) -> sqlite3.Row:
    """Return the row of a file in a vector store."""
    row: sqlite3.Row | None = connection.execute(f"{STORE_FILES} AND f.id = ?", (store, file_id)).fetchone()
    if row is None:
        raise NotFound(f"no file {file_id!r} in this vector store", param="file_id")
    return row


def find_batch(connection: sqlite3.Connection, store: int, batch_id: str) -> sqlite3.Row:
    """Return the row of a batch of a vector store."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT b.*, v.id AS store_id FROM batches b JOIN vector_stores v ON v.position = b.store "
        "WHERE b.store = ? AND b.id = ?",
        (store, batch_id),
    ).fetchone()
    if row is None:
        raise NotFound(f"no file batch {batch_id!r} in this vector store", param="batch_id")
    return row


def to_store(connection: sqlite3.Connection, row: sqlite3.Row, now: int) -> VectorStore:
    """Return a vector store with its counts as of `now`."""
    usage = connection.execute(
        "SELECT COALESCE(SUM(d.num_bytes), 0) FROM collection_documents c JOIN documents d ON d.id = c.document "
        "WHERE c.collection = ?",
        (row["position"],),
    ).fetchone()
    sealed = connection.execute(
        "SELECT mode FROM sealed_collections WHERE collection = ?", (row["position"],)
    ).fetchone()
    return VectorStore(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        description=row["description"],
        created_at=row["created_at"],
        last_active_at=row["last_active_at"],
        metadata=json.loads(row["metadata"]),
        expires_after_days=row["expires_after_days"],
        expires_at=expiry(row),
        file_counts=_count(connection, "store", row["position"]),
        usage_bytes=usage[0],
        is_expired=is_expired(row, now),
        mode="plain" if sealed is None else sealed["mode"],
    )


def to_stored_file(row: sqlite3.Row) -> StoredFile:
    return StoredFile(
        file_id=row["id"],
        vector_store_id=row["store_id"],
        filename=row["filename"],
        created_at=row["created_at"],
        status=row["status"],
        usage_bytes=row["num_bytes"] or 0,
        attributes=json.loads(row["attributes"]),
        chunking=Chunking(row["max_tokens"], row["overlap_tokens"]),
        is_chunking_chosen=bool(row["is_chunking_chosen"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        num_passages=row["num_passages"] or 0,
        batch_id=row["batch_id"],
    )


def to_batch(connection: sqlite3.Connection, row: sqlite3.Row) -> FileBatch:
    return FileBatch(
        id=row["id"],
        vector_store_id=row["store_id"],
        created_at=row["created_at"],
        is_cancelled=bool(row["is_cancelled"]),
        file_counts=_count(connection, "batch", row["position"]),
    )


def expiry(row: sqlite3.Row) -> int | None:
    """Return when a vector store expires, in Unix seconds."""
    days: int | None = row["expires_after_days"]
    return None if days is None else int(row["last_active_at"]) + days * SECONDS_PER_DAY


def is_expired(row: sqlite3.Row, now: int) -> bool:
    expires_at = expiry(row)
    return expires_at is not None and expires_at <= now


def to_json(value: dict[str, Any] | None) -> str:
    return json.dumps(value or {}, ensure_ascii=False)


def check_references(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield one line per file or document whose rows do not fit together."""
    for row in connection.execute(
        "SELECT s.position, s.status FROM store_files s WHERE (s.status = 'completed') != (s.document IS NOT NULL) "
        "OR (s.document IS NOT NULL AND NOT EXISTS (SELECT 1 FROM collection_documents c "
        "WHERE c.collection = s.store AND c.document = s.document))"
    ):
        yield f"vector store file {row['position']}: {row['status']}, but its document is not in the store"
    for row in connection.execute(
        "SELECT c.collection, c.document FROM collection_documents c WHERE NOT EXISTS (SELECT 1 FROM store_files s "
        "WHERE s.store = c.collection AND s.document = c.document)"
    ):
        yield f"document {row['document']}: in vector store {row['collection']} without a file"


def _count(connection: sqlite3.Connection, column: Literal["store", "batch"], position: int) -> FileCounts:
    rows = connection.execute(
        f"SELECT status, COUNT(*) FROM store_files WHERE {column} = ? GROUP BY status", (position,)
    ).fetchall()
    counts: dict[str, int] = dict(tuple(row) for row in rows)
    return FileCounts(
        in_progress=counts.get("in_progress", 0),
        completed=counts.get("completed", 0),
        failed=counts.get("failed", 0),
        cancelled=counts.get("cancelled", 0),
        total=sum(counts.values()),
    )
