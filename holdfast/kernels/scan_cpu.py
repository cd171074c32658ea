"""The compiled kernel of `scan.py`: every byte of a code is looked up in a table of the query's 256 partial sums.

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
def scan_blocks(
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
    """Keep in (Q, top_k) `scores` and `rows` the best of blocks [first, last), best first; row -1 marks no row."""
    num_bytes = blocks.shape[1]
    table = np.zeros((num_bytes, 256), dtype=np.int16)  # at most 2 * 15 * 128
    for query in range(len(queries)):
        total = ((1 << bits) - 1) * fill_table(table, queries[query], bits)
        for block in range(first, last):
            if masks[block] == 0:
                continue
            for lane in range(BLOCK_SIZE):
                if (masks[block] >> lane) & 1:
                    score = 0
                    for byte in range(num_bytes):
                        score += table[byte, blocks[block, byte, lane]]
                    score = 2 * score - total
                    if score >= scores[query, -1]:
                        insert(scores[query], rows[query], ids, score, block * BLOCK_SIZE + lane)


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
def insert(scores: NDArray[np.int32], rows: NDArray[np.int64], ids: NDArray[np.uint64], score: int, row: int) -> None:
    """Put (score, row) in its place in a sorted list, if it has one, and drop the last."""
    place = len(rows)
    while place > 0 and (
        rows[place - 1] < 0
        or scores[place - 1] < score
        or (scores[place - 1] == score and ids[rows[place - 1]] > ids[row])
    ):
        place -= 1
    for later in range(len(rows) - 1, place, -1):
        scores[later] = scores[later - 1]
        rows[later] = rows[later - 1]
    if place < len(rows):
        scores[place] = score
        rows[place] = row
