"""The compiled kernel of `hadamard.py`: the same float32 operations in the same order, on 16 vectors at a time, or one.

The vectors of a tile lie side by side, column by column, so that every step is an operation on whole SIMD registers
and the tile stays in the first-level cache. Kept in a module of its own because importing it imports numba.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled

LANES = 16


@compiled
def rotate_rows(
    vectors: NDArray[np.float32],
    signs: NDArray[np.float32],
    permutation: NDArray[np.int64],
    rotated: NDArray[np.float32],
) -> None:
    """Write the rotation of each row of `vectors` to the same row of `rotated`."""
    num_rows, dim = vectors.shape
    num_rounds = len(signs)
    width = 1
    while 2 * width <= dim:
        width *= 2
    scale = np.float32(width**-0.5)
    lanes = LANES if num_rows > 2 else 1
    tile = np.zeros(dim * lanes, dtype=np.float32)
    moved = np.zeros(dim * lanes, dtype=np.float32)
    for first in range(0, num_rows, lanes):
        count = min(lanes, num_rows - first)
        for lane in range(count):
            for column in range(dim):
                tile[column * lanes + lane] = vectors[first + lane, column]
        for round_ in range(num_rounds):
            if 2 * round_ == num_rounds:
                for column in range(dim):
                    source = permutation[column] * lanes
                    moved[column * lanes : (column + 1) * lanes] = tile[source : source + lanes]
                tile, moved = moved, tile
            _flip(tile, signs[round_], lanes)
            start = 0 if round_ % 2 == 0 else (dim - width) * lanes
            _transform(tile[start : start + width * lanes], scale, lanes)
        for lane in range(count):
            for column in range(dim):
                rotated[first + lane, column] = tile[column * lanes + lane]


@compiled
def _flip(tile: NDArray[np.float32], signs: NDArray[np.float32], lanes: int) -> None:
    """Multiply each column of a tile by its sign in place."""
    for column in range(len(signs)):
        part = tile[column * lanes : (column + 1) * lanes]
        for lane in range(lanes):
            part[lane] *= signs[column]


@compiled
def _transform(tile: NDArray[np.float32], scale: np.float32, lanes: int) -> None:
    """Walsh-Hadamard transform, orthonormal, of the columns of a tile in place."""
    step = lanes
    while step < len(tile):
        for pair in range(0, len(tile), 2 * step):
            left, right = tile[pair : pair + step], tile[pair + step : pair + 2 * step]
            for i in range(step):
                a, b = left[i], right[i]
                left[i] = a + b
                right[i] = a - b
        step *= 2
    for i in range(len(tile)):
        tile[i] *= scale
