"""BinaryIndex: exhaustive, deterministic search over 1-bit codes, ordered by int8 rescoring.

Scores are exact integers and the order is total (score descending, id ascending), so a result depends neither on
threads, batch size nor the order in which vectors were added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The `k` nearest rows of each query; shorter corpora leave fewer columns."""

    ids: NDArray[np.uint64]
    """(Q, K)"""
    scores: NDArray[np.float32]
    """(Q, K), estimated cosine in [-1, 1], descending"""
    num_scanned: int
    """codes compared with each query"""


class BinaryIndex:
    """Vectors as 1-bit codes with an int8 copy for rescoring.

    `add` encodes new vectors only. `save` writes one immutable, checksummed file atomically; `load` memory-maps it.
    """

    def __init__(self, dim: int, *, seed: int = 0) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def add(self, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        """Add unit-norm (N, dim) vectors under ids (N,) that are not in the index yet."""
        raise NotImplementedError

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Drop the given ids; return how many were there. Saved files no longer hold them after the next `save`."""
        raise NotImplementedError

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        oversampling: float = 4.0,
        allowed_ids: NDArray[np.uint64] | None = None,
        num_threads: int | None = None,
    ) -> SearchResult:
        """Return the `k` nearest of each unit-norm query (Q, dim), among `allowed_ids` where given."""
        raise NotImplementedError

    def ids(self) -> NDArray[np.uint64]:
        """Return the ids in the index, ascending."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write to `path` atomically and durably (temporary file, fsync, rename, fsync of the folder)."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> BinaryIndex:
        """Memory-map a saved index; checksums of the sections are checked on first use, the header's at once."""
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, data: bytes) -> BinaryIndex:
        """As `load`, from bytes in memory."""
        raise NotImplementedError

    def verify(self) -> None:
        """Check every checksum. Raises IntegrityError naming what does not hold."""
        raise NotImplementedError
