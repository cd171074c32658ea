"""What the codes let through: the best rows of each quantiser's segments, with a bound on their cosines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.retrieval.calibrate import Calibration
from holdfast.retrieval.code_search import encode_queries, search_codes
from holdfast.retrieval.segment import Segment, take

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows of a segment that a search may find."""

    segment: Segment
    masks: NDArray[np.uint32] | None
    """(num_blocks(N),) of those rows, None: all"""
    num_allowed: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of each query, by (bound, estimate, id); all arrays are (Q, C)."""

    owners: NDArray[np.int64]
    """positions of segments"""
    rows: NDArray[np.int64]
    """in the segment, -1 where there is none"""
    ids: NDArray[np.uint64]
    estimates: Floats
    """of the cosine, -inf where there is none"""
    bounds: Floats
    """what the cosine is at most, all but certainly; -inf where there is none"""

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return the fields in the order they are declared in."""
        return self.owners, self.rows, self.ids, self.estimates, self.bounds

    def first(self, wanted: int) -> Candidates:
        """Return the first `wanted` by (present, bound, estimate, id)."""
        order = np.lexsort((self.ids, -self.estimates, -self.bounds, self.rows < 0), axis=1)[:, :wanted]
        return Candidates(*(np.take_along_axis(array, order, axis=1) for array in self.arrays()))


def find_candidates(
    scopes: Sequence[Scope],
    queries: NDArray[np.float32],
    wanted: int,
    calibrations: Mapping[str, Calibration],
    num_threads: int | None,
) -> Candidates:
    """Return the best `wanted` rows of the scopes of each quantiser.

    Args:
        scopes: at least one, each of which allows some row.
        queries: (Q, dim) unit-norm.
        wanted: candidates a quantiser.
        calibrations: by the quantiser's id; without one a cosine may be anything.
        num_threads: as for `scan_top_k`.
    """
    groups: dict[str, list[int]] = {}
    for owner, scope in enumerate(scopes):
        groups.setdefault(scope.segment.quantiser.id, []).append(owner)
    parts = [
        _scan_group(scopes, owners, queries, wanted, calibrations.get(name), num_threads)
        for name, owners in groups.items()
    ]
    if len(parts) == 1:
        return parts[0]
    joined = Candidates(
        *(np.concatenate(arrays, axis=1) for arrays in zip(*(part.arrays() for part in parts), strict=True))
    )
    return joined.first(joined.ids.shape[1])


def _scan_group(
    scopes: Sequence[Scope],
    owners: list[int],
    queries: NDArray[np.float32],
    wanted: int,
    calibration: Calibration | None,
    num_threads: int | None,
) -> Candidates:
    """Return the candidates of the scopes `owners`, which share a quantiser."""
    gain, margin = (1.0, math.inf) if calibration is None else (calibration.gain, calibration.margin)
    encoded = encode_queries(scopes[owners[0]].segment.quantiser, queries, gain)
    wanted = min(wanted, sum(scopes[owner].num_allowed for owner in owners))
    found = []
    for owner in owners:
        segment, masks = scopes[owner].segment, scopes[owner].masks
        codes, factors, ids = segment.codes.whole(), segment.factors.whole(), segment.ids.whole()
        most = min(wanted, segment.num_rows)
        found.append(search_codes(encoded, codes, factors, ids, most, allowed=masks, num_threads=num_threads))
    estimates = np.concatenate([estimates for estimates, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    positions = np.repeat(np.array(owners), [rows.shape[1] for _, rows in found])
    positions = np.broadcast_to(positions, rows.shape)
    ids = take([scope.segment for scope in scopes], "ids", positions, np.maximum(rows, 0))
    bounds = np.full(estimates.shape, -np.inf)
    np.add(estimates, margin, out=bounds, where=rows >= 0)
    candidates = Candidates(positions, rows, ids, estimates, bounds)
    return candidates if len(owners) == 1 else candidates.first(wanted)


def candidate_rows(
    scopes: Sequence[Scope], found: Candidates
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int64]]:
    """Return int8 rows (N, dim), their scales (N,), and which of them (Q, C) the candidates are, -1 where none is.

    The rows of one segment are its own; those of several are copied.
    """
    segments, rows = [scope.segment for scope in scopes], np.maximum(found.rows, 0)
    if len(segments) == 1:
        return segments[0].rows.checked(rows), segments[0].scales.checked(rows), found.rows
    copied = take(segments, "rows", found.owners, rows)
    chosen = np.where(found.rows < 0, -1, np.arange(rows.size).reshape(rows.shape))
    return copied.reshape(rows.size, -1), take(segments, "scales", found.owners, rows).ravel(), chosen
