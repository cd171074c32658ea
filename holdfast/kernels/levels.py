"""Coordinates to levels of even grids, with the factor that makes up for what rounding did to the vector.

Coordinate j has highest[j] + 1 levels, units[j] apart and symmetric about zero. The factor of a vector z that the
levels stand for as y is <z, z> / <z, y>: times it, y has with z the inner product that z has with itself.

Source: the factor is the estimator of Gao and Long, "RaBitQ" (SIGMOD 2024), section 3.2, for any number of levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.uint8]
Factors = NDArray[np.float32]

LANES = 8


def to_levels(
    places: NDArray[np.float32],
    middles: NDArray[np.float32],
    units: NDArray[np.float32],
    highest: NDArray[np.float32],
) -> tuple[Levels, Factors]:
    """Return the level of each coordinate, and the factor of each vector.

    Args:
        places: (N, A) coordinates.
        middles: (A,) what is taken from them first.
        units: (A,) distance of two levels, above 0.
        highest: (A,) the highest level, an odd whole number below 256.

    Returns:
        levels: (N, A) uint8.
        factors: (N,) float32; 1 where the levels are at a right angle to the vector, or worse.

    Cost: a few operations a coordinate. Releases the interpreter lock.
    Reference: to_levels_reference, equal bit for bit: float32 steps, and float64 sums in one order: of each LANES-th
        coordinate first, then of those sums.
    """
    from holdfast.kernels.levels_cpu import level_rows  # compiles, or loads what was compiled, on the first call

    levels = np.empty(places.shape, dtype=np.uint8)
    factors = np.empty(len(places), dtype=np.float32)
    level_rows(np.ascontiguousarray(places), middles, units, highest, levels, factors)
    return levels, factors


def to_levels_reference(
    places: NDArray[np.float32],
    middles: NDArray[np.float32],
    units: NDArray[np.float32],
    highest: NDArray[np.float32],
) -> tuple[Levels, Factors]:
    """The definition of `to_levels`, in plain NumPy."""
    centred = places - middles
    half = np.float32(0.5)
    levels = np.clip(np.floor(centred / units) + (highest + 1) * half, 0, highest)
    values = (levels - highest * half) * units
    wide = centred.astype(np.float64)
    own, kept = (_sum_in_order(wide * other) for other in (wide, values.astype(np.float64)))
    factors = np.ones(len(places))
    np.divide(own, kept, out=factors, where=kept > 0)
    return levels.astype(np.uint8), factors.astype(np.float32)


def _sum_in_order(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (N,) sums of (N, A) products; `cumsum` adds from the first to the last."""
    num_rows, num_axes = products.shape
    padded = np.zeros((num_rows, -(-num_axes // LANES), LANES))
    padded.reshape(num_rows, padded.shape[1] * LANES)[:, :num_axes] = products
    sums: NDArray[np.float64] = np.cumsum(np.cumsum(padded, axis=1)[:, -1], axis=1)[:, -1]
    return sums
