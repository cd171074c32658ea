"""How many rows to fetch so that the best of them are among them: the store ranks by noisy scores, the caller reorders.

`rank_encoded` is what an exact store returns. `recall_curve` says beforehand, from plain vectors, what a number of
candidates will find: row noise is drawn as the normal numbers that it is in any one direction, query noise as it will
be drawn. It takes no key, so that parameters can be chosen before anything is encoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.privacy.distance import Asym, CipherVector, Metric, PlainVector

DEFAULT_CANDIDATES = 128
NOISY_CANDIDATES = 256
"""where the query carries noise as well"""


def quota(num_candidates: int, num_cells: int) -> int:
    """Return how many rows to ask of each cell: scores of two cells cannot be compared."""
    return -(-num_candidates // num_cells)


def rank_encoded(metric: Metric, rows: CipherVector, query: CipherVector, num_candidates: int) -> NDArray[np.int64]:
    """Return the rows that an exact store answers with: each cell's best, ties to the lower row, cell after cell.

    Args:
        metric: the encoding's.
        rows: N encoded rows.
        query: one encoded query, row c for cell c.
        num_candidates: over all cells; rounded up to a multiple of their number.
    """
    wanted = quota(num_candidates, len(query.cells))
    found = []
    for cell, values in zip(query.cells, query.values, strict=True):
        members = np.flatnonzero(rows.cells == cell)
        found.append(_best(members, _scores(metric, rows.values[members], values), wanted))
    return np.concatenate(found)


def row_deviation(parameters: Asym, dim: int) -> float:
    """Return the standard deviation of what noise and padding of a row add to its score with a query of length 1.

    A point uniform in a d-ball of radius R has variance R^2 / (d + 2) in any direction. Two rows that differ by less
    than about 1.4 times this change places often; differences of six times this are safe.
    """
    padding = parameters.num_pads(dim) * (parameters.row_padding(dim) * parameters.query_padding) ** 2
    return math.sqrt(parameters.noise_radius**2 / (dim + 2) + padding)


def recall_curve(
    queries: PlainVector,
    vectors: PlainVector,
    cells: NDArray[np.int32],
    num_candidates: Sequence[int],
    *,
    k: int,
    row_deviation: float,
    query_deviation: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Return the expected recall@k of fetching so many candidates and reordering them exactly.

    Args:
        queries: (Q, dim), real ones, 500 or more.
        vectors: (N, dim).
        cells: (N,) the rows' cells.
        num_candidates: one number of candidates for each point of the curve.
        k: how many results are wanted.
        row_deviation: see the function of that name.
        query_deviation: standard deviation of each coordinate of Gaussian query noise, drawn for each cell.
        seed: of the draws, which are no secret.

    Cost: Q N (2 dim) operations; holds one (Q, N / num_cells) block at a time.
    """
    rng = np.random.default_rng(seed)
    exact = queries.values @ vectors.values.T
    truth = np.argpartition(-exact, k - 1, axis=1)[:, :k]
    is_true = np.zeros(exact.shape, dtype=bool)
    np.put_along_axis(is_true, truth, True, axis=1)
    num_cells = int(cells.max(initial=0)) + 1
    hits = np.zeros(len(num_candidates))
    for cell in range(num_cells):
        members = np.flatnonzero(cells == cell)
        noisy = queries.values + query_deviation * rng.standard_normal(queries.values.shape, dtype=np.float32)
        scores = noisy @ vectors.values[members].T
        scores += row_deviation * rng.standard_normal(len(members), dtype=np.float32)
        is_true_here = np.take_along_axis(is_true[:, members], np.argsort(-scores, axis=1, kind="stable"), axis=1)
        for point, number in enumerate(num_candidates):
            hits[point] += is_true_here[:, : quota(number, num_cells)].sum()
    return [float(found / (k * len(queries.values))) for found in hits]


def smallest_overfetch(num_candidates: Sequence[int], recalls: Sequence[float], wanted: float) -> int:
    """Return the first number of candidates whose recall reaches `wanted`.

    Raises:
        InvalidInput: none does; fewer noise or more candidates are needed.
    """
    for number, recall in zip(num_candidates, recalls, strict=True):
        if recall >= wanted:
            return number
    raise InvalidInput(f"no number of candidates up to {max(num_candidates)} reaches recall {wanted}", param="wanted")


def _scores(metric: Metric, rows: NDArray[np.generic], query: NDArray[np.generic]) -> NDArray[np.float64]:
    """Higher is nearer."""
    if metric == "hamming":
        bits = np.bitwise_count(np.bitwise_xor(rows.astype(np.uint8), query.astype(np.uint8)))
        return np.asarray(-bits.sum(axis=1, dtype=np.int64), dtype=np.float64)
    plain, other = rows.astype(np.float64), query.astype(np.float64)
    products = plain @ other
    return np.asarray(products if metric == "ip" else 2.0 * products - np.einsum("nd,nd->n", plain, plain))


def _best(members: NDArray[np.int64], scores: NDArray[np.float64], wanted: int) -> NDArray[np.int64]:
    return members[np.argsort(-scores, kind="stable")[:wanted]]
