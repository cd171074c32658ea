"""The compiled kernel of `scan.py` for any processor, and what it shares with the one of vector instructions.

Every byte of a code is looked up in a table of the query's 256 partial sums. The best rows are kept in pools
(`selection_cpu.py`).

Source: look-up tables as in Jégou, Douze and Schmid, "Product quantization for nearest neighbor search" (2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled
from holdfast.kernels.packing import BLOCK_SIZE
from holdfast.kernels.selection_cpu import make_room


@compiled
def scan_bytes(
    blocks: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    masks: NDArray[np.uint32],
    queries: NDArray[np.int8],
    bits: int,
    first: int,
    last: int,
    top_k: int,
    scores: NDArray[np.int32],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    least: NDArray[np.int32],
) -> None:
    """Take blocks [first, last) into the pools of the queries."""
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
                if (mask >> lane) & 1 and score >= least[query]:
                    scores[query, counts[query]] = score
                    rows[query, counts[query]] = block * BLOCK_SIZE + lane
                    counts[query] += 1
                    if counts[query] == scores.shape[1]:
                        make_room(scores, rows, counts, least, query, top_k, ids)


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
