"""Exact search: every stored float vector against every query. Slow, and what the codes are measured against."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.segment_search import SearchResult

QUERY_SLICE = 64  # a (64, 1 M) float32 matrix of products is 256 MB


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
    return SearchResult(ids, scores, num_scanned, np.full(num_queries, num_scanned))


def nearest_rows(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the (Q, K) rows of `vectors`, (N, dim), nearest to each query by float inner product, and the products.

    Equal products go by row. The last bits of a product may differ between machines: a yardstick, not an index.
    """
    k = min(k, len(vectors))
    rows = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for first in range(0, len(queries) if k else 0, QUERY_SLICE):
        products = queries[first : first + QUERY_SLICE] @ vectors.T
        for query, line in enumerate(products, start=first):
            nearest = np.flatnonzero(line >= np.partition(line, len(line) - k)[len(line) - k])
            rows[query] = nearest[np.lexsort((nearest, -line[nearest]))[:k]]
            scores[query] = line[rows[query]]
    return rows, scores
