"""The file of a saved index: one header, then arrays on 64-byte boundaries, every byte under a checksum.

    0    magic "HOLDFAST", format version and header length (uint32), 16 zero bytes, BLAKE2b-256 of what precedes and
         of the header
    64   header: JSON padded with blanks, saying where each section lies
    ...  sections, padded with zeros to 64 bytes
    ...  checksums: BLAKE2b-128 of each 64 KiB of each section, in order; the header holds the digest of this table

All numbers are little-endian. Opening reads the header and the table; a section's chunks are checked when first used.
A file is written beside its final name, made durable, and renamed, so that a name always holds a whole file.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import struct
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, NotFound, StorageError

MAGIC = b"HOLDFAST"
VERSION = 2
ALIGNMENT = 64
CHUNK_SIZE = 65536
DIGEST_SIZE = 16
_PREFIX = struct.Struct("<8sII16x32s")
_SIGNED_SIZE = 32  # bytes of the prefix that its digest covers


class StoredArray:
    """An array, from a file whose chunks are checked when first touched, or from memory, where there is no file."""

    def __init__(
        self, array: NDArray[Any], *, data: NDArray[np.uint8] | None = None, checksums: bytes = b"", name: str = ""
    ) -> None:
        self._array = array
        self._data = data
        self._checksums = checksums
        self._is_checked = np.zeros(len(checksums) // DIGEST_SIZE, dtype=np.bool_)
        self._name = name

    @property
    def is_on_disk(self) -> bool:
        """True when the array is a view of a saved index."""
        return self._data is not None

    @property
    def num_rows(self) -> int:
        """Length of the first axis."""
        return len(self._array)

    def whole(self) -> NDArray[Any]:
        """Return the array, every chunk of it checked."""
        self._check(np.arange(len(self._is_checked)))
        return self._array

    def verify(self) -> None:
        """Check every chunk, also those that were checked before."""
        self._is_checked[:] = False
        self.whole()

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return `array[rows]`; only the chunks that hold them are checked."""
        return self.checked(rows)[rows]

    def checked(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the array, the chunks that hold `rows` checked."""
        if len(self._is_checked) and not self._is_checked.all():
            row_bytes = self._array.dtype.itemsize * int(np.prod(self._array.shape[1:], dtype=np.int64))
            first, last = rows * row_bytes // CHUNK_SIZE, (rows * row_bytes + row_bytes - 1) // CHUNK_SIZE
            spans = [np.minimum(first + step, last) for step in range(row_bytes // CHUNK_SIZE + 2)]
            self._check(np.unique(np.concatenate(spans)))
        return self._array

    def _check(self, chunks: NDArray[np.int64]) -> None:
        for chunk in chunks[~self._is_checked[chunks]]:
            assert self._data is not None
            start = int(chunk) * CHUNK_SIZE
            digest = blake2b(self._data[start : start + CHUNK_SIZE].data, digest_size=DIGEST_SIZE).digest()
            if digest != self._checksums[chunk * DIGEST_SIZE : (chunk + 1) * DIGEST_SIZE]:
                raise IntegrityError(f"{self._name}: bytes from {start} on are not the bytes that were written")
            self._is_checked[chunk] = True


@dataclass(frozen=True, slots=True)
class NewSection:
    """An array to be written, given in parts; every part but the last is a whole number of chunks."""

    name: str
    dtype: str
    """NumPy's name with byte order, as in `<u8`"""
    shape: tuple[int, ...]
    parts: Iterable[NDArray[Any]]

    @property
    def size(self) -> int:
        """bytes in the file, padding included"""
        return _aligned(np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64)))


