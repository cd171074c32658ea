"""A new embedding model over an index of the old one's vectors: its questions are mapped, its passages come later.

A map from the new space to the old is fitted on texts that both models embedded. Questions of the new model then
search the old codes as they are, and passages are encoded again when there is time: `UpgradingIndex` holds both kinds,
and once the last old one is gone it is the new model's index and nothing else.

The map is a rotation (the nearest there is, which keeps the geometry) or, where that loses, a linear map held near one:
least squares with a penalty on its distance from the rotation, whose weight is chosen on texts left out of the fit.

Source: lambda-orthogonality regularisation for backward-compatible representations (arXiv 2509.16664), with a closed
form in place of training; Schönemann, "A generalized solution of the orthogonal Procrustes problem" (1966).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.retrieval.index import BinaryIndex

MIN_SAMPLE = 64
HELD_OUT = 5
"""one text in so many chooses the weight of the penalty"""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
"""in units of the samples' mean energy a dimension; infinite: the rotation itself"""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class UpgradeMap:
    """From the new model's vectors to the old one's.

    Attributes:
        matrix: (new dim, old dim) float32.
        new_mean: (new dim,) subtracted first.
        old_mean: (old dim,) added last.
        penalty: what was chosen of PENALTIES.
        gain: a cosine in the new space is about gain times the mapped one, plus offset.
        offset: see gain.
    """

    matrix: Floats
    new_mean: Floats
    old_mean: Floats
    penalty: float
    gain: float
    offset: float

    @classmethod
    def fit(cls, new: Floats, old: Floats) -> UpgradeMap:
        """Fit to the unit-norm vectors (N, new dim) and (N, old dim) of the same texts.

        Cost: N * dim^2 and a few times dim^3 multiplications: under a second for 10,000 texts.
        """
        if new.ndim != 2 or old.ndim != 2 or len(new) != len(old):
            raise ShapeError(f"new and old must be of the same texts, not {new.shape}, {old.shape}", param="new")
        if len(new) < MIN_SAMPLE:
            raise InvalidInput(f"a map is fitted to at least {MIN_SAMPLE} texts, not {len(new)}", param="new")
        is_held = np.arange(len(new)) % HELD_OUT == 0
        fitted = [cls._solve(new[~is_held], old[~is_held], penalty) for penalty in PENALTIES]
        errors = [_error(each.to_old(new[is_held]), old[is_held]) for each in fitted]
        best = int(np.argmin(errors))
        return cls._solve(new, old, PENALTIES[best])

    def to_old(self, vectors: Floats) -> Floats:
        """Return (N, old dim) unit-norm vectors that the old space's can be compared with."""
        mapped = (vectors - self.new_mean) @ self.matrix + self.old_mean
        return _single(mapped / np.linalg.norm(mapped, axis=1, keepdims=True))

    @classmethod
    def _solve(cls, new: Floats, old: Floats, penalty: float) -> UpgradeMap:
        new_mean, old_mean = new.mean(axis=0, dtype=np.float64), old.mean(axis=0, dtype=np.float64)
        left, right = new - new_mean, old - old_mean
        outer, _, inner = np.linalg.svd(left.T @ right, full_matrices=False)
        matrix = outer @ inner
        if np.isfinite(penalty):
            moments = left.T @ left
            weight = penalty * np.trace(moments) / len(moments)
            matrix = np.linalg.solve(moments + weight * np.eye(len(moments)), left.T @ right + weight * matrix)
        unscaled = cls(_single(matrix), _single(new_mean), _single(old_mean), penalty, 1.0, 0.0)
        gain, offset = _fit_line(unscaled.to_old(new), old, new)
        return cls(unscaled.matrix, unscaled.new_mean, unscaled.old_mean, penalty, gain, offset)


class UpgradingIndex:
    """Passages of which some are embedded by an old model still, searched together by the new model's questions.

    Each passage is in one of the two indexes. Old ones are found through the map, and their cosines brought to the new
    space's scale; once `backfill` has replaced all, results are those of an index of the new model from the start.
    """

    def __init__(self, old: BinaryIndex, new: BinaryIndex, upgrade: UpgradeMap) -> None:
        self.old = old
        self.new = new
        self._upgrade = upgrade

    @property
    def is_done(self) -> bool:
        """True when no passage is the old model's."""
        return len(self.old) == 0

    def backfill(self, ids: NDArray[np.uint64], vectors: Floats) -> int:
        """Replace old passages by the new model's vectors (N, new dim) of them; return how many were old.

        Ids that were removed meanwhile are passed over. An id is never in neither: it is added before it is removed.
        """
        is_old = np.isin(ids, self.old.ids())
        self.new.add(ids[is_old], vectors[is_old])
        return self.old.remove(ids[is_old])

    def search(self, queries: Floats, k: int) -> tuple[NDArray[np.uint64], Floats]:
        """Return ids and cosines, (Q, K) each, of the best `k` for the new model's questions, then by id."""
        fresh = self.new.search(queries, k)
        mapped = self.old.search(self._upgrade.to_old(queries), k)
        scaled = (self._upgrade.gain * mapped.scores + self._upgrade.offset).astype(np.float32)
        ids = np.concatenate([fresh.ids, mapped.ids], axis=1)
        scores = np.concatenate([fresh.scores, np.clip(scaled, -1, 1)], axis=1)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _fit_line(mapped: Floats, old: Floats, new: Floats) -> tuple[float, float]:
    """Return gain and offset that turn cosines of mapped and old vectors into those of the new space."""
    half = len(new) // 2
    through_map = np.einsum("ij,ij->i", mapped[:half], old[half : 2 * half]).astype(np.float64)
    direct = np.einsum("ij,ij->i", new[:half], new[half : 2 * half]).astype(np.float64)
    through_map = np.concatenate([through_map, np.einsum("ij,ij->i", mapped, old)])
    direct = np.concatenate([direct, np.ones(len(new))])
    gain, offset = np.polyfit(through_map, direct, 1)
    return max(float(gain), 1e-3), float(offset)


def _error(mapped: Floats, old: Floats) -> float:
    return float(np.mean(np.sum((mapped - old) ** 2, axis=1)))


def _single(values: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float32)
