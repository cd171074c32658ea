"""Stored responses: kept for 30 days, readable by their tenant only, and the links of conversations.

A response keeps its own input and output; a follow-up (`previous_response_id`) refers to it rather than copying it, so
that deleting a response deletes its text everywhere, and ends the conversations that went through it. Blocking; call
from a worker thread.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from typing import Any

from holdfast.errors import InvalidInput, KeyUnavailable, NotFound
from holdfast.privacy.keyring import Keyring
from holdfast.privacy.keys import TenantKeys
from holdfast.privacy.seal import Kind, Place, Sealer, sealed_epoch
from holdfast.serving.database import Cursor, Database, Page, fetch_page

COLLECTION = "responses"
RETENTION_S = 30 * 24 * 3600

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    previous_id TEXT,
    expires_at INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS responses_by_expiry ON responses (expires_at);
CREATE TABLE IF NOT EXISTS response_input_items (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    response INTEGER NOT NULL REFERENCES responses (position) ON DELETE CASCADE,
    id TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS input_items_by_response ON response_input_items (response);
"""


class ResponseStore:
    """The responses of all tenants in one database."""

    def __init__(self, database: Database, keyring: Keyring | None = None) -> None:
        """With a `keyring`, what is kept from now on is sealed: answers quote sealed files."""
        self.database = database
        self._keyring = keyring
        with database.write() as connection:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)

    def save(self, tenant: str, response: dict[str, Any], input_items: list[dict[str, Any]]) -> None:
        """Keep a response, as it was sent, with the items that this request added.

        Raises:
            StorageError: the disk is full; nothing was kept.
        """
        expires_at = self.database.now() + RETENTION_S
        body = self._close(tenant, response["id"], response)
        items = [(item["id"], self._close(tenant, item["id"], item)) for item in input_items]
        with self.database.write() as connection:
            position = connection.execute(
                "INSERT INTO responses (id, tenant, previous_id, expires_at, body) VALUES (?, ?, ?, ?, ?)",
                (response["id"], tenant, response["previous_response_id"], expires_at, body),
            ).lastrowid
            connection.executemany(
                "INSERT INTO response_input_items (response, id, body) VALUES (?, ?, ?)",
                [(position, *item) for item in items],
            )

    def get(self, tenant: str, response_id: str) -> dict[str, Any]:
        """Return a response as it was sent. Raises NotFound."""
        return self._open(tenant, response_id, self._row(tenant, response_id)["body"])

    def delete(self, tenant: str, response_id: str) -> None:
        """Remove a response and its input from the database and its log. Raises NotFound."""
        with self.database.write() as connection:
            row = self._row(tenant, response_id)
            connection.execute("DELETE FROM responses WHERE position = ?", (row["position"],))
        self.database.purge()

    def delete_expired(self) -> None:
        """Remove what is older than the retention, of all tenants."""
        is_expired = "FROM responses WHERE expires_at <= ?"
        now = self.database.now()
        if self.database.read().execute(f"SELECT 1 {is_expired} LIMIT 1", (now,)).fetchone() is None:
            return
        with self.database.write() as connection:
            connection.execute(f"DELETE {is_expired}", (now,))
        self.database.purge()

    def input_items(self, tenant: str, response_id: str, cursor: Cursor) -> Page[dict[str, Any]]:
        """Return one page of the items that the request of this response added. Raises NotFound."""
        row = self._row(tenant, response_id)
        select = "SELECT position, id, body FROM response_input_items WHERE response = ?"
        page = fetch_page(self.database.read(), select, (row["position"],), cursor)
        return Page([self._open(tenant, item["id"], item["body"]) for item in page.items], page.has_more)

    def conversation(self, tenant: str, response_id: str) -> list[dict[str, Any]]:
        """Return all items up to and including this response's output, oldest first; instructions are not among them.

        Raises:
            InvalidInput: this response, or one that it follows, is not stored (any more).
        """
        turns: list[list[dict[str, Any]]] = []
        next_id: str | None = response_id
        while next_id is not None:
            try:
                row = self._row(tenant, next_id)
            except NotFound:
                raise InvalidInput(
                    f"Previous response with id '{next_id}' not found.",
                    code="previous_response_not_found",
                    param="previous_response_id",
                ) from None
            output = self._open(tenant, next_id, row["body"])["output"]
            turns.append(self._items(tenant, row["position"]) + output)
            next_id = row["previous_id"]
        return [item for turn in reversed(turns) for item in turn]

    def _items(self, tenant: str, position: int) -> list[dict[str, Any]]:
        rows = self.database.read().execute(
            "SELECT id, body FROM response_input_items WHERE response = ? ORDER BY position", (position,)
        )
        return [self._open(tenant, row["id"], row["body"]) for row in rows.fetchall()]

    def _close(self, tenant: str, own_id: str, body: dict[str, Any]) -> str:
        """Return what is stored: JSON, or base64 of it sealed."""
        text = json.dumps(body)
        if self._keyring is None:
            return text
        keys = self._keyring.change(tenant, _with_responses).epoch(COLLECTION)
        return base64.b64encode(Sealer(keys).seal(text.encode(), Place(Kind.RESPONSE, own_id.encode()))).decode()

    def _open(self, tenant: str, own_id: str, stored: str) -> dict[str, Any]:
        if not stored.startswith("{"):
            if self._keyring is None:
                raise KeyUnavailable("this response is sealed: set the key that the server had when it was given")
            sealed = base64.b64decode(stored)
            keys = self._keyring.tenant(tenant).epoch(COLLECTION, sealed_epoch(sealed))
            stored = Sealer(keys).open(sealed, Place(Kind.RESPONSE, own_id.encode())).decode()
        body: dict[str, Any] = json.loads(stored)
        return body

    def _row(self, tenant: str, response_id: str) -> sqlite3.Row:
        row: sqlite3.Row | None = (
            self.database.read()
            .execute(
                "SELECT position, previous_id, body FROM responses WHERE id = ? AND tenant = ? AND expires_at > ?",
                (response_id, tenant, self.database.now()),
            )
            .fetchone()
        )
        if row is None:
            raise NotFound(f"Response with id '{response_id}' not found.", param="response_id")
        return row


def _with_responses(keys: TenantKeys) -> TenantKeys:
    return keys if keys.record.epochs(COLLECTION) else keys.with_collection(COLLECTION)
