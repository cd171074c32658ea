"""Uploaded files: bytes once by content under `blobs/`, one row per upload. Blocking; call from a worker thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.serving.database import Cursor, Database, Page


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An upload, as `/v1/files` shows it."""

    id: str
    """`file-` and 24 hex digits"""
    tenant: str
    filename: str
    num_bytes: int
    created_at: int
    """Unix seconds"""
    purpose: str
    sha256: str
    expires_at: int | None


class Files:
    """The uploads of all tenants; every call names the tenant, and another's files are NotFound."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        raise NotImplementedError

    def upload_path(self) -> Path:
        """Return a fresh path, on the data directory's disk, to stream an upload into."""
        raise NotImplementedError

    def create(
        self, tenant: str, filename: str, purpose: str, uploaded: Path, *, expires_after_s: int | None = None
    ) -> FileRecord:
        """Take over the bytes at `uploaded` (moved, fsynced, hashed) and commit the row."""
        raise NotImplementedError

    def get(self, tenant: str, file_id: str) -> FileRecord:
        raise NotImplementedError

    def list(self, tenant: str, cursor: Cursor, *, purpose: str | None = None) -> Page[FileRecord]:
        raise NotImplementedError

    def content_path(self, tenant: str, file_id: str) -> Path:
        raise NotImplementedError

    def delete(self, tenant: str, file_id: str) -> None:
        """Remove the file, and its passages, codes and vectors from every vector store."""
        raise NotImplementedError
