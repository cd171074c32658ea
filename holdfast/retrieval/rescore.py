"""Better vectors than codes, by which candidates are ordered: int8 rows, and queries in 16 bits a coordinate.

The rows are the same for every quantiser, so they also make segments of different quantisers comparable.
`kernels/row_scores.py` compares them, exactly, and stops early by a bound that was measured on the collection.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.kernels.hadamard import Rotation, rotate
from holdfast.kernels.rounding import round_rows

MIN_CANDIDATES = 100
"""rescoring so few costs next to nothing, and small `k` need the room most: ties crowd where texts are alike"""
FINE_LIMIT = 32767


class FineQueries(NamedTuple):
    """Q queries, rotated as the rows are, as integers in units of their scale."""

    values: NDArray[np.int16]
    """(Q, dim)"""
    scales: NDArray[np.float32]
    """(Q,)"""


def encode_rows(vectors: NDArray[np.float32], rotation: Rotation) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the (N, dim) int8 rows of unit-norm vectors, and the (N,) scales to multiply them with.

    Vectors are rotated first, so that one large coordinate does not cost the others their precision.
    """
    return round_rows(rotate(vectors, rotation))


def encode_fine(queries: NDArray[np.float32], rotation: Rotation) -> FineQueries:
    """Return unit-norm queries (Q, dim) as they are compared with rows."""
    return FineQueries(*round_rows(rotate(queries, rotation), FINE_LIMIT))


def num_candidates(k: int, oversampling: float, min_candidates: int = MIN_CANDIDATES) -> int:
    """Return how many rows the codes let through for `k` results: ceil(oversampling * k), or the least there are."""
    if k < 1:
        raise InvalidInput(f"k must be at least 1, not {k}", param="k")
    if not 1.0 <= oversampling < math.inf:
        raise InvalidInput(f"oversampling must be at least 1.0, not {oversampling}", param="oversampling")
    return max(math.ceil(oversampling * k), min_candidates)
