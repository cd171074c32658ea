"""Exhaustive scan of 1-, 2- and 4-bit codes with an int8 query: exact integer scores, one total order.

A code stands for the vector of its levels, evenly spaced about zero: 2 * level - (2 ** bits - 1), so -1 and +1 for one
bit. Its score is the integer inner product with the query. The best `top_k` are those first in (score descending, id
ascending), so a result depends neither on chunks, threads nor where a code is stored. `scan_top_k_reference` is the
definition, `scan_cpu.py` the compiled kernel.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import ShapeError
from holdfast.kernels.packing import (
    BLOCK_SIZE,
    check_bits,
    num_blocks,
    num_code_bytes,
    pack,
    pack_mask,
    unpack,
    unpack_mask,
)

CHUNK_BLOCKS = 1024  # 32,768 codes: 1.5 MiB at 384 bits, and the unit of work of a thread
QUERY_GROUP = 16
NO_SCORE = np.int32(np.iinfo(np.int32).min)

Scores = NDArray[np.int32]
Rows = NDArray[np.int64]


def scan_top_k(
    blocks: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    queries: NDArray[np.int8],
    top_k: int,
    *,
    bits: int = 1,
    allowed: NDArray[np.uint32] | None = None,
    num_threads: int | None = None,
) -> tuple[Scores, Rows]:
    """Return the `top_k` best codes of each query.

    Args:
        blocks: (num_blocks(N), num_code_bytes(dim, bits), 32) codes as `packing.pack` lays them out.
        ids: (N,) distinct identifiers; among equal scores the lower id is better.
        queries: (Q, dim) integers.
        top_k: at least 1.
        bits: of a dimension in a code: 1, 2 or 4.
        allowed: (num_blocks(N),) masks of the rows to consider, all when None.
        num_threads: at most this many threads; all processors when None.

    Returns:
        scores: (Q, top_k) int32, best first, `NO_SCORE` where there are fewer than `top_k` rows.
        rows: (Q, top_k) int64, -1 where there are fewer.

    Cost: N * dim * bits / 8 look-ups per query. Releases the interpreter lock.
    Reference: scan_top_k_reference, equal bit for bit.
    """
    from holdfast.kernels.scan_cpu import scan_blocks  # compiles, or loads what was compiled, on the first call

    _check(blocks, ids, queries, top_k, bits, allowed)
    masks = pack_mask(np.ones(len(ids), dtype=np.bool_)) if allowed is None else allowed
    num_queries, dim = queries.shape
    padded = np.zeros((num_queries, num_code_bytes(dim, bits) * 8 // bits), dtype=np.int8)
    padded[:, :dim] = queries
    num_chunks = max(1, -(-len(blocks) // CHUNK_BLOCKS))
    scores = np.full((num_chunks, num_queries, top_k), NO_SCORE, dtype=np.int32)
    rows = np.full((num_chunks, num_queries, top_k), -1, dtype=np.int64)
    inputs = _read_only(blocks), _read_only(ids), _read_only(masks)

    def scan_part(part: tuple[int, int]) -> None:
        chunk, query = part
        group = slice(query, query + QUERY_GROUP)
        first, last = chunk * CHUNK_BLOCKS, min((chunk + 1) * CHUNK_BLOCKS, len(blocks))
        scan_blocks(*inputs, padded[group], bits, first, last, scores[chunk, group], rows[chunk, group])

    parts = [(chunk, query) for chunk in range(num_chunks) for query in range(0, num_queries, QUERY_GROUP)]
    num_workers = min(len(parts), num_threads or os.cpu_count() or 1)
    if num_workers <= 1:
        for part in parts:
            scan_part(part)
    else:
        with ThreadPoolExecutor(num_workers) as pool:
            list(pool.map(scan_part, parts))
    shape = (num_queries, num_chunks * top_k)
    return _best(scores.swapaxes(0, 1).reshape(shape), rows.swapaxes(0, 1).reshape(shape), ids, top_k)


def warm_up() -> None:
    """Compile the kernel, or load what was compiled, ahead of the first scan: seconds, or a fraction of one."""
    scan_top_k(pack(np.ones((1, 8), dtype=np.bool_)), np.zeros(1, dtype=np.uint64), np.ones((1, 8), dtype=np.int8), 1)


def scan_top_k_reference(
    blocks: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    queries: NDArray[np.int8],
    top_k: int,
    *,
    bits: int = 1,
    allowed: NDArray[np.uint32] | None = None,
) -> tuple[Scores, Rows]:
    """The definition of `scan_top_k`, in plain NumPy."""
    _check(blocks, ids, queries, top_k, bits, allowed)
    num_queries, dim = queries.shape
    values = 2 * unpack(blocks, len(ids), dim, bits).astype(np.int32) - np.int32((1 << bits) - 1)
    members = np.ones(len(ids), dtype=np.bool_) if allowed is None else unpack_mask(allowed, len(ids))
    scores = np.where(members, queries.astype(np.int32) @ values.T, NO_SCORE).astype(np.int32)
    rows = np.where(members, np.arange(len(ids)), -1)
    shape = (num_queries, len(ids) + top_k)
    padded_scores = np.full(shape, NO_SCORE, dtype=np.int32)
    padded_rows = np.full(shape, -1, dtype=np.int64)
    padded_scores[:, : len(ids)] = scores
    padded_rows[:, : len(ids)] = rows
    return _best(padded_scores, padded_rows, ids, top_k)


def total_order(scores: NDArray[np.generic], ids: NDArray[np.uint64], is_present: NDArray[np.bool_]) -> Rows:
    """Return for each line of (Q, C) arrays its columns by (present, score descending, id ascending)."""
    return np.lexsort((ids, -scores.astype(np.float64), ~is_present), axis=1)


def _best(scores: Scores, rows: Rows, ids: NDArray[np.uint64], top_k: int) -> tuple[Scores, Rows]:
    """Return the first `top_k` of each line of (Q, C) `scores` and `rows` in the total order; row -1 means none."""
    if len(ids) == 0:
        return scores[:, :top_k], rows[:, :top_k]
    order = total_order(scores, ids[rows], rows >= 0)[:, :top_k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written, as memory-mapped arrays are: one compiled kernel serves both."""
    view = array.view()
    view.flags.writeable = False
    return view


def _check(
    blocks: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    queries: NDArray[np.int8],
    top_k: int,
    bits: int,
    allowed: NDArray[np.uint32] | None,
) -> None:
    check_bits(bits)
    if queries.ndim != 2 or queries.dtype != np.int8:
        raise ShapeError(f"queries must be (Q, dim) int8, not {queries.shape} {queries.dtype}", param="queries")
    expected = (num_blocks(len(ids)), num_code_bytes(queries.shape[1], bits), BLOCK_SIZE)
    if blocks.shape != expected or blocks.dtype != np.uint8:
        raise ShapeError(f"blocks must be {expected} uint8, not {blocks.shape} {blocks.dtype}", param="blocks")
    if ids.ndim != 1 or ids.dtype != np.uint64:
        raise ShapeError(f"ids must be (N,) uint64, not {ids.shape} {ids.dtype}", param="ids")
    if top_k < 1:
        raise ShapeError(f"top_k must be at least 1, not {top_k}", param="top_k")
    if allowed is not None and (allowed.shape != expected[:1] or allowed.dtype != np.uint32):
        raise ShapeError(f"allowed must be {expected[:1]} uint32, not {allowed.shape} {allowed.dtype}", param="allowed")
