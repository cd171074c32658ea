"""Rows of floats to 8-bit whole numbers and a scale each.

The scale of a row is its largest magnitude / 127, in float32; each number is the nearest to value / scale, half to
even.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LIMIT = 127


def round_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return (N, W) whole numbers within +-127 and the (N,) scales that they are in units of; 0 for a row of zeros.

    Cost: a few operations a value. Releases the interpreter lock.
    Reference: round_rows_reference, equal bit for bit.
    """
    from holdfast.kernels.rounding_cpu import round_into  # compiles, or loads what was compiled, on the first call

    rows, scales = np.empty(values.shape, dtype=np.int8), np.empty(len(values), dtype=np.float32)
    round_into(np.ascontiguousarray(values), rows, scales)
    return rows, scales


def round_rows_reference(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The definition of `round_rows`, in plain NumPy."""
    scales = np.abs(values).max(axis=1, initial=0) / np.float32(LIMIT)
    units = np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.clip(np.rint(values / units), -LIMIT, LIMIT).astype(np.int8), scales
