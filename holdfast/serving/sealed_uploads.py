"""Uploaded bytes sealed as they arrive, so that they never touch the disk in clear.

    magic "HFU1" | random id (16) | for each part: length (uint32), sealed part

A part is a mebibyte of the file, sealed under the tenant's keys of the collection `uploads` as its number; only the
last says how many there are, so that nothing can be cut off, swapped or added. Files are known by a keyed digest: the
plain one would tell whoever has a file that it is here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import DecryptionError
from holdfast.privacy.keyring import Keyring
from holdfast.privacy.keys import EpochKeys, TenantKeys
from holdfast.privacy.seal import Kind, Place, Sealer, sealed_epoch

COLLECTION = "uploads"
MAGIC = b"HFU1"
PART_SIZE = 2**20
MAX_SEALED_SIZE = 2 * PART_SIZE
_LENGTH = struct.Struct(">I")


class SealedWriter:
    """Takes the bytes of one file and writes them sealed. `close` it, then it knows `num_bytes` and `digest`."""

    def __init__(self, path: Path, keys: EpochKeys) -> None:
        self._sealer = Sealer(keys)
        self._digest_key = keys.tokens("content")
        self._id = secrets.token_bytes(16)
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self._num_parts = 0
        self._file: BinaryIO = path.open("wb")
        self._file.write(MAGIC + self._id)
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        """Take more bytes."""
        self._hash.update(data)
        self.num_bytes += len(data)
        self._waiting += data
        while len(self._waiting) > PART_SIZE:
            self._write_part(is_last=False)

    def close(self) -> None:
        """Write what is left, and the end."""
        if not self._file.closed:
            self._write_part(is_last=True)
            self._file.close()

    def digest(self) -> str:
        """Return the keyed digest of all bytes, in hex."""
        return hmac.digest(self._digest_key.reveal(), self._hash.digest(), "sha256").hex()

    def _write_part(self, *, is_last: bool) -> None:
        part = bytes(self._waiting[:PART_SIZE])
        del self._waiting[:PART_SIZE]
        num_parts = self._num_parts + 1 if is_last else 0
        sealed = self._sealer.seal(part, Place(Kind.UPLOAD, self._id, 0, self._num_parts, num_parts))
        self._num_parts += 1
        self._file.write(_LENGTH.pack(len(sealed)) + sealed)


def read_sealed(path: Path, keys_of: Callable[[int], EpochKeys]) -> Iterator[bytes]:
    """Yield the bytes that a `SealedWriter` was given.

    Args:
        path: what it wrote.
        keys_of: returns the keys of an epoch of `uploads`.

    Raises:
        DecryptionError: a part was altered, or the end is missing.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise DecryptionError
        upload_id = file.read(16)
        part, sealer = 0, None
        while True:
            head = file.read(_LENGTH.size)
            [length] = _LENGTH.unpack(head) if len(head) == _LENGTH.size else [MAX_SEALED_SIZE + 1]
            if length > MAX_SEALED_SIZE:
                raise DecryptionError
            sealed = file.read(length)
            sealer = sealer or Sealer(keys_of(sealed_epoch(sealed)))
            has_more = bool(file.peek(1))
            yield sealer.open(sealed, Place(Kind.UPLOAD, upload_id, 0, part, 0 if has_more else part + 1))
            part += 1
            if not has_more:
                return


def _with_uploads(keys: TenantKeys) -> TenantKeys:
    return keys if keys.record.epochs(COLLECTION) else keys.with_collection(COLLECTION)


class UploadSealer:
    """Seals the uploads of all tenants."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def open_writer(self, tenant: str, path: Path) -> SealedWriter:
        """Return what a file of `tenant` is written to `path` with."""
        return SealedWriter(path, self._keyring.change(tenant, _with_uploads).epoch(COLLECTION))

    def read(self, tenant: str, path: Path) -> Iterator[bytes]:
        """Yield the bytes of a file of `tenant`."""
        keys = self._keyring.tenant(tenant)
        return read_sealed(path, lambda epoch: keys.epoch(COLLECTION, epoch))

    def seal_file(self, tenant: str, path: Path) -> SealedWriter:
        """Replace a file by its sealed form; return the writer, closed."""
        sealed = path.with_name(f"{path.name}.sealed")
        writer = self.open_writer(tenant, sealed)
        try:
            with path.open("rb") as file:
                while data := file.read(PART_SIZE):
                    writer.write(data)
            writer.close()
            sealed.replace(path)
        finally:
            sealed.unlink(missing_ok=True)
        return writer

    def digest(self, tenant: str, sha256: bytes) -> str:
        """Return the keyed digest, in hex, of bytes with this SHA-256."""
        keys = self._keyring.change(tenant, _with_uploads).epoch(COLLECTION)
        return hmac.digest(keys.tokens("content").reveal(), sha256, "sha256").hex()