def write_index_file(path: Path, about: dict[str, Any], sections: Sequence[NewSection]) -> None:
    """Write the sections, and `about` into the header, to `path` atomically and durably.

    Raises:
        StorageError: the disk is full or refuses; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                _write_body(file, about, sections)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def render_index(about: dict[str, Any], sections: Sequence[NewSection]) -> bytes:
    """Return what `write_index_file` would write."""
    file = io.BytesIO()
    _write_body(file, about, sections)
    return file.getvalue()


def _write_body(file: BinaryIO, about: dict[str, Any], sections: Sequence[NewSection]) -> None:
    file.write(bytes(len(_render_header(about, sections, bytes(DIGEST_SIZE)))))
    table = bytearray()
    for section in sections:
        written = 0
        for part in section.parts:
            data = np.ascontiguousarray(part, dtype=section.dtype).tobytes()
            written += len(data)
            if section.size - written < ALIGNMENT:  # the last part
                data += bytes(section.size - written)
            file.write(data)
            for start in range(0, len(data), CHUNK_SIZE):
                table += blake2b(data[start : start + CHUNK_SIZE], digest_size=DIGEST_SIZE).digest()
    file.write(table)
    file.seek(0)
    file.write(_render_header(about, sections, blake2b(table, digest_size=DIGEST_SIZE).digest()))


def _render_header(about: dict[str, Any], sections: Sequence[NewSection], table_digest: bytes) -> bytes:
    """Return prefix and header; their length does not depend on the digest."""
    described = [
        {"name": section.name, "dtype": section.dtype, "shape": section.shape, "size": section.size}
        for section in sections
    ]
    header = {"about": about, "sections": described, "table_digest": table_digest.hex()}
    text = json.dumps(header, sort_keys=True).encode()
    text = text.ljust(_aligned(_PREFIX.size + len(text)) - _PREFIX.size)
    return _sign(text) + text


def _sign(text: bytes) -> bytes:
    unsigned = _PREFIX.pack(MAGIC, VERSION, len(text), b"")[:_SIGNED_SIZE]
    return unsigned + blake2b(unsigned + text, digest_size=32).digest()


def map_file(path: Path) -> memoryview:
    """Memory-map a file for reading. It stays readable after another is renamed over it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise NotFound(f"no index at {path}", param="path") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def read_index_file(data: memoryview | bytes, name: str) -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """Return what the header says of the index, and its sections by name.

    Args:
        data: the whole file.
        name: what errors call it.

    Raises:
        IntegrityError: not an index file, of another version, cut short, or its header or table is damaged.
    """
    whole = np.frombuffer(data, dtype=np.uint8)
    if len(whole) < _PREFIX.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise IntegrityError(f"{name} is not an index file, or its header is damaged")
    _, version, header_size, _ = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise IntegrityError(f"{name}: header says format version {version}, and this release reads {VERSION}")
    text = bytes(data[_PREFIX.size : _PREFIX.size + header_size])
    if len(text) != header_size or _sign(text) != bytes(data[: _PREFIX.size]):
        raise IntegrityError(f"{name}: the header is not what was written")
    header = json.loads(text)
    body = whole[_PREFIX.size + header_size :]
    sizes = [section["size"] for section in header["sections"]]
    num_chunks = [-(-size // CHUNK_SIZE) for size in sizes]
    expected = sum(sizes) + sum(num_chunks) * DIGEST_SIZE
    if len(body) != expected:
        raise IntegrityError(f"{name}: sections must take {expected} bytes, but there are {len(body)}")
    table = body[sum(sizes) :].tobytes()
    if blake2b(table, digest_size=DIGEST_SIZE).hexdigest() != header["table_digest"]:
        raise IntegrityError(f"{name}: the table of checksums is not what was written")
    arrays: dict[str, StoredArray] = {}
    for section, size, count in zip(header["sections"], sizes, num_chunks, strict=True):
        part, body = body[:size], body[size:]
        digests, table = table[: count * DIGEST_SIZE], table[count * DIGEST_SIZE :]
        num_items = int(np.prod(section["shape"], dtype=np.int64))
        array = part[: num_items * np.dtype(section["dtype"]).itemsize].view(section["dtype"])
        arrays[section["name"]] = StoredArray(
            array.reshape(section["shape"]), data=part, checksums=digests, name=f"{name}: section {section['name']}"
        )
    return header["about"], arrays


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
