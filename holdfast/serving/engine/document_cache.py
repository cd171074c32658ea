"""Keys and values of documents, computed once and shared by every request that reads them.

A document is encoded alone, behind one prefix and at positions that do not depend on its neighbours, so its keys and
values are a function of the model, the prefix and its own tokens. `CacheKeys` names them by exactly that, and by tenant
with a secret of this server's, so that neither a name nor the time of an answer tells one tenant what another holds.

Two tiers: memory, with a budget in bytes and the least recently used out first, and (optionally) the disk. Requests get
the very same tensors, never copies; what was evicted while somebody still reads it is found again as long as they do.
Each document is computed once, however many ask for it at the same moment.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from holdfast.serving.engine.document_files import DocumentFiles

if TYPE_CHECKING:
    import torch

Found = Literal["memory", "disk", "new", "evicted", "damaged"]
"""where a document's KV was, or why it had to be computed"""
HITS: tuple[Found, ...] = ("memory", "disk")
MISSES: tuple[Found, ...] = ("new", "evicted", "damaged")
SECRET_BYTES = 32
MAX_REMEMBERED = 100_000
"""evicted keys whose eviction is remembered, to say so when they are missed"""


@dataclass(eq=False)
class DocumentKV:
    """One document's keys and values; shared, so nobody writes to them."""

    tensor: torch.Tensor
    """(num_layers, 2, num_kv_heads, L, head_dim), keys then values"""
    file_id: str = ""
    """the file it was computed for"""

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of one layer, (num_kv_heads, L, head_dim) each."""
        return self.tensor[layer, 0], self.tensor[layer, 1]

    @property
    def num_tokens(self) -> int:
        return int(self.tensor.shape[3])

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Names documents' KV for one model.

    Args:
        secret: of this server, never shown; names cannot be made or recognised without it.
        model: everything about the model and the machine that decides the bits, such as revision, dtype and RoPE.
    """

    secret: bytes
    model: dict[str, str]

    def key(self, tenant: str, prefix_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """Return the name of one document's KV, 64 hexadecimal digits."""
        parts = [tenant, json.dumps(self.model, sort_keys=True), token_digest(prefix_ids), token_digest(token_ids)]
        return hmac.new(self.secret, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


@dataclass(slots=True)
class CacheStats:
    """What happened since the start; read without a lock."""

    found: dict[Found, int] = field(default_factory=lambda: dict.fromkeys(HITS + MISSES, 0))
    num_evictions: int = 0
    num_bytes: int = 0
    """in memory now"""


class DocumentCache:
    """Memory before disk; safe to use from many threads.

    Args:
        budget_bytes: of memory; 0 keeps nothing once nobody reads it.
        files: the disk tier, or None.
    """

    def __init__(self, budget_bytes: int, files: DocumentFiles | None = None) -> None:
        self.budget_bytes = budget_bytes
        self.files = files
        self.stats = CacheStats()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, DocumentKV] = OrderedDict()
        """least recently used first"""
        self._alive: weakref.WeakValueDictionary[str, DocumentKV] = weakref.WeakValueDictionary()
        """kept, or still read by somebody"""
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._forgotten: set[str] = set()
        """deleted files: what is still being computed for them is not kept"""
        self._flights: dict[str, Future[DocumentKV]] = {}

    def get(
        self, key: str, file_id: str, compute: Callable[[], torch.Tensor], *, is_kept_on_disk: bool = True
    ) -> tuple[DocumentKV, Found]:
        """Return a document's KV and where it was; `compute` is called where it is nowhere, by one caller at a time.

        What is not to be kept on disk, since it tells of a sealed text, is kept in memory alone.
        Whoever waits for another's computation gets its result, as from memory, or its error.
        """
        with self._lock:
            kv = self._alive.get(key)
            flight = self._flights.get(key)
            if kv is not None:
                self._keep(key, kv)
                return kv, self._count("memory")
            is_mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not is_mine:
            return flight.result(), self._count("memory")
        try:
            kv, found = self._fetch(key, file_id, compute, is_kept_on_disk)
            flight.set_result(kv)
            return kv, self._count(found)
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key]

    def has(self, key: str) -> bool:
        """Return whether the KV would be found now."""
        with self._lock:
            return key in self._alive or (self.files is not None and self.files.has(key))

    def forget(self, file_id: str) -> None:
        """Delete all KV that was computed for a file, in every tier."""
        with self._lock:
            self._forgotten.add(file_id)
            for key in [key for key, kv in self._alive.items() if kv.file_id == file_id]:
                self._drop(key)
                self._alive.pop(key, None)
            if self.files is not None:
                self.files.forget(file_id)

    def keep_only(self, file_ids: Collection[str]) -> None:
        """Delete from the disk what was computed for other files than these: deleted while nobody looked."""
        with self._lock:
            if self.files is not None:
                self.files.keep_only(file_ids)

    def clear(self) -> None:
        """Let go of the memory tier."""
        with self._lock:
            for key in list(self._kept):
                self._drop(key)

    def _fetch(
        self, key: str, file_id: str, compute: Callable[[], torch.Tensor], is_kept_on_disk: bool
    ) -> tuple[DocumentKV, Found]:
        with self._lock:
            found: Found = "evicted" if key in self._evicted else "new"
            tensor = None
            if self.files is not None and self.files.has(key):
                tensor = self.files.read(key)
                found = "damaged" if tensor is None else "disk"
        is_computed = tensor is None
        kv = DocumentKV(compute() if tensor is None else tensor, file_id)
        with self._lock:
            if file_id not in self._forgotten:
                if self.files is not None and is_computed and is_kept_on_disk:
                    self.files.write(key, file_id, kv.tensor)
                self._alive[key] = kv
                self._keep(key, kv)
        return kv, found

    def _keep(self, key: str, kv: DocumentKV) -> None:
        """Make `kv` the most recently used; others go while the budget is exceeded."""
        if key not in self._kept:
            self._kept[key] = kv
            self.stats.num_bytes += kv.num_bytes
        self._kept.move_to_end(key)
        self._evicted.pop(key, None)
        while self.stats.num_bytes > self.budget_bytes:
            oldest = next(iter(self._kept))
            self._drop(oldest)
            self.stats.num_evictions += 1
            self._evicted[oldest] = None
            if len(self._evicted) > MAX_REMEMBERED:
                self._evicted.popitem(last=False)

    def _drop(self, key: str) -> None:
        kv = self._kept.pop(key, None)
        if kv is not None:
            self.stats.num_bytes -= kv.num_bytes

    def _count(self, found: Found) -> Found:
        self.stats.found[found] += 1
        return found


def read_secret(path: Path) -> bytes:
    """Return the 32 random bytes at `path`, made now where there are none; for the file's owner alone."""
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        secret = secrets.token_bytes(SECRET_BYTES)
        unfinished = path.with_suffix(".tmp")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        unfinished.replace(path)
    return secret


def token_digest(token_ids: Sequence[int]) -> str:
    """Return the SHA-256 of token ids, in hexadecimal digits: the name of a document within its tenant and model."""
    return hashlib.sha256(b"".join(token_id.to_bytes(8, "little") for token_id in token_ids)).hexdigest()
