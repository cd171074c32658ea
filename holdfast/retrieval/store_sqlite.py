"""Objects and ranked rows in one SQLite file of their own: no service to run, and the plainest ranking store there is.

Rows are ranked by reading the cell's rows and computing every score in float64, which is the reference itself.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import Conflict, StorageError
from holdfast.retrieval.object_store import LIST_SIZE, Listing, TaggedObject, check_key, content_tag
from holdfast.retrieval.ranking_store import (
    Hits,
    Metric,
    RankedHit,
    RankedRow,
    check_row,
    check_vector,
    score_rows,
    sort_hits,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ranked_rows (
    name TEXT NOT NULL, id BLOB NOT NULL, cell INTEGER NOT NULL, vector BLOB NOT NULL, sealed BLOB NOT NULL,
    token TEXT NOT NULL, PRIMARY KEY (name, id)
) STRICT;
CREATE INDEX IF NOT EXISTS ranked_rows_by_cell ON ranked_rows (name, cell);
"""


class SqliteFile:
    """The file both stores may share: one connection under a lock, every transaction durable."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        with _sqlite_errors():
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction at a time: committed at the end, rolled back on an exception."""
        with self._lock, _sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Return all rows of one query."""
        with self._lock, _sqlite_errors():
            return self._connection.execute(query, parameters).fetchall()

    def close(self) -> None:
        """Empty the write-ahead log and close."""
        with self._lock:
            self._connection.close()


class SqliteStore:
    """An `ObjectStore` in a `SqliteFile`."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        existing = set()
        kind = "OR IGNORE" if if_absent else "OR REPLACE"
        with self._file.transaction() as connection:
            for key, body in objects.items():
                done = connection.execute(f"INSERT {kind} INTO objects VALUES (?, ?)", (check_key(key), body))
                if done.rowcount == 0:
                    existing.add(key)
        return existing

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = {}
        for key in keys:
            for (body,) in self._file.read("SELECT body FROM objects WHERE key = ?", (check_key(key),)):
                found[key] = bytes(body)
        return found

    def get_tagged(self, key: str) -> TaggedObject | None:
        body = self.get_objects([key]).get(key)
        return None if body is None else TaggedObject(body, content_tag(body))

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        check_key(key)
        with self._file.transaction() as connection:
            row = connection.execute("SELECT body FROM objects WHERE key = ?", (key,)).fetchone()
            if (None if row is None else content_tag(bytes(row[0]))) != etag:
                raise Conflict(f"{key} was changed by another writer")
            connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (key, body))
        return content_tag(body)

    def delete(self, keys: Sequence[str]) -> None:
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM objects WHERE key = ?", [(check_key(key),) for key in keys])

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        rows = self._file.read(
            "SELECT key FROM objects WHERE key > ? AND substr(key, 1, ?) = ? ORDER BY key LIMIT ?",
            (cursor or "", len(prefix), prefix, LIST_SIZE + 1),
        )
        keys = [key for (key,) in rows]
        return Listing(keys[:LIST_SIZE], keys[LIST_SIZE - 1] if len(keys) > LIST_SIZE else None)

    def close(self) -> None:
        self._file.close()


class SqliteRankingStore:
    """A `RankingStore`: the table `name` of a `SqliteFile`."""

    def __init__(self, file: SqliteFile, name: str, *, metric: Metric, dim: int) -> None:
        self._file = file
        self._name = name
        self.metric = metric
        self.dim = dim

    def upsert_rows(self, rows: Sequence[RankedRow]) -> None:
        lines = [
            (self._name, row.id, row.cell, row.vector.tobytes(), row.sealed, row.token)
            for row in (check_row(row, self.metric, self.dim) for row in rows)
        ]
        with self._file.transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO ranked_rows VALUES (?, ?, ?, ?, ?, ?)", lines)

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        dtype = np.uint8 if self.metric == "hamming" else np.dtype("<f4")
        wanted = None if tokens is None else set(tokens)
        found: dict[int, Hits] = {}
        for cell, query in queries.items():
            check_vector(query, self.metric, self.dim)
            rows = self._file.read(
                "SELECT id, vector, sealed, token FROM ranked_rows WHERE name = ? AND cell = ?", (self._name, cell)
            )
            rows = [row for row in rows if wanted is None or row[3] in wanted]
            if not rows:
                found[cell] = []
                continue
            vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=dtype).reshape(len(rows), -1)
            scores = score_rows(vectors, query, self.metric).tolist()
            hits = [RankedHit(bytes(row[0]), score, bytes(row[2])) for row, score in zip(rows, scores, strict=True)]
            found[cell] = sort_hits(hits, k)
        return found

    def delete_rows(self, ids: Sequence[bytes]) -> None:
        with self._file.transaction() as connection:
            connection.executemany(
                "DELETE FROM ranked_rows WHERE name = ? AND id = ?", [(self._name, row_id) for row_id in ids]
            )

    def list_ids(self) -> list[bytes]:
        rows = self._file.read("SELECT id FROM ranked_rows WHERE name = ? ORDER BY id", (self._name,))
        return [bytes(row_id) for (row_id,) in rows]

    def count(self) -> int:
        return int(self._file.read("SELECT COUNT(*) FROM ranked_rows WHERE name = ?", (self._name,))[0][0])

    def drop(self) -> None:
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM ranked_rows WHERE name = ?", (self._name,))

    def close(self) -> None:
        self._file.close()


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"the SQLite store: {getattr(error, 'sqlite_errorname', type(error).__name__)}") from error
    except OSError as error:
        raise StorageError(f"the SQLite store: {error.strerror}") from error
