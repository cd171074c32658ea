"""Documents' KV on disk: one safetensors file each, in a folder for each file it was computed for.

A file is read by mapping it, so that loading costs no copy and its pages are shared and can be reclaimed; its checksum,
which covers name, shape and data, is verified first. What is damaged, cut short, or not what its name says is deleted
and reported as missing: the cache computes it again, so nothing here can make an answer wrong. Files appear under their
name by an atomic rename, so a process killed while writing leaves a temporary file at most, which the next start
removes. With `seal` (for collections whose contents must not lie readable on disk) files are encrypted, and read
instead of mapped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

ALIGNMENT = 64
"""bytes; the data begin at a multiple, as they do in memory, so that a kernel computes the same bits from both"""
SUFFIX = ".safetensors"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Seal:
    """How bytes are kept from whoever reads the disk; `unseal` raises ValueError for what it did not seal."""

    seal: Callable[[bytes], bytes]
    unseal: Callable[[bytes], bytes]


class DocumentFiles:
    """The disk tier. Not thread-safe: the cache calls it under its lock, and one process owns the folder.

    Args:
        folder: made where it is missing; for its owner alone.
        budget_bytes: the least recently used files go when it is exceeded.
        seal: encrypts every file, or None.
    """

    def __init__(self, folder: Path, budget_bytes: int, seal: Seal | None = None) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self.num_bytes = 0
        self.num_evictions = 0
        self.num_failed_writes = 0
        self._seal = seal
        self._sizes: OrderedDict[str, tuple[Path, int]] = OrderedDict()
        """key to path and bytes, least recently used first"""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._scan()

    def has(self, key: str) -> bool:
        return key in self._sizes

    def read(self, key: str) -> torch.Tensor | None:
        """Return the tensor under `key`; None, and the file is deleted, where it is not what was written."""
        path, _ = self._sizes[key]
        try:
            tensor = _from_bytes(key, self._load(path))
            os.utime(path)
        except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            log.warning("a file of the document cache is damaged (%s) and is made again", type(error).__name__)
            self._delete(key)
            return None
        self._sizes.move_to_end(key)
        return tensor

    def write(self, key: str, file_id: str, tensor: torch.Tensor) -> None:
        """Store a tensor; a disk that refuses is counted, and the answer goes on without."""
        folder = self._folder_of(file_id)
        path, unfinished = folder / (key + SUFFIX), folder / (key + ".tmp")
        content = _to_bytes(key, tensor)
        if self._seal is not None:
            content = self._seal.seal(content)
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            unfinished.replace(path)
        except OSError as error:
            self.num_failed_writes += 1
            log.warning("the document cache cannot write: %s", error.strerror)
            unfinished.unlink(missing_ok=True)
            return
        self._add(key, path, len(content))
        while self.num_bytes > self.budget_bytes:
            self._delete(next(iter(self._sizes)))
            self.num_evictions += 1

    def forget(self, file_id: str) -> None:
        """Delete all that was written for a file."""
        self._forget_folder(self._folder_of(file_id))

    def keep_only(self, file_ids: Collection[str]) -> None:
        """Delete all that was written for other files than these."""
        kept = {self._folder_of(file_id) for file_id in file_ids}
        for folder in [folder for folder in self.folder.iterdir() if folder not in kept]:
            self._forget_folder(folder)

    def _folder_of(self, file_id: str) -> Path:
        return self.folder / hashlib.sha256(file_id.encode()).hexdigest()[:32]

    def _forget_folder(self, folder: Path) -> None:
        for key in [key for key, (path, _) in self._sizes.items() if path.parent == folder]:
            self._delete(key)
        shutil.rmtree(folder, ignore_errors=True)

    def _scan(self) -> None:
        """Take stock of what earlier processes left."""
        found = []
        for path in self.folder.glob("*/*"):
            if path.suffix == SUFFIX:
                status = path.stat()
                found.append((status.st_mtime_ns, path.stem, path, status.st_size))
            else:
                path.unlink()
        for _, key, path, size in sorted(found):
            self._add(key, path, size)

    def _add(self, key: str, path: Path, size: int) -> None:
        self.num_bytes += size - self._sizes.pop(key, (path, 0))[1]
        self._sizes[key] = path, size

    def _delete(self, key: str) -> None:
        path, size = self._sizes.pop(key)
        self.num_bytes -= size
        path.unlink(missing_ok=True)

    def _load(self, path: Path) -> bytes | mmap.mmap:
        with path.open("rb") as file:
            if self._seal is not None:
                return self._seal.unseal(file.read())
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _to_bytes(key: str, tensor: torch.Tensor) -> bytes:
    import torch  # heavy: loaded with the first model, not on import

    dtype = next(name for name, value in DTYPES.items() if value == str(tensor.dtype).removeprefix("torch."))
    data = tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()
    checksum = _checksum(key, dtype, list(tensor.shape), data)
    header = {
        "__metadata__": {"key": key, "sha256": checksum},
        "kv": {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [0, len(data)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + data


def _from_bytes(key: str, content: bytes | mmap.mmap) -> torch.Tensor:
    """Return the tensor; raise ValueError or KeyError for anything but what `_to_bytes` made for this key."""
    import torch

    view = memoryview(content)
    header_len = int.from_bytes(view[:8], "little")
    if header_len > len(view) - 8:
        raise ValueError("cut short")
    header: dict[str, Any] = json.loads(bytes(view[8 : 8 + header_len]))
    dtype, shape = header["kv"]["dtype"], header["kv"]["shape"]
    data = view[8 + header_len :]
    if header["__metadata__"]["key"] != key or header["__metadata__"]["sha256"] != _checksum(key, dtype, shape, data):
        raise ValueError("not what was written")
    buffer = content if isinstance(content, mmap.mmap) else bytearray(content)
    start = 8 + header_len
    return torch.frombuffer(buffer, dtype=getattr(torch, DTYPES[dtype]), offset=start).reshape(shape)


def _checksum(key: str, dtype: str, shape: list[int], data: bytes | memoryview) -> str:
    digest = hashlib.sha256(json.dumps([key, dtype, shape]).encode())
    digest.update(data)
    return digest.hexdigest()
