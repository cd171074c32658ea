"""Exact vectors as the bytes that are sealed: one float32 scale and 8 bits a dimension, enough to rescore with.

Rounding is to nearest, half to even, in float32: the same vector gives the same bytes on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, ShapeError

SCALE_SIZE = 4
ROW_LIMIT = 127


def pack_vectors(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return (N, 4 + dim) bytes of (N, dim) vectors: the scale, largest magnitude / 127, little-endian, then int8."""
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ShapeError(f"vectors must be (N, dim) and finite, not of shape {vectors.shape}", param="vectors")
    vectors = vectors.astype(np.float32, copy=False)
    scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(ROW_LIMIT)
    divisors = np.where(scales > 0, scales, np.float32(1))
    rows = np.clip(np.rint(vectors / divisors[:, None]), -ROW_LIMIT, ROW_LIMIT).astype(np.int8)
    return np.hstack([scales.astype("<f4")[:, None].view(np.uint8), rows.view(np.uint8)])


def unpack_vectors(packed: bytes | NDArray[np.uint8], dim: int) -> NDArray[np.float32]:
    """Return the (N, dim) vectors, each coordinate off by at most half its row's scale."""
    row_size = SCALE_SIZE + dim
    data = np.frombuffer(packed, dtype=np.uint8) if isinstance(packed, bytes) else packed.reshape(-1)
    if len(data) % row_size:
        raise IntegrityError(f"{len(data)} bytes are not whole vectors of {dim} dimensions")
    rows = data.reshape(-1, row_size)
    scales = np.ascontiguousarray(rows[:, :SCALE_SIZE]).view("<f4").astype(np.float32)
    return rows[:, SCALE_SIZE:].view(np.int8) * scales
