"""Quantisers that need no fitting: plain signs, and 1, 2 or 4 bits a coordinate after a seeded rotation.

Rotating first spreads what a vector holds evenly over its coordinates, so that few bits each lose little, whatever the
embedding model does with single coordinates. A rotated coordinate is nearly normal with variance 1 / dim, for which the
levels are the best evenly spaced ones.

Source: Gao and Long, "RaBitQ" (SIGMOD 2024), for sign codes after a random rotation; Max, "Quantizing for minimum
distortion" (1960), for the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.kernels.hadamard import Rotation, make_rotation, rotate
from holdfast.kernels.levels import to_levels
from holdfast.kernels.packing import check_bits
from holdfast.retrieval.quantise import Encoded, Parameters, check_vectors, make_id, to_bytes

STEPS = (0.0, 1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)
"""best distance of the 2 ** bits levels of a standard normal variable, by bits"""


@dataclass(frozen=True, slots=True)
class SignQuantiser:
    """The sign of each coordinate as it is: what most stores call binary quantisation."""

    scheme: ClassVar[str] = "sign"
    bits: ClassVar[int] = 1
    dim: int

    def __post_init__(self) -> None:
        _check_dim(self.dim)

    @property
    def code_dim(self) -> int:
        return self.dim

    @property
    def id(self) -> str:
        return make_id(self.scheme, self.parameters())

    @classmethod
    def fit(cls, sample: NDArray[np.float32], *, num_bits: int, seed: int = 0) -> SignQuantiser:
        if num_bits < sample.shape[1]:
            raise InvalidInput(f"sign codes take {sample.shape[1]} bits, not {num_bits}", param="num_bits")
        return cls(sample.shape[1])

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        return _to_even_levels(check_vectors(vectors, self.dim, "vectors"), 1)

    def project(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        weights = check_vectors(queries, self.dim, "queries") * _half_step(1, self.dim)
        return weights, np.zeros(len(weights), dtype=np.float32)

    def parameters(self) -> Parameters:
        return {"settings": np.array([self.dim], dtype=np.int64)}

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> SignQuantiser:
        (dim,) = parameters["settings"].tolist()
        return cls(dim)


@dataclass(frozen=True, slots=True)
class HadamardQuantiser:
    """Evenly spaced levels of the coordinates rotated by `dim` and `seed`: the same bits on every machine."""

    scheme: ClassVar[str] = "hadamard"
    dim: int
    bits: int = 1
    seed: int = 0
    _rotation: Rotation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        check_bits(self.bits)
        object.__setattr__(self, "_rotation", make_rotation(self.dim, self.seed))

    @property
    def code_dim(self) -> int:
        return self.dim

    @property
    def id(self) -> str:
        return make_id(self.scheme, self.parameters())

    @classmethod
    def fit(cls, sample: NDArray[np.float32], *, num_bits: int, seed: int = 0) -> HadamardQuantiser:
        """Return the most bits a coordinate that fit; only the width of `sample` matters."""
        dim = sample.shape[1]
        possible = [bits for bits in (1, 2, 4) if bits * dim <= num_bits]
        if not possible:
            raise InvalidInput(f"hadamard codes take at least {dim} bits, not {num_bits}", param="num_bits")
        return cls(dim, possible[-1], seed)

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        return _to_even_levels(rotate(check_vectors(vectors, self.dim, "vectors"), self._rotation), self.bits)

    def project(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        weights = rotate(check_vectors(queries, self.dim, "queries"), self._rotation) * _half_step(self.bits, self.dim)
        return weights, np.zeros(len(weights), dtype=np.float32)

    def parameters(self) -> Parameters:
        return {"settings": np.array([self.dim, self.bits, self.seed], dtype=np.int64)}

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> HadamardQuantiser:
        dim, bits, seed = parameters["settings"].tolist()
        return cls(dim, bits, seed)


def _to_even_levels(coordinates: NDArray[np.float32], bits: int) -> Encoded:
    """Return (N, dim) coordinates, of variance 1 / dim, as levels of `bits` bits."""
    dim = coordinates.shape[1]
    middles = np.zeros(dim, dtype=np.float32)
    units = np.full(dim, 2 * _half_step(bits, dim), dtype=np.float32)
    highest = np.full(dim, (1 << bits) - 1, dtype=np.float32)
    levels, factors = to_levels(coordinates, middles, units, highest)
    return Encoded(levels, to_bytes(factors))


def _half_step(bits: int, dim: int) -> np.float32:
    """Half the distance of two levels of a coordinate of variance 1 / dim: what one unit of the scan's levels is."""
    return np.float32(STEPS[bits] / 2 * dim**-0.5)


def _check_dim(dim: int) -> None:
    if dim < 1:
        raise InvalidInput(f"dim must be at least 1, not {dim}", param="dim")
