"""What the database keeps of sealed collections: where their objects lie, how far each has come, and the wrapped keys.

Nothing here is secret or readable content: opaque prefixes and numbers, the anchor that shows a store rolling back, and
key records, whose keys are wrapped by the operator's own.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import Conflict
from holdfast.privacy.keys import KeyRecord
from holdfast.privacy.manifest import Anchor
from holdfast.serving.database import Database
from holdfast.serving.sealed_document import SealedDocument

SCHEMA = """
CREATE TABLE IF NOT EXISTS key_records (
    tenant TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sealed_collections (
    collection INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    prefix TEXT NOT NULL UNIQUE,
    mode TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS sealed_documents (
    document INTEGER PRIMARY KEY REFERENCES documents (id) ON DELETE CASCADE,
    collection INTEGER NOT NULL REFERENCES collections (id),
    number INTEGER NOT NULL UNIQUE,
    num_blocks INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sealed_documents_by_collection ON sealed_documents (collection);
"""


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A sealed collection as the database knows it."""

    collection: int
    tenant: str
    prefix: str
    """of its objects, and the id under which it has keys: random, never used again"""
    mode: str
    anchor: Anchor
    is_deleted: bool
    """its objects may still have to be deleted"""


class KeyTable:
    """The wrapped keys of all tenants: `privacy.keyring.KeyRecords` in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, tenant_id: str) -> KeyRecord | None:
        """Return the record of a tenant, or None where there is none yet."""
        query = "SELECT record FROM key_records WHERE tenant = ?"
        row = self._database.read().execute(query, (tenant_id,)).fetchone()
        return None if row is None else KeyRecord.from_dict(json.loads(row["record"]))

    def replace(self, revision: int, record: KeyRecord) -> None:
        """Store `record` in place of the one that has `revision` (0: of none), and let no copy of that one remain."""
        text = json.dumps(record.to_dict())
        with self._database.write() as connection:
            if revision == 0:
                done = connection.execute(
                    "INSERT OR IGNORE INTO key_records VALUES (?, ?, ?)", (record.tenant_id, record.revision, text)
                )
            else:
                done = connection.execute(
                    "UPDATE key_records SET revision = ?, record = ? WHERE tenant = ? AND revision = ?",
                    (record.revision, text, record.tenant_id, revision),
                )
            if done.rowcount != 1:
                raise Conflict(f"the keys of {record.tenant_id} were changed meanwhile; try again")
        self._database.purge()

    def tenants(self) -> list[str]:
        """Return the tenants that have keys."""
        rows = self._database.read().execute("SELECT tenant FROM key_records ORDER BY tenant")
        return [str(row["tenant"]) for row in rows]


def create_tables(database: Database) -> None:
    """Make the tables where they are missing."""
    with database.write() as connection:
        for statement in SCHEMA.split(";"):
            connection.execute(statement)


def insert_collection(connection: sqlite3.Connection, row: SealedRow) -> None:
    """Note that a collection is sealed."""
    connection.execute(
        "INSERT INTO sealed_collections VALUES (?, ?, ?, ?, ?, ?, 0)",
        (row.collection, row.tenant, row.prefix, row.mode, row.anchor.sequence, row.anchor.digest),
    )


def find_collection(connection: sqlite3.Connection, collection: int) -> SealedRow | None:
    """Return what is known of a sealed collection, or None for a plain one."""
    row = connection.execute(
        "SELECT * FROM sealed_collections WHERE collection = ? AND NOT is_deleted", (collection,)
    ).fetchone()
    return None if row is None else _to_row(row)


def list_collections(connection: sqlite3.Connection, *, is_deleted: bool = False) -> list[SealedRow]:
    """Return all sealed collections, or those that were deleted and whose objects may still lie about."""
    rows = connection.execute(
        "SELECT * FROM sealed_collections WHERE is_deleted = ? ORDER BY collection", (is_deleted,)
    )
    return [_to_row(row) for row in rows.fetchall()]


def mark_deleted(connection: sqlite3.Connection, collection: int) -> None:
    """Note that a collection is gone and its objects should be."""
    connection.execute("UPDATE sealed_collections SET is_deleted = 1 WHERE collection = ?", (collection,))


def forget_collection(connection: sqlite3.Connection, collection: int) -> None:
    """Drop the last trace of a collection whose objects are deleted."""
    connection.execute("DELETE FROM sealed_collections WHERE collection = ? AND is_deleted", (collection,))


def save_anchor(connection: sqlite3.Connection, collection: int, anchor: Anchor) -> None:
    """Keep the last manifest that was seen."""
    connection.execute(
        "UPDATE sealed_collections SET sequence = ?, digest = ? WHERE collection = ?",
        (anchor.sequence, anchor.digest, collection),
    )


def new_document(num_blocks: int) -> SealedDocument:
    """Return a document with a number of its own."""
    return SealedDocument(secrets.randbits(63), num_blocks)


def insert_document(connection: sqlite3.Connection, collection: int, document: int, sealed: SealedDocument) -> None:
    """Note where the contents of a document lie."""
    connection.execute(
        "INSERT INTO sealed_documents VALUES (?, ?, ?, ?)", (document, collection, sealed.number, sealed.num_blocks)
    )


def list_documents(connection: sqlite3.Connection, collection: int) -> list[SealedDocument]:
    """Return the documents of a sealed collection."""
    rows = connection.execute("SELECT * FROM sealed_documents WHERE collection = ? ORDER BY document", (collection,))
    return [SealedDocument(row["number"], row["num_blocks"], row["document"]) for row in rows]


def count_passages(connection: sqlite3.Connection, collection: int) -> dict[int, int]:
    """Return how many passages each document of a sealed collection has."""
    rows = connection.execute(
        "SELECT d.id, d.num_passages FROM sealed_documents s JOIN documents d ON d.id = s.document "
        "WHERE s.collection = ?",
        (collection,),
    )
    return {int(row["id"]): int(row["num_passages"]) for row in rows}


def find_documents(connection: sqlite3.Connection, documents: Sequence[int]) -> list[SealedDocument]:
    """Return those of `documents` whose contents are sealed."""
    found = []
    for document in documents:
        row = connection.execute("SELECT * FROM sealed_documents WHERE document = ?", (document,)).fetchone()
        if row is not None:
            found.append(SealedDocument(row["number"], row["num_blocks"], row["document"]))
    return found


def _to_row(row: sqlite3.Row) -> SealedRow:
    return SealedRow(
        row["collection"],
        row["tenant"],
        row["prefix"],
        row["mode"],
        Anchor(row["sequence"], row["digest"]),
        bool(row["is_deleted"]),
    )
