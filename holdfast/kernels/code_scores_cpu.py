"""The compiled kernel of `code_scores.py`. Kept in a module of its own because importing it imports numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled
from holdfast.kernels.packing import BLOCK_SIZE
from holdfast.kernels.selection_cpu import keep_best, sort_best


@compiled
def select_codes(
    blocks: NDArray[np.uint8],
    factors: NDArray[np.uint8],
    ids: NDArray[np.uint64],
    rows: NDArray[np.int64],
    queries: NDArray[np.int16],
    bits: int,
    scores: NDArray[np.int64],
    best: NDArray[np.int64],
) -> None:
    """Write the best rows of each query to the front; queries are padded to whole bytes with zeros."""
    num_bytes, top_k, highest = blocks.shape[1], scores.shape[1], (1 << bits) - 1
    table = np.zeros((2 * num_bytes, 16), dtype=np.int32)  # of a nibble: at most 15 * 2^15
    own, own_rows = np.empty(rows.shape[1], dtype=np.int64), np.empty(rows.shape[1], dtype=np.int64)
    for line in range(len(queries)):
        total = fill_nibbles(table, queries[line], bits)
        count = 0
        for row in rows[line]:
            if row < 0:
                continue
            block, lane = row // BLOCK_SIZE, row % BLOCK_SIZE
            score = np.int64(0)
            for byte in range(num_bytes):
                code = blocks[block, byte, lane]
                score += np.int64(table[2 * byte, code & 15]) + table[2 * byte + 1, code >> 4]
            own[count], own_rows[count] = (2 * score - highest * total) * np.int64(factors[row]), row
            count += 1
        if count > top_k:
            keep_best(own, own_rows, count, ids, top_k)
            count = top_k
        sort_best(own, own_rows, count, ids)
        scores[line, :count], best[line, :count] = own[:count], own_rows[:count]


@compiled
def fill_nibbles(table: NDArray[np.int32], query: NDArray[np.int16], bits: int) -> np.int64:
    """Set table[nibble, value] to the sum of level times query in that nibble; return the sum of the whole query."""
    total = np.int64(0)
    per_nibble = 4 // bits
    for nibble in range(len(table)):
        for place in range(per_nibble):
            weight = np.int64(query[per_nibble * nibble + place])
            total += weight
            for level in range(1, 1 << bits):
                for low in range(1 << (bits * place)):
                    table[nibble, (level << (bits * place)) + low] = table[nibble, low] + level * weight
    return total
