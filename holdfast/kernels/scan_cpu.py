"""The compiled kernel of `scan.py` for any processor, and what it shares with the one of vector instructions.

Every byte of a code is looked up in a table of the query's 256 partial sums. The best rows are kept in a heap.

Kept in a module of its own because importing it imports numba. Compiled code is cached beside this file or in the
user's cache folder; where neither can be written to, it is compiled once per process.

Source: look-up tables as in Jégou, Douze and Schmid, "Product quantization for nearest neighbor search" (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.packing import BLOCK_SIZE


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on the first call, without the interpreter lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return numba.njit(nogil=True)(function)


@compiled
def scan_bytes(
    blocks: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    masks: NDArray[np.uint32],
    queries: NDArray[np.int8],
    bits: int,
    first: int,
    last: int,
    scores: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> None:
    """Take blocks [first, last) into the (Q, top_k) heaps `scores` and `rows`, worst first; row -1 is none."""
    num_bytes = blocks.shape[1]
    table = np.zeros((num_bytes, 256), dtype=np.int16)  # at most 2 * 15 * 128
    sums = np.empty(BLOCK_SIZE, dtype=np.int32)
    for query in range(len(queries)):
        constant = -((1 << bits) - 1) * fill_table(table, queries[query], bits)
        for block in range(first, last):
            mask = block_mask(masks, len(ids), block)
            if mask == 0:
                continue
            sums[:] = 0
            for byte in range(num_bytes):
                for lane in range(BLOCK_SIZE):
                    sums[lane] += table[byte, blocks[block, byte, lane]]
            for lane in range(BLOCK_SIZE):
                score = 2 * np.int64(sums[lane]) + constant
                if (mask >> lane) & 1 and score >= scores[query, 0]:
                    offer(scores[query], rows[query], ids, score, block * BLOCK_SIZE + lane)


@compiled
def collect_bytes(
    blocks: NDArray[np.uint8],
    num_rows: int,
    queries: NDArray[np.int8],
    bits: int,
    highest: NDArray[np.int64],
    thresholds: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """Write to `rows` which rows one query scores at least its block's threshold; return how many.

    A block is passed over where no query, whose best score is `highest`, can reach a threshold.
    """
    num_queries, num_bytes = len(queries), blocks.shape[1]
    tables = np.zeros((num_queries, num_bytes, 256), dtype=np.int16)
    constants = np.empty(num_queries, dtype=np.int64)
    for query in range(num_queries):
        constants[query] = -((1 << bits) - 1) * fill_table(tables[query], queries[query], bits)
    masks = np.empty(0, dtype=np.uint32)
    num_found = 0
    for block in range(len(blocks)):
        passed = np.uint32(0)
        for query in range(num_queries):
            if thresholds[query, block] > highest[query]:
                continue
            for lane in range(BLOCK_SIZE):
                total = np.int64(0)
                for byte in range(num_bytes):
                    total += tables[query, byte, blocks[block, byte, lane]]
                if 2 * total + constants[query] >= thresholds[query, block]:
                    passed |= np.uint32(1) << np.uint32(lane)
        passed &= block_mask(masks, num_rows, block)
        for lane in range(BLOCK_SIZE):
            if (passed >> lane) & 1:
                rows[num_found] = block * BLOCK_SIZE + lane
                num_found += 1
    return num_found


@compiled
def fill_table(table: NDArray[np.int16], query: NDArray[np.int8], bits: int) -> int:
    """Set table[byte, value] to the sum of level times query in that byte; return the sum of the whole query."""
    total = 0
    per_byte = 8 // bits
    for byte in range(len(table)):
        for place in range(per_byte):
            weight = query[per_byte * byte + place]
            total += weight
            for level in range(1, 1 << bits):
                for low in range(1 << (bits * place)):
                    table[byte, (level << (bits * place)) + low] = table[byte, low] + level * weight
    return total


@compiled
def block_mask(masks: NDArray[np.uint32], num_rows: int, block: int) -> np.uint32:
    """Return the mask of the rows of a block that exist and are allowed."""
    mask = np.uint32(0xFFFFFFFF) if len(masks) == 0 else masks[block]
    present = num_rows - block * BLOCK_SIZE
    if present < BLOCK_SIZE:
        mask &= np.uint32((np.int64(1) << present) - 1)
    return mask


@compiled
def offer(scores: NDArray[np.int32], rows: NDArray[np.int64], ids: NDArray[np.uint64], score: int, row: int) -> None:
    """Put (score, row) into a heap in place of its worst, which comes first, if that is worse."""
    if not is_worse(scores[0], rows[0], score, row, ids):
        return
    place = 0
    while True:
        child = 2 * place + 1
        if child >= len(rows):
            break
        if child + 1 < len(rows) and is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child], ids):
            child += 1
        if not is_worse(scores[child], rows[child], score, row, ids):
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
    scores[place], rows[place] = score, row


@compiled
def is_worse(score: int, row: int, other_score: int, other_row: int, ids: NDArray[np.uint64]) -> bool:
    """Whether (score, row) comes after another in the total order; row -1, which is none, comes after all."""
    if row < 0 or other_row < 0:
        return row < other_row
    return score < other_score or (score == other_score and ids[row] > ids[other_row])
