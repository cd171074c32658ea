"""The compiled kernel of `rounding.py`. Kept in a module of its own because importing it imports numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled


@compiled
def round_into(values: NDArray[np.float32], limit: np.float32, rows: NDArray[Any], scales: NDArray[np.float32]) -> None:
    """Write the rounded rows and their scales."""
    width = values.shape[1]
    one = np.float32(1)
    whole = np.empty(width, dtype=np.float32)
    for row in range(len(values)):
        largest = np.float32(0)
        for column in range(width):
            magnitude = np.abs(values[row, column])
            largest = max(largest, magnitude)
        scales[row] = largest / limit
        unit = scales[row] if scales[row] > 0 else one
        for column in range(width):
            value = np.rint(values[row, column] / unit)
            value = max(-limit, value)
            whole[column] = min(limit, value)
        for column in range(width):
            rows[row, column] = np.int32(whole[column])
