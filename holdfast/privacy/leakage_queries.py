"""Attacks of a store that also watches queries: neighbours from the transcript, and which queries are the same.

Scores are inner products, so a few hundred queries give away the geometry of the rows whatever the keys: scores do
not depend on the basis. Noise on the queries makes them better probes; only noise that differs between cells slows
the attacks.

Source: Kornaropoulos, Papamanthou, Tamassia, S&P 2019 and 2020, for leakage of nearest-neighbour queries; the geometric
mean of matrices as in Bhatia, "Positive definite matrices", 2007.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.privacy.leakage_view import (
    Corpus,
    Floats,
    View,
    auc,
    encode_queries,
    nearest,
    overlap,
    retrieved,
    top,
    unit,
)

NUM_LINKED = 200
NUM_SHOWN = 50


def transcript_overlap(view: View, corpus: Corpus, num_queries: int) -> dict[str, float]:
    """R5: the share of the true ten nearest rows that each attack finds after watching `num_queries` queries.

    `ids` uses only which rows were returned together; `gram` and `half power` the scores, standardised within each
    query and cell; `geometric mean` the encoded rows and queries, and it rotates the cells onto each
    other by the queries that they have in common.
    """
    if view.scores is None or view.queries is None:
        fetched = top(corpus.queries[:num_queries] @ corpus.vectors.T, view.mode.num_candidates)
        return {"ids": _overlap(_together(list(fetched), len(corpus.vectors)), corpus)}
    found = {"ids": _together(retrieved(view)[:num_queries], len(view.rows))}
    scores = _standardised(view, view.scores[:num_queries])
    found["gram"] = unit(np.ascontiguousarray(scores.T))
    values, vectors = np.linalg.eigh(scores.astype(np.float64) @ scores.T)
    kept = values > 1e-6 * values.max()
    directions = scores.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    found["half power"] = unit(directions * (values[kept] ** 0.25).astype(np.float32))
    overlaps = {name: _overlap(features, corpus) for name, features in found.items()}
    if view.mode.metric == "ip":
        features, own = _geometric_mean(view, num_queries)
        overlaps["geometric mean"] = _overlap(features, corpus)
        if view.num_cells > 1:
            overlaps["geometric mean by cell"] = overlap(nearest(own, corpus.anchors, view.cells), corpus.neighbours)
    return overlaps


def linkability(view: View, corpus: Corpus) -> tuple[float, float | None]:
    """R6: how well a question asked twice, and one asked in other words, is told from two questions. Chance is 0.5.

    By the angle of the encodings, the correlation of the scores, and the shared best rows; the best of the three.
    """
    if view.queries is None:
        return 0.5, 0.5
    count = min(NUM_LINKED, len(corpus.queries))
    repeated = encode_queries(view.mode, corpus.queries[:count])
    linked = _linked(_evidence(view, view.queries[:count]), _evidence(view, repeated))
    count = min(count, len(corpus.paraphrases))
    if count < 2:
        return linked, None
    paraphrased = encode_queries(view.mode, corpus.paraphrases[:count], name="paraphrase")
    return linked, _linked(_evidence(view, view.queries[:count]), _evidence(view, paraphrased))


def _linked(first: list[Floats], second: list[Floats]) -> float:
    found = []
    for left, right in zip(first, second, strict=True):
        similarities = left @ right.T
        same = np.eye(len(left), dtype=bool)
        found.append(auc(similarities[same], similarities[~same]))
    return max(found)


def _evidence(view: View, queries: Floats) -> list[Floats]:
    """Return features of encoded queries whose inner products say how alike two of them are."""
    scores = np.empty((len(queries), len(view.rows)), dtype=np.float32)
    for cell, rows in enumerate(view.members()):
        scores[:, rows] = queries[:, cell] @ view.rows[rows].T
    if view.mode.metric == "l2":
        scores -= 0.5 * np.einsum("nd,nd->n", view.rows, view.rows)
    scores = _standardised(view, scores)
    shown = np.zeros_like(scores)
    np.put_along_axis(shown, top(scores, NUM_SHOWN), 1.0, axis=1)
    directions = unit(queries.reshape(-1, queries.shape[2])).reshape(len(queries), -1)
    return [unit(directions), unit(scores), shown]


def _standardised(view: View, scores: Floats) -> Floats:
    """Return scores of mean 0 and deviation 1 within each query and cell, which removes a query's factor."""
    scores = scores.copy()
    for rows in view.members():
        if len(rows):
            part = scores[:, rows]
            part = part - part.mean(axis=1, keepdims=True)
            scores[:, rows] = part / np.maximum(part.std(axis=1, keepdims=True), 1e-9)
    return np.asarray(scores - scores.mean(axis=0))


def _together(fetched: list[NDArray[np.int64]], num_rows: int) -> Floats:
    """Return features of rows by the queries that returned them."""
    shown = np.zeros((num_rows, len(fetched)), dtype=np.float32)
    for query, rows in enumerate(fetched):
        shown[rows, query] = 1.0
    return unit(shown)


def _geometric_mean(view: View, num_queries: int) -> tuple[Floats, Floats]:
    """Return the rows in a basis in which rows and queries have equal covariance, as unit vectors.

    With rows Z M and queries Y M^-T of like covariance, A = cov(rows), B = cov(queries): the geometric mean of A^-1
    and B is M^-1 M^-T up to a factor, the Gram matrix without the key. It is L^-T (L^T B L)^1/2 L^-1 where A = L L^T.

    Returns:
        (N, width) with the cells rotated onto the first, by the queries that they have in common.
        (N, width) each cell in a basis of its own.
    """
    assert view.queries is not None
    features = np.zeros(view.rows.shape, dtype=np.float32)
    own = np.zeros_like(features)
    reference: Floats | None = None
    for cell, rows in enumerate(view.members()):
        if len(rows) < 2:
            continue
        seen = view.rows[rows] - view.rows[rows].mean(axis=0)
        asked = unit(view.queries[:num_queries, cell])
        factor = np.linalg.cholesky(_covariance(seen))
        values, vectors = np.linalg.eigh(factor.T @ _covariance(asked) @ factor)
        roots = np.maximum(values, 1e-12) ** 0.25
        own[rows] = unit((seen @ np.linalg.solve(factor.T, vectors * roots)).astype(np.float32))
        asked_moved = unit((asked @ (factor @ (vectors / roots))).astype(np.float32))
        if reference is None:
            reference = asked_moved
        features[rows] = unit(own[rows] @ _rotation_onto(asked_moved, reference))
    return features, own


def _rotation_onto(left: Floats, right: Floats) -> Floats:
    """Return the (width, width) rotation that brings `left` (Q, width) nearest to `right`: orthogonal Procrustes.

    Of fewer queries than dimensions, directions that no query shows are left out: nothing says how they lie.
    """
    if len(left) >= left.shape[1]:
        first, _, second = np.linalg.svd(left.T @ right)
        return np.asarray(first @ second)
    left_basis, left_part = np.linalg.qr(left.T)
    right_basis, right_part = np.linalg.qr(right.T)
    first, _, second = np.linalg.svd(left_part @ right_part.T)
    return np.asarray((left_basis @ first) @ (second @ right_basis.T))


def _covariance(rows: Floats) -> NDArray[np.float64]:
    plain = rows.astype(np.float64)
    covariance = plain.T @ plain / len(plain)
    return np.asarray(covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))


def _overlap(features: Floats, corpus: Corpus) -> float:
    return overlap(nearest(features, corpus.anchors), corpus.neighbours)
