"""The search of an index's segments: candidates by codes, then their order by better rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.kernels.hadamard import Rotation
from holdfast.kernels.row_scores import best_rows
from holdfast.retrieval.calibrate import Calibration
from holdfast.retrieval.candidates import Scope, candidate_rows, find_candidates
from holdfast.retrieval.rescore import encode_fine

QUERY_SLICE = 64  # queries searched at a time: one reading of the codes serves them all


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The `k` nearest rows of each query; shorter corpora leave fewer columns."""

    ids: NDArray[np.uint64]
    """(Q, K)"""
    scores: NDArray[np.float32]
    """(Q, K), estimated cosine in [-1, 1], descending"""
    num_scanned: int
    """codes compared with each query"""
    num_rescored: NDArray[np.int64]
    """(Q,) candidates compared by better vectors than codes"""


def search_segments(
    scopes: Sequence[Scope],
    queries: NDArray[np.float32],
    k: int,
    wanted: int,
    *,
    calibrations: Mapping[str, Calibration],
    rotation: Rotation,
    by_codes: bool,
    num_threads: int | None,
) -> SearchResult:
    """Return the `k` nearest of each unit-norm query (Q, dim) among the rows that the scopes allow.

    Args:
        scopes: of different segments.
        queries: (Q, dim) float32.
        k: results.
        wanted: candidates, at least `k`.
        calibrations: by the quantiser's id.
        rotation: of the int8 rows.
        by_codes: order by the codes alone.
        num_threads: as for `scan_top_k`.
    """
    scopes = [scope for scope in scopes if scope.num_allowed]
    num_scanned = sum(scope.num_allowed for scope in scopes)
    shape = (len(queries), min(k, num_scanned))
    found = SearchResult(
        np.empty(shape, dtype=np.uint64), np.empty(shape, dtype=np.float32), num_scanned, np.zeros(len(queries), int)
    )
    for first in range(0, len(queries) if num_scanned else 0, QUERY_SLICE):
        part = slice(first, first + QUERY_SLICE)
        candidates = find_candidates(scopes, queries[part], wanted, calibrations, num_threads)
        if by_codes:
            columns = np.lexsort((candidates.ids, -candidates.estimates), axis=1)[:, : shape[1]]
            cosines = candidates.estimates[np.arange(len(columns))[:, None], columns]
            found.num_rescored[part] = (candidates.rows >= 0).sum(axis=1)
        else:
            rows, scales, chosen = candidate_rows(scopes, candidates)
            fine = encode_fine(queries[part], rotation)
            best = best_rows(rows, scales, chosen, candidates.ids, candidates.bounds, *fine, top_k=shape[1])
            columns, cosines, found.num_rescored[part] = best
        found.ids[part] = candidates.ids[np.arange(len(columns))[:, None], columns]
        found.scores[part] = np.clip(cosines, -1, 1)
    return found
