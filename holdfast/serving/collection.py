"""Vector stores as users see them: files, passages, index.

A *document* is (tenant, SHA-256 of the bytes, reader, chunking, embedding model): parsed and embedded once, its text,
passages and float vectors kept in SQLite. A vector store holds files, each pointing to its document once processed;
its BinaryIndex holds the passages of its documents once, whichever files they came from. Blocking; call from a worker
thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.chunks import Chunking
from holdfast.retrieval.embed import Embedder
from holdfast.serving.database import Cursor, Database, Page
from holdfast.serving.engine.protocol import Source
from holdfast.serving.files import Files

FileStatus = Literal["in_progress", "completed", "cancelled", "failed"]
Attributes = dict[str, str | float | bool]


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
    """bytes of text, passages, codes and vectors held for this store"""

    @property
    def status(self) -> Literal["expired", "in_progress", "completed"]:
        raise NotImplementedError


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


class Collections:
    """All vector stores. Another tenant's are NotFound."""

    def __init__(self, database: Database, files: Files, embedder: Embedder, data_dir: Path) -> None:
        raise NotImplementedError

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
    ) -> VectorStore:
        raise NotImplementedError

    def get(self, tenant: str, vector_store_id: str) -> VectorStore:
        raise NotImplementedError

    def list(self, tenant: str, cursor: Cursor) -> Page[VectorStore]:
        raise NotImplementedError

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
        raise NotImplementedError

    def delete(self, tenant: str, vector_store_id: str) -> None:
        raise NotImplementedError

    # files in them
    def attach(
        self, tenant: str, vector_store_id: str, files: Sequence[NewFile], *, batch: bool = False
    ) -> tuple[list[StoredFile], FileBatch | None]:
        """Queue files for ingestion, all or none; with `batch`, under a new batch."""
        raise NotImplementedError

    def get_file(self, tenant: str, vector_store_id: str, file_id: str) -> StoredFile:
        raise NotImplementedError

    def list_files(
        self,
        tenant: str,
        vector_store_id: str,
        cursor: Cursor,
        *,
        status: FileStatus | None = None,
        batch_id: str | None = None,
    ) -> Page[StoredFile]:
        raise NotImplementedError

    def update_file(self, tenant: str, vector_store_id: str, file_id: str, attributes: Attributes) -> StoredFile:
        raise NotImplementedError

    def detach(self, tenant: str, vector_store_id: str, file_id: str) -> None:
        """Take a file out of the store: its passages, codes and vectors go unless another file shares them."""
        raise NotImplementedError

    def get_batch(self, tenant: str, vector_store_id: str, batch_id: str) -> FileBatch:
        raise NotImplementedError

    def cancel_batch(self, tenant: str, vector_store_id: str, batch_id: str) -> FileBatch:
        raise NotImplementedError

    def file_text(self, tenant: str, vector_store_id: str, file_id: str) -> str:
        """Return the extracted text that citations' offsets point into. Conflict until the file is completed."""
        raise NotImplementedError

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
    ) -> list[Source]:
        """Return the best `k` passages over all query vectors (Q, dim), score descending, then passage id.

        The score is max(0, cosine). `filters` is OpenAI's comparison or compound filter over file attributes, checked
        here (InvalidInput names the faulty part). `exact` ranks by the stored float vectors instead of the codes.
        """
        raise NotImplementedError

    # for `holdfast verify`
    def verify(self) -> list[str]:
        """Check every checksum and cross-reference; return one line per fault, empty if all is well."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
