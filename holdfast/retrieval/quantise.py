"""Unit-norm float vectors to 1-bit codes and int8 rows, and queries to integers, by one seeded rotation.

Rotating first spreads what a vector holds evenly over its coordinates, so that one sign each (the code) and 8 bits each
(the row) lose little, whatever the embedding model does with single coordinates. Every rounding is to nearest, half to
even, after float32 arithmetic in a fixed order: the same vector gives the same bits on every machine.

Source: Gao and Long, "RaBitQ" (SIGMOD 2024), for sign codes after a random rotation with an integer query.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.hadamard import Rotation, make_rotation, rotate
from holdfast.kernels.packing import pack

SCHEME = "hadamard-sign-1"
ROW_LIMIT = 127
COARSE_LIMIT = 127
FINE_LIMIT = 32767
NORM_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class EncodedVectors:
    """What the index keeps of N vectors."""

    codes: NDArray[np.uint8]
    """(num_blocks(N), num_code_bytes(dim), 32) signs of the rotated vectors"""
    rows: NDArray[np.int8]
    """(N, dim) rotated vectors in units of their scale"""
    scales: NDArray[np.float32]
    """(N,) largest magnitude of the rotated vector / 127"""


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """Q queries as integers: coarse ones to compare with codes, fine ones to compare with int8 rows."""

    coarse: NDArray[np.int8]
    """(Q, dim)"""
    fine: NDArray[np.int16]
    """(Q, dim)"""
    fine_scales: NDArray[np.float32]
    """(Q,) largest magnitude of the rotated query / 32767"""


@dataclass(frozen=True, slots=True)
class Quantiser:
    """The rotation named by `dim` and `seed`. Codes are comparable only if their quantisers' ids are equal."""

    dim: int
    seed: int = 0
    _rotation: Rotation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise InvalidInput(f"dim must be at least 1, not {self.dim}", param="dim")
        object.__setattr__(self, "_rotation", make_rotation(self.dim, self.seed))

    @property
    def id(self) -> str:
        """Scheme, dimension and seed; written into saved files."""
        return f"{SCHEME}:dim={self.dim}:seed={self.seed}"

    def encode(self, vectors: NDArray[np.float32]) -> EncodedVectors:
        """Encode (N, dim) unit-norm vectors."""
        rotated = self._rotate(vectors, "vectors")
        scales, rows = _to_integers(rotated, ROW_LIMIT)
        return EncodedVectors(pack(rotated >= 0), rows.astype(np.int8), scales)

    def encode_queries(self, queries: NDArray[np.float32]) -> EncodedQueries:
        """Encode (Q, dim) unit-norm queries."""
        rotated = self._rotate(queries, "queries")
        _, coarse = _to_integers(rotated, COARSE_LIMIT)
        fine_scales, fine = _to_integers(rotated, FINE_LIMIT)
        return EncodedQueries(coarse.astype(np.int8), fine.astype(np.int16), fine_scales)

    def _rotate(self, vectors: NDArray[np.float32], param: str) -> NDArray[np.float32]:
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ShapeError(f"{param} must be (N, {self.dim}), not of shape {vectors.shape}", param=param)
        norms = np.linalg.norm(vectors, axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
        if len(wrong):
            row = int(wrong[0])
            raise InvalidInput(f"{param}[{row}] must have length 1, not {norms[row]}: divide it by it", param=param)
        return rotate(vectors, self._rotation)


def _to_integers(rotated: NDArray[np.float32], limit: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the (N,) scales and the whole numbers, within +-limit, that `rotated` is in units of them."""
    scales = np.abs(rotated).max(axis=1, initial=0) / np.float32(limit)
    return scales, np.clip(np.rint(rotated / scales[:, None]), -limit, limit)
