"""The compiled kernel of `code_scores.py`. Kept in a module of its own because importing it imports numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.packing import BLOCK_SIZE
from holdfast.kernels.scan_cpu import compiled


@compiled
def score_rows(
    blocks: NDArray[np.uint8],
    rows: NDArray[np.int64],
    queries: NDArray[np.int64],
    bits: int,
    scores: NDArray[np.int64],
) -> None:
    """Write the score of each query with its own rows; queries are padded to whole bytes with zeros."""
    num_bytes, per_byte = blocks.shape[1], 8 // bits
    mask = (1 << bits) - 1
    for line in range(len(queries)):
        total = 0
        for weight in queries[line]:
            total += weight
        for place in range(rows.shape[1]):
            row = rows[line, place]
            if row < 0:
                continue
            block, lane = row // BLOCK_SIZE, row % BLOCK_SIZE
            score = 0
            for byte in range(num_bytes):
                code = np.int64(blocks[block, byte, lane])
                for part in range(per_byte):
                    score += ((code >> (bits * part)) & mask) * queries[line, byte * per_byte + part]
            scores[line, place] = 2 * score - mask * total
