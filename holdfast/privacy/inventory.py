"""What the store must hold: for each row of each cell its version, size and digest, and the roots that stand for them.

A row is any object under an opaque id of 16 bytes; a cell is what is fetched or ranked together. The root of a cell is
the Merkle tree hash of its rows in the order of their ids; the manifest signs the roots (`manifest.py`), so that an
inventory read back from the store is as good as one that was kept. What the store then returns is checked against it,
and what is wrong gets its name (`TAMPER_CODES`):

    cell.check(row_id, blob)        one row, as in the results of a search
    cell.check_all(rows)            a whole cell: nothing missing, nothing extra, nothing twice

Noticing needs the cell alone; to name a row of another cell, the others have to be given.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256

from holdfast.errors import DecryptionError, IntegrityError, InvalidInput, TamperError
from holdfast.privacy.merkle import DIGEST_SIZE, leaf_hash, merkle_root
from holdfast.privacy.seal import sealed_epoch
from holdfast.privacy.tokens import ID_SIZE

RETIRED_SIZE = 16
"""bytes kept of the digest of what was replaced or deleted: enough to recognise it"""
_ENTRY = struct.Struct(f">QQ{DIGEST_SIZE}s")
_COUNTS = struct.Struct(">QQ")


class Cell:
    """Inventory of one cell, whose rows are all of one epoch.

    It remembers the digests of what was replaced or deleted, so that old bytes are known for what they are.
    """

    def __init__(self, epoch: int, rows: Mapping[bytes, bytes] | None = None, retired: Iterable[bytes] = ()) -> None:
        self.epoch = epoch
        self._rows = dict(rows or {})
        self._retired = set(retired)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row_id: bytes) -> bool:
        return row_id in self._rows

    @property
    def row_ids(self) -> list[bytes]:
        """All ids, ascending."""
        return sorted(self._rows)

    def version(self, row_id: bytes) -> int:
        """Return the version of a row that the cell has."""
        return int(_ENTRY.unpack(self._rows[row_id])[0])

    def put(self, row_id: bytes, version: int, blob: bytes) -> None:
        """Enter a row, or replace it."""
        if len(row_id) != ID_SIZE:
            raise InvalidInput(f"row ids are {ID_SIZE} bytes, not {len(row_id)}", param="row_id")
        self._retire(row_id)
        digest = sha256(blob).digest()
        self._retired.discard(digest[:RETIRED_SIZE])
        self._rows[row_id] = _ENTRY.pack(version, len(blob), digest)

    def remove(self, row_id: bytes) -> None:
        """Take a row out, so that the store may no longer return it."""
        self._retire(row_id)
        self._rows.pop(row_id, None)

    def root(self) -> bytes:
        """Return the Merkle root. Cost: two SHA-256 a row."""
        return merkle_root(leaf_hash(row_id + self._rows[row_id]) for row_id in sorted(self._rows))

    def check(self, row_id: bytes, blob: bytes, others: Collection[Cell] = ()) -> None:
        """Raise TamperError unless `blob` is what was written last as `row_id`. Cost: one SHA-256 of the blob."""
        entry = self._rows.get(row_id)
        digest = sha256(blob).digest()
        if entry is not None and entry[-DIGEST_SIZE:] == digest:
            return
        what = f"row {row_id.hex()}"
        if digest[:RETIRED_SIZE] in self._retired or _epoch_of(blob, self.epoch) < self.epoch:
            raise TamperError(f"{what} was replaced or deleted, and the store returns the old bytes", code="replayed")
        if entry is None:
            raise TamperError(f"the store returns {what}, which the manifest does not list", code="unlisted")
        if any(cell._holds(digest) for cell in (self, *others)):
            raise TamperError(f"the store returns the bytes of another row as {what}", code="swapped")
        size = int(_ENTRY.unpack(entry)[1])
        if len(blob) < size:
            raise TamperError(f"{what} has {len(blob)} of {size} bytes", code="truncated")
        raise TamperError(f"{what} is not what was written", code="altered")

    def check_all(self, rows: Iterable[tuple[bytes, bytes]], others: Collection[Cell] = ()) -> None:
        """Raise TamperError unless the ids and blobs are exactly those of the cell, in any order."""
        seen = set()
        for row_id, blob in rows:
            self.check(row_id, blob, others)
            if row_id in seen:
                raise TamperError(f"the store returns row {row_id.hex()} twice", code="repeated")
            seen.add(row_id)
        missing = self._rows.keys() - seen
        if missing:
            message = f"{len(missing)} of {len(self._rows)} rows are missing, row {min(missing).hex()} among them"
            raise TamperError(message, code="omitted")

    def to_bytes(self) -> bytes:
        """Return the inventory as bytes, the same for equal inventories; they are sealed before they are stored."""
        rows = b"".join(row_id + self._rows[row_id] for row_id in sorted(self._rows))
        return _COUNTS.pack(len(self._rows), len(self._retired)) + rows + b"".join(sorted(self._retired))

    @classmethod
    def from_bytes(cls, epoch: int, data: bytes) -> Cell:
        """Return the inventory that `to_bytes` was called on. Raises IntegrityError for other bytes."""
        row_size = ID_SIZE + _ENTRY.size
        num_rows, num_retired = _COUNTS.unpack_from(data) if len(data) >= _COUNTS.size else (0, 0)
        end = _COUNTS.size + num_rows * row_size
        if len(data) != end + num_retired * RETIRED_SIZE:
            raise IntegrityError("the inventory of a cell is damaged")
        rows = (data[start : start + row_size] for start in range(_COUNTS.size, end, row_size))
        retired = (data[start : start + RETIRED_SIZE] for start in range(end, len(data), RETIRED_SIZE))
        return cls(epoch, {row[:ID_SIZE]: row[ID_SIZE:] for row in rows}, retired)

    def _holds(self, digest: bytes) -> bool:
        return any(entry[-DIGEST_SIZE:] == digest for entry in self._rows.values())

    def _retire(self, row_id: bytes) -> None:
        if row_id in self._rows:
            self._retired.add(self._rows[row_id][-DIGEST_SIZE:][:RETIRED_SIZE])


def _epoch_of(blob: bytes, default: int) -> int:
    try:
        return sealed_epoch(blob)
    except DecryptionError:
        return default
