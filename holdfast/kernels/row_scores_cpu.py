"""The compiled kernel of `row_scores.py`. Kept in a module of its own because importing it imports numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled
from holdfast.kernels.row_scores import ROUND_SIZE
from holdfast.kernels.selection_cpu import keep_best, sort_best

LANES = 32
MAX_TERMS = 256  # products of 2^7 and 2^15 that 32 bits hold, with one bit to spare


@compiled
def select_rows(
    rows: NDArray[np.int8],
    scales: NDArray[np.float32],
    chosen: NDArray[np.int64],
    ids: NDArray[np.uint64],
    bounds: NDArray[np.float64],
    queries: NDArray[np.int16],
    query_scales: NDArray[np.float32],
    best_columns: NDArray[np.int64],
    best_cosines: NDArray[np.float64],
    num_compared: NDArray[np.int64],
) -> None:
    """Write the best of each query's own rows."""
    num_chosen, top_k = chosen.shape[1], best_columns.shape[1]
    cosines, columns = np.empty(num_chosen), np.empty(num_chosen, dtype=np.int64)
    sums = np.zeros(LANES, dtype=np.int32)
    for line in range(len(queries)):
        cosines[:] = -np.inf
        compared = 0
        for first in range(0, num_chosen, ROUND_SIZE):
            bound = bounds[line, first]
            if first >= top_k and bound < np.inf and bound <= np.sort(cosines[:first])[first - top_k]:
                break
            for column in range(first, min(first + ROUND_SIZE, num_chosen)):
                row = chosen[line, column]
                if row >= 0:
                    scale = np.float64(scales[row]) * np.float64(query_scales[line])
                    cosines[column] = np.float64(multiply(rows[row], queries[line], sums)) * scale
                    compared += 1
        num_compared[line] = compared
        for column in range(num_chosen):
            columns[column] = column
        keep_best(cosines, columns, num_chosen, ids[line], top_k)
        sort_best(cosines, columns, top_k, ids[line])
        best_columns[line], best_cosines[line] = columns[:top_k], cosines[:top_k]


@compiled
def multiply(row: NDArray[np.int8], query: NDArray[np.int16], sums: NDArray[np.int32]) -> np.int64:
    """Return the inner product, exactly; `sums` is scratch."""
    total = np.int64(0)
    whole = len(row) - len(row) % LANES
    for start in range(0, whole, LANES * MAX_TERMS):
        sums[:] = 0
        for first in range(start, min(start + LANES * MAX_TERMS, whole), LANES):
            for lane in range(LANES):
                sums[lane] += np.int32(row[first + lane]) * np.int32(query[first + lane])
        for lane in range(LANES):
            total += sums[lane]
    for place in range(whole, len(row)):
        total += np.int64(row[place]) * np.int64(query[place])
    return total
