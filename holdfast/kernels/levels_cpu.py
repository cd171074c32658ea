"""The compiled kernel of `levels.py`. Kept in a module of its own because importing it imports numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.compiled import compiled
from holdfast.kernels.levels import LANES


@compiled
def level_rows(
    places: NDArray[np.float32],
    middles: NDArray[np.float32],
    units: NDArray[np.float32],
    highest: NDArray[np.float32],
    levels: NDArray[np.uint8],
    factors: NDArray[np.float32],
) -> None:
    """Write levels and factors; float32 steps, float64 sums, each in a fixed order."""
    num_axes = len(units)
    half, one, zero = np.float32(0.5), np.float32(1), np.float32(0)
    centred = np.zeros(-(-num_axes // LANES) * LANES, dtype=np.float32)
    values = np.zeros_like(centred)
    whole = np.zeros_like(centred)
    own, kept = np.zeros(LANES), np.zeros(LANES)
    for row in range(len(places)):
        for axis in range(num_axes):
            centred[axis] = places[row, axis] - middles[axis]
            level = np.floor(centred[axis] / units[axis]) + (highest[axis] + one) * half
            level = max(zero, level)
            level = min(highest[axis], level)
            values[axis] = (level - highest[axis] * half) * units[axis]
            whole[axis] = level
        for axis in range(num_axes):
            levels[row, axis] = np.uint8(np.int32(whole[axis]))
        own[:], kept[:] = 0, 0
        for start in range(0, len(centred), LANES):
            for lane in range(LANES):
                place = np.float64(centred[start + lane])
                own[lane] += place * place
                kept[lane] += place * np.float64(values[start + lane])
        own_sum, kept_sum = 0.0, 0.0
        for lane in range(LANES):
            own_sum += own[lane]
            kept_sum += kept[lane]
        factors[row] = own_sum / kept_sum if kept_sum > 0 else 1.0
