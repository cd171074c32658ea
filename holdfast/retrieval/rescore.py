"""Order candidates by better vectors: int8 rows against a 16-bit query.

Integer products are summed in float64, which is exact below 2^53 and so independent of the order of summation; the only
rounding is in two multiplications by the scales. Equal scores go by id.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.kernels.scan import total_order
from holdfast.retrieval.quantise import EncodedQueries

MIN_CANDIDATES = 100
"""rescoring so few costs next to nothing, and small `k` need the room most: ties crowd where texts are alike"""


def num_candidates(k: int, oversampling: float, min_candidates: int = MIN_CANDIDATES) -> int:
    """Return how many rows the codes let through for `k` results: ceil(oversampling * k), or the least there are."""
    if k < 1:
        raise InvalidInput(f"k must be at least 1, not {k}", param="k")
    if not 1.0 <= oversampling < math.inf:
        raise InvalidInput(f"oversampling must be at least 1.0, not {oversampling}", param="oversampling")
    return max(math.ceil(oversampling * k), min_candidates)


def estimate_cosines(
    queries: EncodedQueries, rows: NDArray[np.int8], scales: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the (Q, C) cosines of each query with its own candidates.

    Args:
        queries: Q queries.
        rows: (Q, C, dim) int8 rows of the candidates.
        scales: (Q, C) their scales.
    """
    products = rows.astype(np.float64) @ queries.fine.astype(np.float64)[:, :, None]
    scale_products: NDArray[np.float64] = scales.astype(np.float64) * queries.fine_scales.astype(np.float64)[:, None]
    cosines: NDArray[np.float64] = products[:, :, 0] * scale_products
    return cosines


def best_candidates(
    cosines: NDArray[np.float64], ids: NDArray[np.uint64], k: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return the ids and scores, in [-1, 1], of the `k` best of each line of (Q, C) candidates."""
    order = total_order(cosines, ids, np.ones(ids.shape, dtype=np.bool_))[:, :k]
    scores = np.clip(np.take_along_axis(cosines, order, axis=1), -1, 1).astype(np.float32)
    return np.take_along_axis(ids, order, axis=1), scores
