"""Exact search: every stored float vector against every query. Slow, and what the codes are measured against."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.index import SearchResult


def search_exact(
    parts: Iterable[tuple[NDArray[np.uint64], NDArray[np.float32]]], queries: NDArray[np.float32], k: int
) -> SearchResult:
    """Return the `k` nearest of each unit-norm query (Q, dim) by cosine, score descending, then id.

    Args:
        parts: ids (N,) and unit-norm vectors (N, dim), part by part; only `k` of them are kept in memory.
        queries: (Q, dim) float32.
        k: results per query, at least 1.
    """
    num_queries = len(queries)
    ids = np.empty((num_queries, 0), dtype=np.uint64)
    scores = np.empty((num_queries, 0), dtype=np.float32)
    num_scanned = 0
    for part_ids, vectors in parts:
        num_scanned += len(part_ids)
        ids = np.hstack([ids, np.broadcast_to(part_ids, (num_queries, len(part_ids)))])
        scores = np.hstack([scores, queries @ vectors.T])
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        ids = np.take_along_axis(ids, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
    return SearchResult(ids=ids, scores=scores, num_scanned=num_scanned)
