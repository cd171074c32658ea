"""Objects and ranked rows in Postgres; ranked rows need its pgvector extension.

Rows are ranked by a sequential scan: no approximate index is made, and a table that has one is refused. One connection
under a lock, made again once when the server has closed it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import Conflict, InvalidInput, StoreUnavailable
from holdfast.retrieval.object_store import LIST_SIZE, Listing, TaggedObject, check_key, content_tag
from holdfast.retrieval.ranking_store import Hits, Metric, RankedHit, RankedRow, check_row, check_vector, sort_hits

OPERATORS: dict[Metric, str] = {"ip": "<#>", "l2": "<->", "hamming": "<~>"}
NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")

T = TypeVar("T")


class PostgresDatabase:
    """One connection, made by `connect` (psycopg's, with autocommit)."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._lock = threading.RLock()
        with _postgres_errors():
            self._connection = connect()

    def run(self, work: Callable[[Any], T]) -> T:
        """Return `work(connection)` in one transaction; done again on a fresh connection where the old one was lost."""
        from psycopg import OperationalError

        with self._lock, _postgres_errors():
            try:
                with self._connection.transaction():
                    return work(self._connection)
            except OperationalError:
                if not self._connection.closed:
                    raise
                self._connection = self._connect()
                with self._connection.transaction():
                    return work(self._connection)

    def execute(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Return the rows of one statement."""

        def work(connection: Any) -> list[Any]:
            cursor = connection.execute(query, parameters)
            return list(cursor.fetchall()) if cursor.description else []

        return self.run(work)

    def execute_many(self, query: str, lines: Sequence[Sequence[object]]) -> None:
        """Run one statement for each of `lines`, all or none."""

        def work(connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.executemany(query, lines)

        if lines:
            self.run(work)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class PostgresStore:
    """An `ObjectStore` in the table `holdfast_objects`."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        database.execute(
            'CREATE TABLE IF NOT EXISTS holdfast_objects (key text COLLATE "C" PRIMARY KEY, body bytea NOT NULL)'
        )

    def put_objects(self, objects: Mapping[str, bytes], *, if_absent: bool = False) -> set[str]:
        action = "NOTHING" if if_absent else "UPDATE SET body = EXCLUDED.body"
        query = f"INSERT INTO holdfast_objects VALUES (%s, %s) ON CONFLICT (key) DO {action} RETURNING key"

        def work(connection: Any) -> set[str]:
            return {
                key
                for key, body in objects.items()
                if connection.execute(query, (check_key(key), body)).fetchone() is None
            }

        return self._database.run(work)

    def get_objects(self, keys: Sequence[str]) -> dict[str, bytes]:
        names = [check_key(key) for key in keys]
        rows = self._database.execute("SELECT key, body FROM holdfast_objects WHERE key = ANY(%s)", (names,))
        return {key: bytes(body) for key, body in rows}

    def get_tagged(self, key: str) -> TaggedObject | None:
        body = self.get_objects([key]).get(key)
        return None if body is None else TaggedObject(body, content_tag(body))

    def cas(self, key: str, body: bytes, etag: str | None) -> str:
        check_key(key)
        if etag is None:
            if self.put_objects({key: body}, if_absent=True):
                raise Conflict(f"{key} was changed by another writer")
            return content_tag(body)
        changed = self._database.execute(
            "UPDATE holdfast_objects SET body = %s WHERE key = %s AND encode(sha256(body), 'hex') = %s RETURNING key",
            (body, key, etag),
        )
        if not changed:
            raise Conflict(f"{key} was changed by another writer")
        return content_tag(body)

    def delete(self, keys: Sequence[str]) -> None:
        names = [check_key(key) for key in keys]
        self._database.execute("DELETE FROM holdfast_objects WHERE key = ANY(%s)", (names,))

    def list(self, prefix: str, cursor: str | None = None) -> Listing:
        rows = self._database.execute(
            "SELECT key FROM holdfast_objects WHERE starts_with(key, %s) AND key > %s ORDER BY key LIMIT %s",
            (prefix, cursor or "", LIST_SIZE + 1),
        )
        keys = [key for (key,) in rows]
        return Listing(keys[:LIST_SIZE], keys[LIST_SIZE - 1] if len(keys) > LIST_SIZE else None)

    def close(self) -> None:
        self._database.close()


class PgvectorStore:
    """A `RankingStore` in a table of its own.

    Raises:
        InvalidInput: the server has no pgvector, or somebody put an approximate index on the table.
    """

    def __init__(self, database: PostgresDatabase, name: str, *, metric: Metric, dim: int) -> None:
        self._database = database
        self._table = table_name(name)
        self.metric = metric
        self.dim = dim
        if not database.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
            raise InvalidInput("this Postgres server has no pgvector extension: install it", param="store")
        database.execute("SET client_min_messages = warning")
        database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self._kind = f"{'bit' if metric == 'hamming' else 'vector'}({dim})"
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (id bytea PRIMARY KEY, cell integer NOT NULL, "
            f"vector {self._kind} NOT NULL, sealed bytea NOT NULL, token text NOT NULL)"
        )
        database.execute(f"CREATE INDEX IF NOT EXISTS {self._table}_by_cell ON {self._table} (cell)")
        indexes = database.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", (self._table,))
        if any(re.search(r"USING (hnsw|ivfflat)", definition) for (definition,) in indexes):
            raise InvalidInput(
                f"{self._table} has an approximate index, over distances that mean nothing: drop it", param="store"
            )

    def upsert_rows(self, rows: Sequence[RankedRow]) -> None:
        checked = [check_row(row, self.metric, self.dim) for row in rows]
        self._database.execute_many(
            f"INSERT INTO {self._table} VALUES (%s, %s, %s::{self._kind}, %s, %s) ON CONFLICT (id) DO UPDATE SET "
            "cell = EXCLUDED.cell, vector = EXCLUDED.vector, sealed = EXCLUDED.sealed, token = EXCLUDED.token",
            [(row.id, row.cell, self._literal(row.vector), row.sealed, row.token) for row in checked],
        )

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        order = f"vector {OPERATORS[self.metric]} %s::{self._kind}"
        condition = "" if tokens is None else "AND token = ANY(%s)"
        query = (
            f"SELECT id, {order} AS distance, sealed FROM {self._table} WHERE cell = %s {condition} "
            "ORDER BY distance, id LIMIT %s"
        )
        found: dict[int, Hits] = {}
        for cell, vector in queries.items():
            literal = self._literal(check_vector(vector, self.metric, self.dim))
            filters = [] if tokens is None else [list(tokens)]
            rows = self._database.execute(query, [literal, cell, *filters, k])
            # pgvector's <#> is minus the inner product, so every operator's value is minus our score
            hits = [RankedHit(bytes(row_id), -float(distance), bytes(sealed)) for row_id, distance, sealed in rows]
            found[cell] = sort_hits(hits, k)
        return found

    def delete_rows(self, ids: Sequence[bytes]) -> None:
        self._database.execute(f"DELETE FROM {self._table} WHERE id = ANY(%s)", (list(ids),))

    def list_ids(self) -> list[bytes]:
        return [bytes(row_id) for (row_id,) in self._database.execute(f"SELECT id FROM {self._table} ORDER BY id")]

    def count(self) -> int:
        return int(self._database.execute(f"SELECT count(*) FROM {self._table}")[0][0])

    def drop(self) -> None:
        self._database.execute(f"DROP TABLE IF EXISTS {self._table}")

    def close(self) -> None:
        self._database.close()

    def _literal(self, vector: NDArray[Any]) -> str:
        """Return a vector as pgvector reads it; nine digits name a float32 exactly."""
        if self.metric == "hamming":
            return "".join(map(str, np.unpackbits(vector).tolist()))
        return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def table_name(name: str) -> str:
    """Return the table of a collection: its name where that is one, else a digest of it."""
    plain = name.lower().replace("-", "_")
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"holdfast_{plain}" if plain == name and NAME.fullmatch(plain) else f"holdfast_{digest}"


def open_postgres(dsn: str) -> PostgresDatabase:
    """Connect to the server that `dsn` names, as libpq reads it."""
    import psycopg

    return PostgresDatabase(lambda: psycopg.connect(dsn, autocommit=True, connect_timeout=5))


@contextmanager
def _postgres_errors() -> Iterator[None]:
    """A server's error may quote what it was sent: say its SQLSTATE only."""
    from psycopg import Error

    try:
        yield
    except Error as error:
        raise StoreUnavailable(f"Postgres: {error.sqlstate or type(error).__name__}") from None
