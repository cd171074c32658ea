"""The data directory's one SQLite database: connections, transactions and listings.

WAL journal, `synchronous=FULL`, `secure_delete=ON`: a commit survives `kill -9` and power loss, and deleted text is
overwritten. One process owns the directory (an advisory lock on `lock`); inside it one connection writes, each thread
reads through its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, Literal, TypeVar

from holdfast.errors import Conflict, IntegrityError, InvalidInput, StorageError
from holdfast.serving.schema import SCHEMA, SCHEMA_VERSION

DATABASE_NAME = "holdfast.sqlite3"
LOCK_NAME = "lock"
MAX_PAGE_SIZE = 10_000
BUSY_TIMEOUT_S = 30.0
DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
DISK_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing."""

    items: list[T]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins and how it is ordered, as OpenAI's listings have it."""

    after: str | None = None
    before: str | None = None
    limit: int = 20
    order: Literal["asc", "desc"] = "desc"


class _Connection(sqlite3.Connection):
    """A connection that can be weakly referenced, so that a finished thread's is closed with it."""


class Database:
    """Open the data directory; raise Conflict, naming the other process, if it is in use."""

    def __init__(self, data_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = data_dir / DATABASE_NAME
        self._clock = clock
        self._write_lock = threading.Lock()
        self._local = threading.local()
        self._readers: weakref.WeakSet[_Connection] = weakref.WeakSet()
        with storage_errors():
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = _lock(data_dir)
            try:
                self.path.touch(mode=0o600)  # in a folder that others may read, too; the log's mode follows it
                self._writer = self._connect()
                self._prepare(self._writer)
            except BaseException:
                self._lock_file.close()
                raise

    def now(self) -> int:
        """Return the time in Unix seconds."""
        return int(self._clock())

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One serialised transaction: committed at the end, rolled back on an exception.

        Raises:
            StorageError: the disk is full or refuses to write; nothing was committed.
        """
        with self._write_lock, storage_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # SQLite has rolled back by itself where the disk is full
                    self._writer.execute("ROLLBACK")
                raise

    def read(self) -> sqlite3.Connection:
        """This thread's reading connection (rows by name); each statement sees the latest commit."""
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with storage_errors():
                connection = self._connect()
                connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._readers.add(connection)
        return connection

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """This thread's reading connection; all statements inside see one commit."""
        connection = self.read()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("COMMIT")

    def purge(self) -> None:
        """Empty the write-ahead log, so that what was deleted is in no file any more.

        Raises:
            Conflict: a reader held an old snapshot for longer than `BUSY_TIMEOUT_S`.
        """
        with self._write_lock, storage_errors():
            is_busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise Conflict("deleted rows are gone, but a long read still keeps the write-ahead log; delete again")

    def check(self) -> list[str]:
        """Return what SQLite's own integrity checks report; empty if all is well."""
        connection = self.read()
        try:
            faults = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
            dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
            faults += [f"dangling reference in table {row[0]}" for row in dangling]
        except sqlite3.DatabaseError as error:
            return [f"database: {error}"]
        return [f"database: {fault}" for fault in faults]

    def close(self) -> None:
        with self._write_lock:
            for connection in list(self._readers):
                connection.close()
            self._writer.close()  # the last connection to close empties and removes the write-ahead log
            self._lock_file.close()

    def _connect(self) -> _Connection:
        connection: _Connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        connection.row_factory = sqlite3.Row
        for pragma in ("synchronous = FULL", "secure_delete = ON", "foreign_keys = ON", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables of a new database; refuse one that another version of the schema wrote."""
        connection.execute("PRAGMA journal_mode = WAL")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} INSERT INTO schema_version VALUES ({SCHEMA_VERSION}); COMMIT;"
            )
        version = connection.execute("SELECT version FROM schema_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise Conflict(f"{self.path} has schema version {version}; this Holdfast reads version {SCHEMA_VERSION}")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Say a full disk or a damaged database in this project's errors."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in DISK_CODES:
            raise StorageError(f"cannot write to the data directory: {error}") from error
        if code in DAMAGE_CODES:
            raise IntegrityError(f"the database is damaged: {error}") from error
        raise
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise StorageError(f"cannot write to the data directory: {error.strerror}") from error
        raise


def fetch_page(
    connection: sqlite3.Connection, select: str, params: tuple[object, ...], cursor: Cursor
) -> Page[sqlite3.Row]:
    """Return one page of the rows of `select`, whose columns include `id` and the ascending integer `position`.

    Raises:
        InvalidInput: the limit is out of range, or `after` or `before` is not in the listing.
    """
    if not 1 <= cursor.limit <= MAX_PAGE_SIZE:
        raise InvalidInput(f"limit must be between 1 and {MAX_PAGE_SIZE}, not {cursor.limit}", param="limit")
    is_ascending = cursor.order == "asc"
    conditions = []
    bounds: list[object] = []
    for name, anchor in (("after", cursor.after), ("before", cursor.before)):
        if anchor is None:
            continue
        row = connection.execute(f"SELECT position FROM ({select}) WHERE id = ?", (*params, anchor)).fetchone()
        if row is None:
            raise InvalidInput(f"{name} names {anchor!r}, which is not in this listing", param=name)
        conditions.append("position > ?" if (name == "after") == is_ascending else "position < ?")
        bounds.append(row[0])
    # A page before an anchor is the one that ends there, so it is read backwards.
    is_backwards = cursor.before is not None and cursor.after is None
    direction = "ASC" if is_ascending != is_backwards else "DESC"
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    sql = f"SELECT * FROM ({select}) {where} ORDER BY position {direction} LIMIT ?"
    rows = connection.execute(sql, (*params, *bounds, cursor.limit + 1)).fetchall()
    items = rows[: cursor.limit]
    return Page(items[::-1] if is_backwards else items, has_more=len(rows) > cursor.limit)


def _lock(data_dir: Path) -> BinaryIO:
    """Take the advisory lock, which the system drops when its process dies, and leave the process id in the file."""
    file = (data_dir / LOCK_NAME).open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read(20).decode("ascii", "replace").strip() or "unknown"
        file.close()
        raise Conflict(f"{data_dir} is in use by process {owner}; stop it, or choose another data directory") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    return file
