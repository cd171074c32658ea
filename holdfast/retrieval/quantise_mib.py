"""Maximally informative bits: a quantiser fitted to one collection, that spends each bit where it tells most.

Vectors are centred on the collection's mean and projected on its principal axes. Directions of large variance get
several bits, those of small variance none: reverse water-filling, which for normal variables is the code of a given
size from which most of the vector can be told. Axes with equally many bits are rotated among themselves so that the
levels fit best (iterative quantisation). A direction of b bits takes b places of the code, with weights 1, 2, 4 ...,
so the scan reads it like any 1-bit code.

Projections are sums of whole numbers below 2^24 (vectors in units of 2^-12, axes of 2^-11), so float32 arithmetic is
exact: a vector gives the same code in any batch, on any number of threads and on any machine. Fitting is not, so the
fitted axes are stored with the codes and their digest is the quantiser's version.

Source: Cover and Thomas, "Elements of information theory", section 10.3.3; Gong and Lazebnik, "Iterative quantization"
(CVPR 2011); the aim, maximally informative binarisation, as in arXiv 2601.11557.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.kernels.hadamard import make_rotation, rotate
from holdfast.kernels.levels import to_levels
from holdfast.retrieval.quantise import Encoded, Parameters, check_vectors, make_id, to_bytes
from holdfast.retrieval.quantise_rotated import STEPS

VECTOR_UNITS = 4096
AXIS_UNITS = 2048
MAX_BITS = len(STEPS) - 1
DISTORTIONS = (1.0, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001040, 0.000304, 0.0000877)
"""mean squared error left of a standard normal variable, by bits"""
MIN_SAMPLE = 256
NUM_ROTATIONS = 25  # of iterative quantisation; recall has settled by then
ROTATION_SAMPLE = 16384  # vectors that the rotations are fitted to
SLICE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class MibQuantiser:
    """Fitted axes; the first have the most bits.

    Attributes:
        mean: (dim,) int16, in units of 1 / VECTOR_UNITS.
        axes: (dim, A) int16, in units of 1 / AXIS_UNITS.
        steps: (A,) float32, distance of two levels.
        counts: (P,) int64, how many of the axes have at least 1, 2, ... P bits.
    """

    scheme: ClassVar[str] = "mib"
    bits: ClassVar[int] = 1
    mean: NDArray[np.int16]
    axes: NDArray[np.int16]
    steps: NDArray[np.float32]
    counts: NDArray[np.int64]
    id: str = field(init=False, compare=False)
    _axes: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", make_id(self.scheme, self.parameters()))
        object.__setattr__(self, "_axes", self.axes.astype(np.float32))

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def code_dim(self) -> int:
        return int(self.counts.sum())

    @classmethod
    def fit(cls, sample: NDArray[np.float32], *, num_bits: int, seed: int = 0) -> MibQuantiser:
        """Fit to (N, dim) unit-norm vectors, in an order that does not matter but for rounding.

        Raises:
            InvalidInput: fewer than MIN_SAMPLE vectors, or no bit.

        Cost: N * dim^2 multiplications, and about dim^3; a second or two for 50,000 vectors of 384 dimensions.
        """
        if len(sample) < MIN_SAMPLE or num_bits < 1:
            raise InvalidInput(f"mib is fitted to at least {MIN_SAMPLE} vectors, not {len(sample)}", param="sample")
        mean = np.rint(sample.mean(axis=0, dtype=np.float64) * VECTOR_UNITS).astype(np.int16)
        centred = sample - mean / np.float32(VECTOR_UNITS)
        variances, axes = _principal_axes(centred)
        bits = allocate_bits(variances, num_bits)
        chosen = np.argsort(-bits, kind="stable")[: np.count_nonzero(bits)]
        axes, bits = axes[:, chosen], bits[chosen]
        for num in np.unique(bits):
            group = np.flatnonzero(bits == num)
            axes[:, group] = axes[:, group] @ _fit_rotation(centred[:ROTATION_SAMPLE] @ axes[:, group], int(num), seed)
        spread = np.maximum(np.sqrt(np.mean((centred @ axes) ** 2, axis=0)), 1 / VECTOR_UNITS)
        return cls(
            mean,
            np.rint(axes * AXIS_UNITS).astype(np.int16),
            (spread * np.array(STEPS)[bits]).astype(np.float32),
            np.array([np.count_nonzero(bits >= num) for num in range(1, bits[0] + 1)], dtype=np.int64),
        )

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        vectors = check_vectors(vectors, self.dim, "vectors")
        axes = self._axes
        units = self.steps * np.float32(VECTOR_UNITS * AXIS_UNITS)
        middles = self.mean.astype(np.float32) @ axes
        bits = (self.counts[:, None] > np.arange(len(units))).sum(axis=0)
        highest = (1 << bits).astype(np.float32) - 1
        planes = np.empty((len(vectors), self.code_dim), dtype=np.uint8)
        factors = np.empty(len(vectors), dtype=np.uint8)
        for first in range(0, len(vectors), SLICE_SIZE):
            part = slice(first, first + SLICE_SIZE)
            places = np.rint(vectors[part] * np.float32(VECTOR_UNITS)) @ axes
            levels, own_factors = to_levels(places, middles, units, highest)
            factors[part] = to_bytes(own_factors)
            start = 0
            for plane, count in enumerate(self.counts.tolist()):
                planes[part, start : start + count] = (levels[:, :count] >> plane) & 1
                start += count
        return Encoded(planes, factors)

    def project(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        whole = np.rint(check_vectors(queries, self.dim, "queries") * np.float32(VECTOR_UNITS))
        weights = whole @ self._axes * (self.steps / np.float32(2 * VECTOR_UNITS * AXIS_UNITS))
        offsets = whole @ self.mean.astype(np.float32) / np.float32(VECTOR_UNITS**2)
        planes = [weights[:, :count] * np.float32(1 << plane) for plane, count in enumerate(self.counts.tolist())]
        return np.concatenate(planes, axis=1), offsets

    def parameters(self) -> Parameters:
        return {"mean": self.mean, "axes": self.axes, "steps": self.steps, "counts": self.counts}

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> MibQuantiser:
        return cls(parameters["mean"], parameters["axes"], parameters["steps"], parameters["counts"])


def allocate_bits(variances: NDArray[np.float64], num_bits: int) -> NDArray[np.int64]:
    """Return the bits of each of (A,) axes: one after the other, each where it removes most of the squared error."""
    bits = np.zeros(len(variances), dtype=np.int64)
    gains = [(-float(variance) * (DISTORTIONS[0] - DISTORTIONS[1]), axis) for axis, variance in enumerate(variances)]
    heapq.heapify(gains)
    for _ in range(min(num_bits, MAX_BITS * len(variances))):
        _, axis = heapq.heappop(gains)
        bits[axis] += 1
        now = int(bits[axis])
        if now < MAX_BITS:
            heapq.heappush(gains, (-float(variances[axis]) * (DISTORTIONS[now] - DISTORTIONS[now + 1]), axis))
    return bits


def _principal_axes(centred: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the variances, descending, and the axes (dim, dim) in columns; each axis' largest part is positive."""
    dim = centred.shape[1]
    moments = np.zeros((dim, dim))
    for first in range(0, len(centred), SLICE_SIZE):
        part = centred[first : first + SLICE_SIZE].astype(np.float64)
        moments += part.T @ part
    variances, axes = np.linalg.eigh(moments / len(centred))
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return np.maximum(variances[::-1], 0), np.ascontiguousarray((axes * np.sign(largest))[:, ::-1].astype(np.float32))


def _fit_rotation(values: NDArray[np.float32], bits: int, seed: int) -> NDArray[np.float32]:
    """Return the (A, A) rotation after which the levels come nearest to (N, A) values."""
    num_axes = values.shape[1]
    rotation = rotate(np.eye(num_axes, dtype=np.float32), make_rotation(num_axes, seed))
    top = np.float32((1 << bits) / 2 - 0.5)
    for _ in range(NUM_ROTATIONS if num_axes > 1 else 0):
        rotated = values @ rotation
        steps = np.maximum(rotated.std(axis=0), np.float32(1 / VECTOR_UNITS)) * np.float32(STEPS[bits])
        levels = np.clip(np.floor(rotated / steps) + np.float32(0.5), -top, top) * steps
        left, _, right = np.linalg.svd(values.T.astype(np.float64) @ levels)
        rotation = (left @ right).astype(np.float32)
    return rotation
