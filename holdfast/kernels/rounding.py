"""Rows of floats to whole numbers of 8 or 16 bits and a scale each.

The scale of a row is its largest magnitude over a limit, in float32; each number is the nearest to value / scale, half
to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 127


def round_rows(values: NDArray[np.float32], limit: int = LIMIT) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return (N, W) whole numbers within +-limit and the (N,) scales that they are in units of; 0 for a row of zeros.

    They are int8 up to a limit of 127, else int16.

    Cost: a few operations a value. Releases the interpreter lock.
    Reference: round_rows_reference, equal bit for bit.
    """
    from holdfast.kernels.rounding_cpu import round_into  # compiles, or loads what was compiled, on the first call

    rows, scales = np.empty(values.shape, dtype=_dtype_of(limit)), np.empty(len(values), dtype=np.float32)
    round_into(np.ascontiguousarray(values), np.float32(limit), rows, scales)
    return rows, scales


def round_rows_reference(values: NDArray[np.float32], limit: int = LIMIT) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The definition of `round_rows`, in plain NumPy."""
    scales = np.abs(values).max(axis=1, initial=0) / np.float32(limit)
    units = np.where(scales > 0, scales, np.float32(1))[:, None]
    return np.clip(np.rint(values / units), -limit, limit).astype(_dtype_of(limit)), scales


def _dtype_of(limit: int) -> type[np.signedinteger[Any]]:
    return np.int8 if limit <= LIMIT else np.int16
