"""Maps learned from pairs: what an adversary fits between encoded and plain vectors.

Every fit chooses its own regularisation on a fifth of its pairs, held out, as an adversary would.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.leakage_view import Floats, unit

RIDGES = 10.0 ** np.arange(-6, 3)
"""relative to the mean variance of a coordinate"""

MAX_ALTERNATIONS = 30

Map = Callable[[Floats], Floats]


def fit_linear(inputs: Floats, targets: Floats) -> Map:
    """Return the affine ridge regression of `targets` (k, e) on `inputs` (k, d); the mean, of under 5 pairs."""
    if len(inputs) < 5:
        guess = targets.mean(axis=0) if len(targets) else np.zeros(targets.shape[1], np.float32)
        return lambda rows: np.broadcast_to(guess, (len(rows), len(guess)))
    held_out = np.arange(len(inputs)) % 5 == 4
    solve = _solver(inputs[~held_out], targets[~held_out])
    errors = []
    for ridge in RIDGES:
        weights, offset = solve(ridge)
        errors.append(np.square(inputs[held_out] @ weights + offset - targets[held_out]).mean())
    weights, offset = _solver(inputs, targets)(float(RIDGES[int(np.argmin(errors))]))
    return lambda rows: rows @ weights + offset


def fit_rotation(inputs: Floats, targets: Floats) -> Map:
    """Return the orthogonal map, with one scale and shift, nearest to the pairs: orthogonal Procrustes."""
    centre, shift = inputs.mean(axis=0), targets.mean(axis=0)
    left, _, right = np.linalg.svd((inputs - centre).T @ (targets - shift), full_matrices=False)
    rotation = left @ right
    return lambda rows: (rows - centre) @ rotation + shift


def fit_permutation(inputs: Floats, targets: Floats) -> Map:
    """Return the permutation of coordinates whose correlations over the pairs are largest, by optimal assignment."""
    from scipy.optimize import linear_sum_assignment  # takes a second to import, and only this attack needs it

    def standardised(values: Floats) -> Floats:
        centred = values - values.mean(axis=0)
        return unit(np.ascontiguousarray(centred.T))

    columns, rows = linear_sum_assignment(-(standardised(targets) @ standardised(inputs).T))
    order = rows[np.argsort(columns)]
    return lambda values: values[:, order]


def fit_scaled_queries(queries: Floats, encoded: Floats) -> NDArray[np.float64]:
    """Return the (dim, width) matrix A of encoded queries e = r (A^T q + b + a little), r > 0 unknown for each query.

    Alternates between matrix and offset, and the factors, both of which are least squares; it ends in A up to a factor.
    """
    plain = np.concatenate([queries, np.ones((len(queries), 1))], axis=1, dtype=np.float64)
    seen = encoded.astype(np.float64)
    solver = np.linalg.pinv(plain)
    matrix = solver @ seen
    scales = np.ones(len(seen))
    for _ in range(MAX_ALTERNATIONS):
        before, predicted = scales, plain @ matrix
        scales = np.einsum("nd,nd->n", predicted, seen) / np.einsum("nd,nd->n", predicted, predicted)
        scales = np.clip(scales / np.median(scales), 0.1, 10.0)
        matrix = solver @ (seen / scales[:, None])
        if np.abs(scales - before).max() < 1e-5:
            break
    return np.asarray(matrix[:-1])


def _solver(inputs: Floats, targets: Floats) -> Callable[[float], tuple[Floats, Floats]]:
    """Return ridge regression for any ridge after one decomposition, of whichever side is smaller."""
    centre, shift = inputs.mean(axis=0), targets.mean(axis=0)
    x, y = (inputs - centre).astype(np.float64), (targets - shift).astype(np.float64)
    is_wide = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
    values = np.maximum(values, 0)
    projected = vectors.T @ (y if is_wide else x.T @ y)
    unit_ridge = values.sum() / x.shape[1] + 1e-30

    def solve(ridge: float) -> tuple[Floats, Floats]:
        solved = vectors @ (projected / (values + ridge * unit_ridge)[:, None])
        weights = (x.T @ solved if is_wide else solved).astype(np.float32)
        return weights, shift - centre @ weights

    return solve
