"""Opened keys of many tenants, each forgotten after a few minutes, so that a key that was revoked stops working.

Until then it does not matter whether the key provider answers; afterwards nothing opens before it says yes again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from holdfast.privacy.keys import KeyProvider, KeyRecord, TenantKeys, make_tenant, open_tenant

LIFETIME_S = 300.0


class KeyRecords(Protocol):
    """Where the caller keeps key records, on the trusted side, durably."""

    def load(self, tenant_id: str) -> KeyRecord | None:
        """Return the record of a tenant, or None where there is none yet."""

    def replace(self, revision: int, record: KeyRecord) -> None:
        """Store `record` in place of the one that has `revision`, or of none where that is 0.

        Durable before it returns. Raises Conflict when another was stored meanwhile.
        """


class Keyring:
    """Opens tenants' keys when they are needed. Safe to share between threads.

    Args:
        records: where the wrapped keys are.
        providers: returns the key providers of a tenant, whose own they may be; the last wraps.
        clock: seconds that never run backwards.
        lifetime_s: how long a tenant's keys stay open.
    """

    def __init__(
        self,
        records: KeyRecords,
        providers: Callable[[str], Sequence[KeyProvider]],
        clock: Callable[[], float],
        lifetime_s: float = LIFETIME_S,
    ) -> None:
        self._records = records
        self._providers = providers
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._open: dict[str, tuple[float, TenantKeys]] = {}
        self._locks: dict[str, threading.RLock] = {}

    def tenant(self, tenant_id: str) -> TenantKeys:
        """Return the keys of a tenant as last stored, making them when there are none.

        Raises: KeyUnavailable or DecryptionError, as `open_tenant`.
        """
        with self._lock(tenant_id):
            now = self._clock()
            for other, (until, _) in list(self._open.items()):
                if until <= now:
                    self._open.pop(other, None)
            expires_at, opened = self._open.get(tenant_id, (now + self._lifetime_s, None))
            record = self._records.load(tenant_id)
            if record is None:
                keys = make_tenant(tenant_id, self._providers(tenant_id))
                self._records.replace(0, keys.record)
            elif opened is not None and opened.record.roots == record.roots:
                keys = TenantKeys(record, opened.roots)
            else:
                keys = open_tenant(record, self._providers(tenant_id))
            self._open[tenant_id] = expires_at, keys
            return keys

    def change(self, tenant_id: str, step: Callable[[TenantKeys], TenantKeys]) -> TenantKeys:
        """Return the keys after one step, such as those of `key_rotation`; they are stored when anything changed.

        Raises: Conflict when another process stored a record meanwhile: try again.
        """
        with self._lock(tenant_id):
            before = self.tenant(tenant_id)
            after = step(before)
            if after.record.revision != before.record.revision:
                self._records.replace(before.record.revision, after.record)
            return after

    def forget(self, tenant_id: str) -> None:
        """Forget a tenant's opened keys now rather than in a few minutes."""
        with self._lock(tenant_id):
            self._open.pop(tenant_id, None)

    def _lock(self, tenant_id: str) -> threading.RLock:
        """Each tenant's own, so that a slow key provider holds up its own tenants only."""
        return self._locks.setdefault(tenant_id, threading.RLock())
