"""Order candidates by better vectors: rows of 8 or 16 bits a dimension against a 16-bit query, with early stop.

The rows are the same for every quantiser, so they also make segments of different quantisers comparable. Integer
products are summed in float64, which is exact below 2^53 and so independent of the order of summation; the only
rounding is in two multiplications by the scales. Equal scores go by id.

Source: the early stop by an error bound is that of RaBitQ (SIGMOD 2024), with a bound measured on the collection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.kernels.hadamard import Rotation, rotate
from holdfast.kernels.rounding import round_rows
from holdfast.kernels.scan import total_order
from holdfast.retrieval.quantise import to_integers

MIN_CANDIDATES = 100
"""rescoring so few costs next to nothing, and small `k` need the room most: ties crowd where texts are alike"""
FINE_LIMIT = 32767
ROUND_SIZE = 32  # candidates rescored between two looks at the bound

Floats = NDArray[np.float64]
Rows = NDArray[np.int8] | NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class FineQueries:
    """Q queries, rotated as the rows are, as integers in units of their scale."""

    values: NDArray[np.int16]
    """(Q, dim)"""
    scales: NDArray[np.float32]
    """(Q,)"""

    def take(self, lines: NDArray[np.int64]) -> FineQueries:
        """Return some of the queries."""
        return FineQueries(self.values[lines], self.scales[lines])


def encode_rows(
    vectors: NDArray[np.float32], rotation: Rotation, row_bits: int = 8
) -> tuple[Rows, NDArray[np.float32]]:
    """Return the (N, dim) rows of unit-norm vectors, and the (N,) scales to multiply them with.

    Vectors are rotated first, so that one large coordinate does not cost the others their precision.
    """
    if row_bits == 0:
        return np.empty((len(vectors), 0), dtype=np.int8), np.zeros(len(vectors), dtype=np.float32)
    rotated = rotate(vectors, rotation)
    if row_bits == 8:
        return round_rows(rotated)
    scales, values = to_integers(rotated, FINE_LIMIT)
    return values.astype(np.int16), scales


def encode_fine(queries: NDArray[np.float32], rotation: Rotation) -> FineQueries:
    """Return unit-norm queries (Q, dim) as they are compared with rows."""
    scales, values = to_integers(rotate(queries, rotation), FINE_LIMIT)
    return FineQueries(values.astype(np.int16), scales)


def num_candidates(k: int, oversampling: float, min_candidates: int = MIN_CANDIDATES) -> int:
    """Return how many rows the codes let through for `k` results: ceil(oversampling * k), or the least there are."""
    if k < 1:
        raise InvalidInput(f"k must be at least 1, not {k}", param="k")
    if not 1.0 <= oversampling < math.inf:
        raise InvalidInput(f"oversampling must be at least 1.0, not {oversampling}", param="oversampling")
    return max(math.ceil(oversampling * k), min_candidates)


def estimate_cosines(queries: FineQueries, rows: Rows, scales: NDArray[np.float32]) -> Floats:
    """Return the (Q, C) cosines of each query with its own candidates.

    Args:
        queries: Q queries.
        rows: (Q, C, dim) rows of the candidates.
        scales: (Q, C) their scales.
    """
    products = rows.astype(np.float64) @ queries.values.astype(np.float64)[:, :, None]
    scale_products: Floats = scales.astype(np.float64) * queries.scales.astype(np.float64)[:, None]
    cosines: Floats = products[:, :, 0] * scale_products
    return cosines


def rescore(bounds: Floats, k: int, score: Callable[[slice, NDArray[np.int64]], Floats]) -> Floats:
    """Return the (Q, C) cosines of the candidates, -inf for those that cannot be among the `k` best.

    Args:
        bounds: (Q, C) what the cosine of each candidate is at most, descending.
        k: results.
        score: returns the cosines of some columns of some queries.
    """
    cosines = np.full(bounds.shape, -np.inf)
    active = np.arange(len(bounds))
    for first in range(0, bounds.shape[1], ROUND_SIZE):
        if first >= k:
            least = np.partition(cosines[active], -k, axis=1)[:, -k]
            active = active[bounds[active, first] > least]
        if not len(active):
            break
        columns = slice(first, first + ROUND_SIZE)
        cosines[active, columns] = score(columns, active)
    return cosines


def best_candidates(cosines: Floats, ids: NDArray[np.uint64], k: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return the ids and scores, in [-1, 1], of the `k` best of each line of (Q, C) candidates."""
    order = total_order(cosines, ids, np.isfinite(cosines))[:, :k]
    scores = np.clip(np.take_along_axis(cosines, order, axis=1), -1, 1).astype(np.float32)
    return np.take_along_axis(ids, order, axis=1), scores
