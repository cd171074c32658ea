"""Quantisers: how unit-norm float vectors become the levels of a code, and queries the weights to read it with.

Every code is read in one way, which is what the scan computes: level by level times a weight, added up. So the schemes
differ only in their encoder and their weights, and an index holds segments of several at once. A quantiser never
changes; its `id` names the scheme and the digest of its parameters, which are stored with the codes.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, InvalidInput, ShapeError

NORM_TOLERANCE = 0.01
FACTOR_UNITS = 128

Parameters = dict[str, NDArray[Any]]


class Encoded(NamedTuple):
    """What becomes of N vectors."""

    levels: NDArray[np.uint8]
    """(N, code_dim)"""
    factors: NDArray[np.uint8]
    """(N,) in units of 1 / FACTOR_UNITS"""


class Quantiser(Protocol):
    """One way to encode. Codes are comparable only if their quantisers' ids are equal.

    The cosine of a query and a vector is estimated as offset + factor * sum over the code's places j of
    weights[j] * (2 * levels[j] - (2 ** bits - 1)), where offset and weights are the query's, factor and levels the
    vector's.
    """

    scheme: ClassVar[str]
    """its name in `SCHEMES`"""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def bits(self) -> int:
        """Bits a level: 1, 2 or 4."""
        ...

    @property
    def code_dim(self) -> int:
        """Levels a code."""
        ...

    @property
    def id(self) -> str:
        """Scheme and digest of the parameters, as `quantiser_id` gives it."""
        ...

    @classmethod
    def fit(cls, sample: NDArray[np.float32], *, num_bits: int, seed: int = 0) -> Self:
        """Return a quantiser of at most `num_bits` bits a code for vectors like `sample`, (N, dim) of unit norm."""
        ...

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        """Encode unit-norm vectors (N, dim): a vector gives the same in any batch."""
        ...

    def project(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights (Q, code_dim) and offsets (Q,) of unit-norm queries (Q, dim)."""
        ...

    def parameters(self) -> Parameters:
        """Return what `from_parameters` makes the same quantiser from."""
        ...

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> Self:
        """Return the quantiser that `parameters` came from."""
        ...


SCHEMES = {
    "sign": ("holdfast.retrieval.quantise_rotated", "SignQuantiser"),
    "hadamard": ("holdfast.retrieval.quantise_rotated", "HadamardQuantiser"),
    "mib": ("holdfast.retrieval.quantise_mib", "MibQuantiser"),
    "recurrent": ("holdfast.retrieval.recurrent", "RecurrentQuantiser"),
}
"""scheme -> module and class; each is imported when first asked for"""


def find_scheme(scheme: str) -> type[Quantiser]:
    """Return the class of a scheme. Raises InvalidInput naming those there are."""
    if scheme not in SCHEMES:
        raise InvalidInput(f"quantiser scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}", param="scheme")
    module, name = SCHEMES[scheme]
    found: type[Quantiser] = getattr(import_module(module), name)
    return found


def load_quantiser(quantiser_id: str, parameters: Parameters) -> Quantiser:
    """Return the quantiser that was stored. Raises IntegrityError where the parameters are not those of `id`."""
    try:
        quantiser = find_scheme(quantiser_id.partition(":")[0]).from_parameters(parameters)
    except (InvalidInput, KeyError, ValueError) as error:
        raise IntegrityError(f"codes are of {quantiser_id}, which this release does not know: {error}") from error
    if quantiser.id != quantiser_id:
        raise IntegrityError(f"codes are of {quantiser_id}, but the parameters beside them of {quantiser.id}")
    return quantiser


def make_id(scheme: str, parameters: Parameters) -> str:
    """Return the scheme and the first 64 bits of BLAKE2b over names, types, shapes and values."""
    digest = blake2b(digest_size=8)
    for name, array in sorted(parameters.items()):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{name} {little.dtype.str} {little.shape}\0".encode())
        digest.update(little.tobytes())
    return f"{scheme}:{digest.hexdigest()}"


def check_vectors(vectors: NDArray[np.float32], dim: int, param: str) -> NDArray[np.float32]:
    """Return `vectors` as float32 if they are (N, dim) of length 1; else raise an error that names the row."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ShapeError(f"{param} must be (N, {dim}), not of shape {vectors.shape}", param=param)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
    if len(wrong):
        row = int(wrong[0])
        raise InvalidInput(f"{param}[{row}] must have length 1, not {norms[row]}: divide it by it", param=param)
    return vectors


def to_bytes(factors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return factors (N,) in the units that are stored, at least 1 of them and at most 255."""
    stored: NDArray[np.uint8] = np.clip(np.rint(factors * np.float32(FACTOR_UNITS)), 1, 255).astype(np.uint8)
    return stored
