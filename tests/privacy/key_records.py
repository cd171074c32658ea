"""Key records in a file, stored as the caller of `key_rotation` has to: as a whole, durably, by compare-and-swap."""

from __future__ import annotations

import json
import os
from pathlib import Path

from holdfast.errors import Conflict
from holdfast.privacy.keys import KeyRecord


class FileKeyRecords:
    """One file a tenant. Good enough for one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, tenant_id: str) -> KeyRecord | None:
        path = self._folder / tenant_id
        return KeyRecord.from_dict(json.loads(path.read_text())) if path.exists() else None

    def replace(self, revision: int, record: KeyRecord) -> None:
        stored = self.load(record.tenant_id)
        if revision != (stored.revision if stored else 0):
            raise Conflict(f"revision {revision} is not what is stored")
        temporary = self._folder / f"{record.tenant_id}.new"
        with temporary.open("w") as file:
            json.dump(record.to_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / record.tenant_id)
