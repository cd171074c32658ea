"""The best of chosen codes by exact integer scores with a 16-bit query: the second look at what a scan found.

A scan reads every code, so it is worth making its query coarse and leaving out the factors that codes come with; a few
hundred codes can be read again as precisely as one likes. Scores are those of `scan.py`, with larger weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError
from holdfast.kernels.packing import BLOCK_SIZE, check_bits, num_code_bytes, read_only, take_codes, to_blocks, unpack


def best_codes(
    blocks: NDArray[np.uint8],
    factors: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    rows: NDArray[np.int64],
    queries: NDArray[np.int16],
    top_k: int,
    *,
    bits: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the `top_k` best of each query's own rows, by (factor times score descending, id ascending).

    Args:
        blocks: (num_blocks(N), num_code_bytes(dim, bits), 32) codes as `packing.pack` lays them out.
        factors: (N,) by which the codes' scores are multiplied.
        ids: (N,) distinct.
        rows: (Q, C) distinct rows of codes, -1 where there is none.
        queries: (Q, dim) integers.
        top_k: at least 1.
        bits: of a dimension in a code: 1, 2 or 4.

    Returns:
        scores: (Q, top_k) int64, best first, 0 where there are fewer rows.
        rows: (Q, top_k) int64, -1 where there are fewer.

    Cost: two look-ups a byte of a row's code. Releases the interpreter lock.
    Reference: best_codes_reference, equal bit for bit.
    """
    from holdfast.kernels.code_scores_cpu import select_codes  # compiles, or loads what was compiled, on the first call

    _check(blocks, factors, ids, rows, queries, bits)
    num_queries, dim = queries.shape
    padded = np.zeros((num_queries, num_code_bytes(dim, bits) * 8 // bits), dtype=np.int16)
    padded[:, :dim] = queries
    scores = np.zeros((num_queries, top_k), dtype=np.int64)
    best = np.full((num_queries, top_k), -1, dtype=np.int64)
    stored = read_only(blocks), read_only(factors), read_only(ids)
    select_codes(*stored, np.ascontiguousarray(rows), padded, bits, scores, best)
    return scores, best


def best_codes_reference(
    blocks: NDArray[np.uint8],
    factors: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    rows: NDArray[np.int64],
    queries: NDArray[np.int16],
    top_k: int,
    *,
    bits: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The definition of `best_codes`, in plain NumPy."""
    _check(blocks, factors, ids, rows, queries, bits)
    scores = np.zeros((len(queries), top_k), dtype=np.int64)
    best = np.full((len(queries), top_k), -1, dtype=np.int64)
    for line, (all_rows, query) in enumerate(zip(rows, queries, strict=True)):
        own = all_rows[all_rows >= 0]
        levels = unpack(to_blocks(take_codes(blocks, own)), len(own), len(query), bits).astype(np.int64)
        own_scores = (2 * levels - ((1 << bits) - 1)) @ query.astype(np.int64) * factors[own]
        order = np.lexsort((ids[own], -own_scores))[:top_k]
        scores[line, : len(order)], best[line, : len(order)] = own_scores[order], own[order]
    return scores, best


def _check(
    blocks: NDArray[np.uint8],
    factors: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    rows: NDArray[np.int64],
    queries: NDArray[np.int16],
    bits: int,
) -> None:
    check_bits(bits)
    if queries.ndim != 2 or queries.dtype != np.int16:
        raise ShapeError(f"queries must be (Q, dim) int16, not {queries.shape} {queries.dtype}", param="queries")
    expected = (num_code_bytes(queries.shape[1], bits), BLOCK_SIZE)
    if blocks.ndim != 3 or blocks.shape[1:] != expected or blocks.dtype != np.uint8:
        raise ShapeError(f"blocks must be (B, *{expected}) uint8, not {blocks.shape} {blocks.dtype}", param="blocks")
    if factors.ndim != 1 or factors.dtype != np.uint8 or factors.shape != ids.shape or ids.dtype != np.uint64:
        raise ShapeError("factors must be (N,) uint8, and ids (N,) uint64", param="factors")
    if rows.ndim != 2 or len(rows) != len(queries) or rows.dtype != np.int64:
        raise ShapeError(f"rows must be ({len(queries)}, C) int64, not {rows.shape} {rows.dtype}", param="rows")
    num_rows = min(len(ids), len(blocks) * BLOCK_SIZE)
    if rows.size and rows.max() >= num_rows:
        raise ShapeError(f"rows must be below {num_rows}, not {rows.max()}", param="rows")
