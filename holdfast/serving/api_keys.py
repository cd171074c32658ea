"""API keys: who may call, and for which tenant.

A key is `holdfast_<key id>_<secret>` with a 256-bit random secret. Only its SHA-256 is stored (a random secret needs no
slow hash), and it is compared in constant time. The keys have a small database of their own beside the main one, so
that `holdfast api-key` works while a server holds the data directory; the server reads it on every request. Revoked
keys stay listed: revoking the last one must not open the server.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import InvalidInput, NotFound, Unauthenticated

DEFAULT_TENANT = "default"
Rows = list[tuple[Any, ...]]
FILENAME = "api-keys.sqlite"
TENANT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_PATTERN = re.compile(r"holdfast_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is listed; the secret is not kept."""

    id: str
    """16 hex digits"""
    tenant: str
    name: str
    created_at: int
    """Unix seconds"""
    revoked_at: int | None


class ApiKeys:
    """The keys of one data directory. Any number of processes may use it at once; safe to call from any thread."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = data_dir / FILENAME
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS api_keys (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL,"
            " sha256 BLOB NOT NULL, created_at INTEGER NOT NULL, revoked_at INTEGER) STRICT"
        )

    def create(self, tenant: str = DEFAULT_TENANT, name: str = "") -> tuple[ApiKey, str]:
        """Make a key; return it with its full text, which is shown once and never again."""
        if not TENANT_PATTERN.fullmatch(tenant):
            raise InvalidInput(
                f"tenant {tenant!r} must be 1 to 64 letters, digits, dots, dashes or underscores", param="tenant"
            )
        key = ApiKey(secrets.token_hex(8), tenant, name, int(time.time()), None)
        text = f"holdfast_{key.id}_{secrets.token_urlsafe(32)}"
        self._execute(
            "INSERT INTO api_keys (id, tenant, name, sha256, created_at) VALUES (?, ?, ?, ?, ?)",
            (key.id, key.tenant, key.name, _sha256(text), key.created_at),
        )
        return key, text

    def list(self) -> list[ApiKey]:
        """Return all keys, revoked ones too, oldest first."""
        rows = self._execute("SELECT id, tenant, name, created_at, revoked_at FROM api_keys ORDER BY created_at, id")
        return [ApiKey(*row) for row in rows]

    def revoke(self, key_id: str) -> ApiKey:
        """Refuse the key from now on; revoking twice changes nothing."""
        now = int(time.time())
        self._execute("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?", (now, key_id))
        for key in self.list():
            if key.id == key_id:
                return key
        raise NotFound(f"no API key with id {key_id!r}", param="key_id")

    def is_open(self) -> bool:
        """True while no key was ever made: then everyone is let in, as the default tenant."""
        return not self._execute("SELECT 1 FROM api_keys LIMIT 1")

    def tenant_of(self, authorization: str | None) -> str:
        """Return the tenant of an `Authorization` header.

        Raises:
            Unauthenticated: keys are in use, and this header holds none, an unknown or a revoked one.
        """
        if self.is_open():
            return DEFAULT_TENANT
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthenticated("You didn't provide an API key: send it as 'Authorization: Bearer KEY'.")
        match = KEY_PATTERN.fullmatch(text.strip())
        rows = self._execute(
            "SELECT tenant, sha256, revoked_at FROM api_keys WHERE id = ?", (match.group(1) if match else "",)
        )
        tenant, digest, revoked_at = rows[0] if rows else ("", bytes(32), None)
        is_known = hmac.compare_digest(digest, _sha256(text.strip()))
        if not is_known or revoked_at is not None:
            raise Unauthenticated("Incorrect API key provided.")
        return str(tenant)

    def close(self) -> None:
        self._connection.close()

    def _execute(self, sql: str, arguments: tuple[object, ...] = ()) -> Rows:
        with self._lock:
            return self._connection.execute(sql, arguments).fetchall()


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
