"""Exhaustive scan of 1-, 2- and 4-bit codes with an int8 query: exact integer scores, one total order.

A code stands for the vector of its levels, evenly spaced about zero: 2 * level - (2 ** bits - 1), so -1 and +1 for one
bit. Its score is the integer inner product with the query. The best `top_k` are those first in (score descending, id
ascending), so a result depends neither on chunks, threads nor where a code is stored. `scan_top_k_reference` is the
definition; `scan_vector.py` and, for any processor, `scan_cpu.py` are the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    unpack,
    unpack_mask,
)
from holdfast.kernels.threads import MAX_THREADS, num_processors, run_in_threads

MIN_WORK = 1024  # blocks times queries, about 0.1 ms: less is not worth waking a thread for
NO_SCORE = np.int32(np.iinfo(np.int32).min)

Scores = NDArray[np.int32]
Rows = NDArray[np.int64]
Scanner = Callable[[int, int, Scores, Rows], None]
"""(first, last, scores, rows): take blocks [first, last) into the (Q, top_k) heaps `scores` and `rows`"""
Tables = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""tables, groups and constants as `query_tables.fill_tables` makes them"""


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
    check_scan(blocks.shape, ids, queries, top_k, bits, allowed)
    if blocks.dtype != np.uint8:
        raise ShapeError(f"blocks must be uint8, not {blocks.dtype}", param="blocks")
    num_queries, dim = queries.shape
    padded = np.zeros((num_queries, blocks.shape[1] * 8 // bits), dtype=np.int8)
    padded[:, :dim] = queries
    masks = np.empty(0, dtype=np.uint32) if allowed is None else allowed
    scan = _make_scanner(_as_stored(blocks), _as_stored(ids), _as_stored(masks), padded, bits)
    work = num_queries * len(blocks)
    num_workers = max(1, min(num_threads or num_processors(), work // MIN_WORK, MAX_THREADS))
    size = len(blocks) if num_workers == 1 else max(MIN_WORK // num_queries, -(-len(blocks) // (4 * num_workers)))
    chunks = iter(range(0, len(blocks), max(1, size)))  # shared: who is done takes the next
    scores = np.full((num_workers, num_queries, top_k), NO_SCORE, dtype=np.int32)
    rows = np.full((num_workers, num_queries, top_k), -1, dtype=np.int64)

    def scan_some(worker: int) -> None:
        for first in chunks:
            scan(first, min(first + size, len(blocks)), scores[worker], rows[worker])

    run_in_threads(scan_some, num_workers)
    shape = (num_queries, num_workers * top_k)
    return _best(scores.swapaxes(0, 1).reshape(shape), rows.swapaxes(0, 1).reshape(shape), ids, top_k)


def scan_above(
    blocks: NDArray[np.uint8],
    num_rows: int,
    queries: NDArray[np.int8],
    thresholds: NDArray[np.int64],
    *,
    bits: int = 1,
) -> Rows:
    """Return the rows that at least one query scores high enough: thousands of them cost no more than a few.

    Args:
        blocks: (num_blocks(num_rows), num_code_bytes(dim, bits), 32) codes as `packing.pack` lays them out.
        queries: (Q, dim) integers, few.
        thresholds: (Q, num_blocks(num_rows)) int64: of a query's score in each block.
        bits: of a dimension in a code: 1, 2 or 4.

    Returns:
        (M,) int64, ascending.

    Cost: as a scan with `top_k` of 1, less the blocks that no query can score high enough. One thread; releases the
        interpreter lock.
    Reference: scan_above_reference, equal bit for bit.
    """
    from holdfast.kernels.scan_cpu import collect_bytes
    from holdfast.kernels.scan_vector import collect_tables

    _check_above(blocks, num_rows, queries, thresholds, bits)
    num_queries, dim = queries.shape
    padded = np.zeros((num_queries, blocks.shape[1] * 8 // bits), dtype=np.int8)
    padded[:, :dim] = queries
    highest = ((1 << bits) - 1) * np.abs(padded.astype(np.int64)).sum(axis=1)
    rows = np.empty(len(blocks) * BLOCK_SIZE, dtype=np.int64)
    stored, wanted = _as_stored(blocks), _as_stored(thresholds)
    made = _make_tables(padded, blocks.shape[1], bits)
    if made is None:
        num_found = collect_bytes(stored, num_rows, padded, bits, highest, wanted, rows)
    else:
        num_found = collect_tables(stored, num_rows, *made, highest, wanted, rows)
    return rows[:num_found].copy()


def scan_above_reference(
    blocks: NDArray[np.uint8],
    num_rows: int,
    queries: NDArray[np.int8],
    thresholds: NDArray[np.int64],
    *,
    bits: int = 1,
) -> Rows:
    """The definition of `scan_above`, in plain NumPy."""
    _check_above(blocks, num_rows, queries, thresholds, bits)
    values = 2 * unpack(blocks, num_rows, queries.shape[1], bits).astype(np.int64) - ((1 << bits) - 1)
    scores = queries.astype(np.int64) @ values.T
    return np.flatnonzero((scores >= thresholds[:, np.arange(num_rows) // BLOCK_SIZE]).any(axis=0))


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
    check_scan(blocks.shape, ids, queries, top_k, bits, allowed)
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


def _make_scanner(
    blocks: NDArray[np.uint8], ids: NDArray[np.uint64], masks: NDArray[np.uint32], queries: NDArray[np.int8], bits: int
) -> Scanner:
    """Return the scanner that this processor and these queries, padded to whole bytes of codes, allow.

    Empty `masks` allow every row. The first call compiles, or loads what was compiled.
    """
    from holdfast.kernels.scan_cpu import scan_bytes
    from holdfast.kernels.scan_vector import scan_tables

    made = _make_tables(queries, blocks.shape[1], bits)
    if made is None:
        return partial(scan_bytes, blocks, ids, masks, queries, bits)
    return partial(scan_tables, blocks, ids, masks, *made)


def _make_tables(queries: NDArray[np.int8], num_bytes: int, bits: int) -> Tables | None:
    """Return the tables of queries that are padded to whole bytes; None where processor or queries do not allow any."""
    from holdfast.kernels.query_tables import fill_tables
    from holdfast.kernels.scan_vector import look_up_instruction

    num_queries = len(queries)
    if look_up_instruction() is not None:
        for num_parts in (1, 2):
            tables = np.empty((num_parts * num_queries, num_bytes, 2, 16), dtype=np.uint8)
            groups = np.empty(num_parts * num_queries, dtype=np.int64)
            constants = np.empty(num_queries, dtype=np.int64)
            if fill_tables(queries, bits, tables, groups, constants):
                return tables, groups, constants
    return None


def _best(scores: Scores, rows: Rows, ids: NDArray[np.uint64], top_k: int) -> tuple[Scores, Rows]:
    """Return the first `top_k` of each line of (Q, C) `scores` and `rows` in the total order; row -1 means none."""
    if len(ids) == 0:
        return scores[:, :top_k], rows[:, :top_k]
    order = total_order(scores, ids[rows], rows >= 0)[:, :top_k]
    lines = np.arange(len(order))[:, None]
    return scores[lines, order], rows[lines, order]


def _as_stored(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array contiguous and not to be written, as memory-mapped ones are: one compiled kernel serves all."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def check_scan(
    shape: tuple[int, ...],
    ids: NDArray[np.uint64],
    queries: NDArray[np.int8],
    top_k: int,
    bits: int,
    allowed: NDArray[np.uint32] | None,
) -> None:
    """Raise ShapeError naming the argument of a scan that does not fit codes of `shape`."""
    check_bits(bits)
    if queries.ndim != 2 or queries.dtype != np.int8:
        raise ShapeError(f"queries must be (Q, dim) int8, not {queries.shape} {queries.dtype}", param="queries")
    expected = (num_blocks(len(ids)), num_code_bytes(queries.shape[1], bits), BLOCK_SIZE)
    if shape != expected:
        raise ShapeError(f"blocks must be {expected}, not {shape}", param="blocks")
    if ids.ndim != 1 or ids.dtype != np.uint64:
        raise ShapeError(f"ids must be (N,) uint64, not {ids.shape} {ids.dtype}", param="ids")
    if top_k < 1:
        raise ShapeError(f"top_k must be at least 1, not {top_k}", param="top_k")
    if allowed is not None and (allowed.shape != expected[:1] or allowed.dtype != np.uint32):
        raise ShapeError(f"allowed must be {expected[:1]} uint32, not {allowed.shape} {allowed.dtype}", param="allowed")


def _check_above(
    blocks: NDArray[np.uint8], num_rows: int, queries: NDArray[np.int8], thresholds: NDArray[np.int64], bits: int
) -> None:
    check_bits(bits)
    if queries.ndim != 2 or queries.dtype != np.int8:
        raise ShapeError(f"queries must be (Q, dim) int8, not {queries.shape} {queries.dtype}", param="queries")
    expected = (num_blocks(num_rows), num_code_bytes(queries.shape[1], bits), BLOCK_SIZE)
    if blocks.shape != expected or blocks.dtype != np.uint8:
        raise ShapeError(f"blocks must be {expected} uint8, not {blocks.shape} {blocks.dtype}", param="blocks")
    wanted = (len(queries), len(blocks))
    if thresholds.shape != wanted or thresholds.dtype != np.int64:
        raise ShapeError(
            f"thresholds must be {wanted} int64, not {thresholds.shape} {thresholds.dtype}", param="thresholds"
        )
