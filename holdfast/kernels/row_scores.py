"""The best of chosen rows of 8-bit numbers by their cosines with 16-bit queries, looking at no more than it takes.

Rows come in the order of what their cosine is at most. Once that, for the next row, is not above the worst of the best
so far, none that follows can be among them. Products are sums of whole numbers, so exact; the only roundings are two
multiplications by the scales.

Source: the early stop by an error bound is that of Gao and Long, "RaBitQ" (SIGMOD 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError
from holdfast.kernels.packing import read_only

ROUND_SIZE = 32  # rows compared between two looks at the bound

Floats = NDArray[np.float64]


class BestRows(NamedTuple):
    """What was found for Q queries."""

    columns: NDArray[np.int64]
    """(Q, top_k) positions among the chosen rows, best first, by (cosine descending, id ascending)"""
    cosines: Floats
    """(Q, top_k), -inf where there are fewer rows"""
    num_compared: NDArray[np.int64]
    """(Q,)"""


def best_rows(
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
    chosen: NDArray[np.int64],
    ids: NDArray[np.uint64],
    bounds: Floats,
    queries: NDArray[np.int16],
    query_scales: NDArray[np.float32],
    top_k: int,
) -> BestRows:
    """Return the best of each query's own rows.

    Args:
        rows: (N, dim) numbers.
        scales: (N,) by which the rows are multiplied.
        chosen: (Q, C) rows, -1 where there is none.
        ids: (Q, C) of the chosen.
        bounds: (Q, C) what each cosine is at most, descending.
        queries: (Q, dim) numbers.
        query_scales: (Q,) by which the queries are multiplied.
        top_k: at least 1, at most C.

    Cost: dim multiplications a row compared. Releases the interpreter lock.
    Reference: best_rows_reference, equal bit for bit.
    """
    from holdfast.kernels.row_scores_cpu import select_rows  # compiles, or loads what was compiled, on the first call

    _check(rows, scales, chosen, ids, bounds, queries, query_scales, top_k)
    shape = (len(queries), top_k)
    best = BestRows(np.empty(shape, dtype=np.int64), np.empty(shape), np.empty(len(queries), dtype=np.int64))
    given = (np.ascontiguousarray(array) for array in (chosen, ids, bounds, queries, query_scales))
    select_rows(read_only(rows), read_only(scales), *given, *best)
    return best


def best_rows_reference(
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
    chosen: NDArray[np.int64],
    ids: NDArray[np.uint64],
    bounds: Floats,
    queries: NDArray[np.int16],
    query_scales: NDArray[np.float32],
    top_k: int,
) -> BestRows:
    """The definition of `best_rows`, in plain NumPy."""
    _check(rows, scales, chosen, ids, bounds, queries, query_scales, top_k)
    cosines = np.full(chosen.shape, -np.inf)
    for line, (own, query) in enumerate(zip(chosen, queries, strict=True)):
        for first in range(0, len(own), ROUND_SIZE):
            if first >= top_k and bounds[line, first] <= np.partition(cosines[line], -top_k)[-top_k]:
                break
            part = np.flatnonzero(own[first : first + ROUND_SIZE] >= 0) + first
            products = (rows[own[part]].astype(np.int64) @ query.astype(np.int64)).astype(np.float64)
            cosines[line, part] = products * (scales[own[part]].astype(np.float64) * np.float64(query_scales[line]))
    order = np.lexsort((ids, -cosines), axis=1)[:, :top_k]
    return BestRows(order, np.take_along_axis(cosines, order, axis=1), np.isfinite(cosines).sum(axis=1))


def _check(
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
    chosen: NDArray[np.int64],
    ids: NDArray[np.uint64],
    bounds: Floats,
    queries: NDArray[np.int16],
    query_scales: NDArray[np.float32],
    top_k: int,
) -> None:
    if rows.ndim != 2 or rows.dtype != np.int8 or scales.shape != rows.shape[:1] or scales.dtype != np.float32:
        raise ShapeError(f"rows must be (N, dim) int8 and scales (N,) float32, not of shape {rows.shape}", param="rows")
    if queries.dtype != np.int16 or queries.shape != (len(queries), rows.shape[1]):
        raise ShapeError(f"queries must be (Q, {rows.shape[1]}) int16, not of shape {queries.shape}", param="queries")
    if query_scales.shape != queries.shape[:1] or query_scales.dtype != np.float32:
        raise ShapeError(f"query_scales must be ({len(queries)},) float32", param="query_scales")
    if chosen.ndim != 2 or len(chosen) != len(queries) or chosen.dtype != np.int64:
        raise ShapeError(f"chosen must be ({len(queries)}, C) int64, not of shape {chosen.shape}", param="chosen")
    if chosen.size and chosen.max() >= len(rows):
        raise ShapeError(f"chosen rows must be below {len(rows)}, not {chosen.max()}", param="chosen")
    if ids.shape != chosen.shape or ids.dtype != np.uint64 or bounds.shape != chosen.shape:
        raise ShapeError(f"ids (uint64) and bounds must be of shape {chosen.shape}", param="ids")
    if not 1 <= top_k <= chosen.shape[1]:
        raise ShapeError(f"top_k must be from 1 to {chosen.shape[1]}, not {top_k}", param="top_k")
