"""Exact integer scores of chosen codes with a 16-bit query: the second look at what a scan found with 8 bits.

A scan reads every code, so it is worth making its query coarse; a few hundred codes can be read again as precisely as
one likes. Scores are those of `scan.py`, with larger weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError
from holdfast.kernels.packing import BLOCK_SIZE, check_bits, num_code_bytes, take_codes, to_blocks, unpack


def score_codes(
    blocks: NDArray[np.uint8], rows: NDArray[np.int64], queries: NDArray[np.int16], *, bits: int = 1
) -> NDArray[np.int64]:
    """Return the score of each query with its own rows.

    Args:
        blocks: (num_blocks(N), num_code_bytes(dim, bits), 32) codes as `packing.pack` lays them out.
        rows: (Q, C) rows of codes, -1 where there is none.
        queries: (Q, dim) integers.
        bits: of a dimension in a code: 1, 2 or 4.

    Returns:
        (Q, C) int64, 0 where there is no row.

    Cost: dim operations a row. Releases the interpreter lock.
    Reference: score_codes_reference, equal bit for bit.
    """
    from holdfast.kernels.code_scores_cpu import score_rows  # compiles, or loads what was compiled, on the first call

    _check(blocks, rows, queries, bits)
    num_queries, dim = queries.shape
    padded = np.zeros((num_queries, num_code_bytes(dim, bits) * 8 // bits), dtype=np.int64)
    padded[:, :dim] = queries
    scores = np.zeros(rows.shape, dtype=np.int64)
    view = blocks.view()
    view.flags.writeable = False
    score_rows(view, np.ascontiguousarray(rows), padded, bits, scores)
    return scores


def score_codes_reference(
    blocks: NDArray[np.uint8], rows: NDArray[np.int64], queries: NDArray[np.int16], *, bits: int = 1
) -> NDArray[np.int64]:
    """The definition of `score_codes`, in plain NumPy."""
    _check(blocks, rows, queries, bits)
    scores = np.zeros(rows.shape, dtype=np.int64)
    for line, (own, query) in enumerate(zip(rows, queries, strict=True)):
        present = np.flatnonzero(own >= 0)
        levels = unpack(to_blocks(take_codes(blocks, own[present])), len(present), len(query), bits)
        scores[line, present] = (2 * levels.astype(np.int64) - ((1 << bits) - 1)) @ query.astype(np.int64)
    return scores


def _check(blocks: NDArray[np.uint8], rows: NDArray[np.int64], queries: NDArray[np.int16], bits: int) -> None:
    check_bits(bits)
    if queries.ndim != 2 or queries.dtype != np.int16:
        raise ShapeError(f"queries must be (Q, dim) int16, not {queries.shape} {queries.dtype}", param="queries")
    expected = (num_code_bytes(queries.shape[1], bits), BLOCK_SIZE)
    if blocks.ndim != 3 or blocks.shape[1:] != expected or blocks.dtype != np.uint8:
        raise ShapeError(f"blocks must be (B, *{expected}) uint8, not {blocks.shape} {blocks.dtype}", param="blocks")
    if rows.ndim != 2 or len(rows) != len(queries) or rows.dtype != np.int64:
        raise ShapeError(f"rows must be ({len(queries)}, C) int64, not {rows.shape} {rows.dtype}", param="rows")
    if rows.size and rows.max() >= len(blocks) * BLOCK_SIZE:
        raise ShapeError(f"rows must be below {len(blocks) * BLOCK_SIZE}, not {rows.max()}", param="rows")
