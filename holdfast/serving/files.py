"""Uploaded files: bytes once by content under `blobs/`, one row per upload. Blocking; call from a worker thread.

Bytes are durable before the row that names them is committed, and removed after it is gone; what a crash leaves in
between is an unnamed blob, swept when the directory is next opened. Where the operator gave a key, uploads are sealed
(`sealed_uploads.py`).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import IntegrityError, KeyUnavailable, NotFound
from holdfast.serving.database import Cursor, Database, Page, fetch_page, storage_errors
from holdfast.serving.sealed_uploads import SealedWriter, UploadSealer

SEALED = "sealed-"
Unlink = Callable[[str, str, Callable[[sqlite3.Connection], None]], None]
Lines = list[str]


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
    """of the bytes, in hex; of sealed ones `sealed-` and a keyed digest"""
    expires_at: int | None

    @property
    def is_sealed(self) -> bool:
        """Whether the bytes lie sealed on the disk."""
        return self.sha256.startswith(SEALED)


class Files:
    """The uploads of all tenants; every call names the tenant, and another's files are NotFound.

    `unlink(tenant, file_id, also)` is set by the collections: it takes the file out of every vector store, and runs
    `also` in the same transaction. `on_delete(file_id)` is called when a file is gone, for whoever keeps more of it.
    """

    unlink: Unlink
    on_delete: Callable[[str], None]

    def __init__(self, database: Database, data_dir: Path, sealer: UploadSealer | None = None) -> None:
        """With a `sealer`, what is uploaded from now on is sealed."""
        self.on_delete = lambda file_id: None
        self._database = database
        self._sealer = sealer
        self._blobs = data_dir / "blobs"
        self._uploads = data_dir / "uploads"
        self._blob_lock = threading.Lock()  # a blob must not be removed between its upload and that upload's row
        with storage_errors():
            self._blobs.mkdir(mode=0o700, exist_ok=True)
            self._uploads.mkdir(mode=0o700, exist_ok=True)
        self._sweep()

    def upload_path(self) -> Path:
        """Return a fresh path, on the data directory's disk, to stream an upload into."""
        return self._uploads / secrets.token_hex(16)

    def open_upload(self, tenant: str, path: Path) -> SealedWriter | BinaryIO:
        """Return what to write an upload to `path` with: sealed where there is a key."""
        with storage_errors():
            return path.open("wb") if self._sealer is None else self._sealer.open_writer(tenant, path)

    def create(
        self,
        tenant: str,
        filename: str,
        purpose: str,
        uploaded: Path,
        *,
        writer: SealedWriter | BinaryIO | None = None,
        expires_after_s: int | None = None,
    ) -> FileRecord:
        """Take over the bytes at `uploaded` (moved, fsynced, hashed) and commit the row.

        Args:
            writer: what they were written with, closed; None: they lie there in clear, and are sealed now.

        Raises:
            StorageError: the disk is full; neither bytes nor row remain.
        """
        try:
            with storage_errors():
                sha256, num_bytes = self._finish(tenant, uploaded, writer)
            now = self._database.now()
            record = FileRecord(
                id=f"file-{secrets.token_hex(12)}",
                tenant=tenant,
                filename=filename,
                num_bytes=num_bytes,
                created_at=now,
                purpose=purpose,
                sha256=sha256,
                expires_at=None if expires_after_s is None else now + expires_after_s,
            )
            with self._blob_lock:
                self._place(uploaded, self.blob_path(tenant, sha256))
                try:
                    self._insert(record)
                except BaseException:
                    self._unlink_unused(tenant, sha256)
                    raise
        finally:
            uploaded.unlink(missing_ok=True)
        return record

    def get(self, tenant: str, file_id: str) -> FileRecord:
        row = (
            self._database.read()
            .execute(
                "SELECT * FROM files WHERE tenant = ? AND id = ? AND (expires_at IS NULL OR expires_at > ?)",
                (tenant, file_id, self._database.now()),
            )
            .fetchone()
        )
        if row is None:
            raise NotFound(f"no file {file_id!r}", param="file_id")
        return _to_record(row)

    def list(self, tenant: str, cursor: Cursor, *, purpose: str | None = None) -> Page[FileRecord]:
        select = "SELECT * FROM files WHERE tenant = ? AND (expires_at IS NULL OR expires_at > ?)"
        params: tuple[object, ...] = (tenant, self._database.now())
        if purpose is not None:
            select += " AND purpose = ?"
            params += (purpose,)
        page = fetch_page(self._database.read(), select, params, cursor)
        return Page([_to_record(row) for row in page.items], page.has_more)

    def content_path(self, tenant: str, file_id: str) -> Path:
        return self.blob_path(tenant, self.get(tenant, file_id).sha256)

    def blob_path(self, tenant: str, sha256: str) -> Path:
        """Return where bytes known by their hash lie; the folder does not show the tenant's name."""
        return self._blobs / hashlib.sha256(tenant.encode()).hexdigest()[:16] / sha256

    def read(self, tenant: str, file_id: str) -> Iterator[bytes]:
        """Yield the bytes that were uploaded, opened where they are sealed."""
        record = self.get(tenant, file_id)
        return self.read_blob(tenant, record.sha256)

    def read_blob(self, tenant: str, sha256: str) -> Iterator[bytes]:
        """Yield bytes known by their hash."""
        path = self.blob_path(tenant, sha256)
        if not sha256.startswith(SEALED):
            return iter([path.read_bytes()])
        if self._sealer is None:
            raise KeyUnavailable("this file is sealed: set the key that the server had when it was uploaded")
        return self._sealer.read(tenant, path)

    def content_hash(self, tenant: str, data: Iterable[bytes]) -> str:
        """Return what bytes would be known by if they were uploaded now."""
        digest = hashlib.sha256()
        for piece in data:
            digest.update(piece)
        if self._sealer is None:
            return digest.hexdigest()
        return SEALED + self._sealer.digest(tenant, digest.digest())

    def delete(self, tenant: str, file_id: str) -> None:
        """Remove the file, and its passages, codes and vectors from every vector store."""
        self._delete(self.get(tenant, file_id))

    def delete_expired(self) -> int:
        """Delete the uploads whose time has passed, of all tenants; return how many."""
        rows = self._database.read().execute("SELECT * FROM files WHERE expires_at <= ?", (self._database.now(),))
        records = [_to_record(row) for row in rows.fetchall()]
        for record in records:
            self._delete(record)
        return len(records)

    def all_ids(self) -> set[str]:
        """Return the ids of all files of all tenants."""
        return {row["id"] for row in self._database.read().execute("SELECT id FROM files")}

    def verify(self) -> Lines:
        """Hash every blob again; return one line per fault."""
        faults = []
        rows = self._database.read().execute("SELECT DISTINCT tenant, sha256, num_bytes FROM files ORDER BY sha256")
        for tenant, sha256, num_bytes in rows.fetchall():
            try:
                if sha256.startswith(SEALED):
                    if self.content_hash(tenant, self.read_blob(tenant, sha256)) != sha256:
                        faults.append(f"blob {sha256[:19]}: not the bytes that were uploaded")
                    continue
                with self.blob_path(tenant, sha256).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    size = file.tell()
            except (IntegrityError, KeyUnavailable) as error:
                faults.append(f"blob {sha256[:19]}: {error}")
                continue
            except OSError as error:
                faults.append(f"blob {sha256[:12]}: {error.strerror}")
                continue
            if (digest, size) != (sha256, num_bytes):
                faults.append(f"blob {sha256[:12]}: not the bytes that were uploaded")
        return faults

    def _finish(self, tenant: str, uploaded: Path, writer: SealedWriter | BinaryIO | None) -> tuple[str, int]:
        """Make an upload durable, sealed where there is a key; return what it is known by, and its size."""
        if self._sealer is not None and writer is None:
            writer = self._sealer.seal_file(tenant, uploaded)
        with uploaded.open("rb") as file:
            os.fsync(file.fileno())
            if isinstance(writer, SealedWriter):
                return SEALED + writer.digest(), writer.num_bytes
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()

    def _delete(self, record: FileRecord) -> None:
        with self._blob_lock:
            try:
                self.unlink(record.tenant, record.id, lambda connection: _delete_row(connection, record.id))
            finally:
                self._unlink_unused(record.tenant, record.sha256)
        self.on_delete(record.id)

    def _insert(self, record: FileRecord) -> None:
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO files (id, tenant, filename, num_bytes, created_at, purpose, sha256, expires_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.tenant,
                    record.filename,
                    record.num_bytes,
                    record.created_at,
                    record.purpose,
                    record.sha256,
                    record.expires_at,
                ),
            )

    def _place(self, uploaded: Path, blob: Path) -> None:
        with storage_errors():
            if not blob.parent.is_dir():
                blob.parent.mkdir(exist_ok=True)
                _sync_folder(blob.parent.parent)
            uploaded.rename(blob)
            _sync_folder(blob.parent)

    def _unlink_unused(self, tenant: str, sha256: str) -> None:
        """Remove a blob that no row names."""
        query = "SELECT 1 FROM files WHERE tenant = ? AND sha256 = ?"
        if self._database.read().execute(query, (tenant, sha256)).fetchone() is None:
            self.blob_path(tenant, sha256).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove unfinished uploads and blobs that no row names."""
        for path in self._uploads.iterdir():
            path.unlink()
        rows = self._database.read().execute("SELECT DISTINCT tenant, sha256 FROM files")
        known = {self.blob_path(tenant, sha256) for tenant, sha256 in rows}
        for path in self._blobs.glob("*/*"):
            if path not in known:
                path.unlink()


def _to_record(row: sqlite3.Row) -> FileRecord:
    return FileRecord(
        id=row["id"],
        tenant=row["tenant"],
        filename=row["filename"],
        num_bytes=row["num_bytes"],
        created_at=row["created_at"],
        purpose=row["purpose"],
        sha256=row["sha256"],
        expires_at=row["expires_at"],
    )


def _delete_row(connection: sqlite3.Connection, file_id: str) -> None:
    connection.execute("DELETE FROM files WHERE id = ?", (file_id,))


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
