"""What Holdfast asks of a store that it does not trust to rank: the exact best rows of a cell for a vector.

A row is an opaque id, the cell it lies in, a vector or code that is comparable with queries, bytes that only the owner
can open, and a token that says which rows belong together. Exact, always: vectors may be such that their own distances
mean nothing, and a graph or partition built on those would return noise. Adapters refuse a table that has one.

`rank_rows` is what every adapter must agree with, up to rows whose scores float32 cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError

Metric = Literal["ip", "l2", "hamming"]
"""inner product; Euclidean distance; number of differing bits of packed codes"""

ROW_ID_SIZE = 16


@dataclass(frozen=True, slots=True)
class RankedRow:
    """One row, as the store sees it."""

    id: bytes
    """16 bytes"""
    cell: int
    vector: NDArray[Any]
    """(dim,) float32, or (dim / 8,) uint8 packed bits for `hamming`"""
    sealed: bytes
    token: str
    """opaque; rows with one token are found together"""


@dataclass(frozen=True, slots=True)
class RankedHit:
    """A row that a store ranked."""

    id: bytes
    score: float
    """higher is nearer: the inner product, or minus the distance"""
    sealed: bytes


Hits = list[RankedHit]


class RankingStore(Protocol):
    """Rows of one table.

    Raises:
        ShapeError: a vector or query of another length or type.
        StoreUnavailable: the store does not answer, or answers with an error.
    """

    metric: Metric
    dim: int
    """floats of a vector, or bits of a code"""

    def upsert_rows(self, rows: Sequence[RankedRow]) -> None:
        """Store rows durably, in place of those with the same id."""
        ...

    def scan_topk(
        self, queries: Mapping[int, NDArray[Any]], k: int, *, tokens: Sequence[str] | None = None
    ) -> dict[int, Hits]:
        """Return for each cell the best `k` rows for that cell's query, score descending, then id.

        Args:
            queries: one vector for each cell to be searched.
            k: rows for each cell.
            tokens: only rows with one of these; None: all.
        """
        ...

    def delete_rows(self, ids: Sequence[bytes]) -> None:
        """Remove rows; ids that are not there are passed over."""
        ...

    def list_ids(self) -> list[bytes]:
        """Return the ids of all rows, ascending."""
        ...

    def count(self) -> int:
        """Return how many rows there are."""
        ...

    def drop(self) -> None:
        """Remove the table with all rows."""
        ...

    def close(self) -> None:
        """Let the client go."""
        ...


def check_vector(vector: NDArray[Any], metric: Metric, dim: int) -> NDArray[Any]:
    """Return `vector` if it is one of `dim` floats, finite, or of `dim` bits for `hamming`."""
    shape, dtype = ((dim // 8,), np.uint8) if metric == "hamming" else ((dim,), np.float32)
    if vector.shape != shape or vector.dtype != dtype:
        raise ShapeError(f"a vector must be {shape} {np.dtype(dtype)}, not {vector.shape} {vector.dtype}")
    if metric != "hamming" and not np.isfinite(vector).all():
        raise InvalidInput("a vector must be finite", param="vector")
    return vector


def check_row(row: RankedRow, metric: Metric, dim: int) -> RankedRow:
    """Return `row` if every store can hold it."""
    if len(row.id) != ROW_ID_SIZE:
        raise InvalidInput(f"a row id has {ROW_ID_SIZE} bytes, not {len(row.id)}", param="id")
    check_vector(row.vector, metric, dim)
    return row


def sort_hits(hits: Sequence[RankedHit], k: int) -> Hits:
    """Return the best `k`, score descending, then id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]


def score_rows(vectors: NDArray[Any], query: NDArray[Any], metric: Metric) -> NDArray[np.float64]:
    """Return the (N,) float64 scores of `vectors` (N, dim) for `query`; for `hamming` both are packed bits."""
    if metric == "hamming":
        differing: NDArray[np.float64] = np.bitwise_count(vectors ^ query).sum(axis=1).astype(np.float64)
        return -differing
    wide, wide_query = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "ip":
        products: NDArray[np.float64] = wide @ wide_query
        return products
    distances: NDArray[np.float64] = np.sqrt(((wide - wide_query) ** 2).sum(axis=1))
    return -distances


def rank_rows(
    rows: Sequence[RankedRow],
    queries: Mapping[int, NDArray[Any]],
    k: int,
    metric: Metric,
    *,
    tokens: Sequence[str] | None = None,
) -> dict[int, Hits]:
    """What `RankingStore.scan_topk` returns over `rows`, in float64: the reference."""
    found: dict[int, Hits] = {}
    for cell, query in queries.items():
        inside = [row for row in rows if row.cell == cell and (tokens is None or row.token in tokens)]
        if not inside:
            found[cell] = []
            continue
        scores = score_rows(np.stack([row.vector for row in inside]), query, metric)
        found[cell] = sort_hits(
            [RankedHit(row.id, float(score), row.sealed) for row, score in zip(inside, scores, strict=True)], k
        )
    return found
