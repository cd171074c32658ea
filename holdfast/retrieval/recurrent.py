"""Recurrent binarisation: a quantiser trained so that codes of near vectors are near, one bit a place after the other.

The first bit of each place is the sign of a learned projection. Every further bit is the sign of a projection of what
the bits so far leave unexplained, and counts half as much as the one before; so a place of u + 1 bits has the levels of
a uniform quantiser, in a space that was learned. A question is not binarised: its weights are its own projection. How
the projections are learned is `recurrent_training.py`'s.

`fit_compatible` trains the quantiser of a new embedding model so that its questions also read an older quantiser's
codes: codes of both lie in one scan, and passages are encoded again when there is time.

Encoding adds whole numbers below 2^24, so a vector gives the same code in any batch and on any machine. Training does
not promise that: what was trained is stored with the codes, and its digest is the quantiser's version.

Source: Gan et al., "Binary embedding-based retrieval at Tencent" (BEBR, arXiv 2302.08714), with asymmetric scoring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.packing import check_bits
from holdfast.retrieval.quantise import Encoded, Parameters, check_vectors, make_id, to_bytes
from holdfast.retrieval.recurrent_training import UNITS, train

MIN_SAMPLE = 256
MAX_SAMPLE = 16384
"""trained on at most so many: all are compared with all to find the positives"""
BITS = 2
"""a place, unless said otherwise"""
NUM_STEPS = 1500


@dataclass(frozen=True, slots=True)
class RecurrentQuantiser:
    """What was trained, in whole numbers.

    Attributes:
        mean: (dim,) int16, in units of 1 / UNITS.
        axes: (bits, dim, places) int16, the projections of each bit, in units of 1 / AXIS_UNITS.
        feedback: (bits - 1, places, places) int16, what the code so far explains of them, likewise.
        readout: (dim, places) int16, the projections that a question's weights are, in units of the steps.
        steps: (places,) float32.
    """

    scheme: ClassVar[str] = "recurrent"
    mean: NDArray[np.int16]
    axes: NDArray[np.int16]
    feedback: NDArray[np.int16]
    readout: NDArray[np.int16]
    steps: NDArray[np.float32]
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", make_id(self.scheme, self.parameters()))

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def bits(self) -> int:
        return len(self.axes)

    @property
    def code_dim(self) -> int:
        return int(self.axes.shape[2])

    @classmethod
    def fit(
        cls, sample: NDArray[np.float32], *, num_bits: int, seed: int = 0, bits: int = BITS, num_steps: int = NUM_STEPS
    ) -> RecurrentQuantiser:
        """Train on (N, dim) unit-norm vectors, `bits` (1, 2 or 4) a place.

        Raises:
            InvalidInput: fewer than MIN_SAMPLE vectors, or not one place, or more places than coordinates.

        Cost: some minutes on one core for 16,384 vectors of 384 dimensions.
        """
        sample = _check_sample(sample, num_bits, bits, "sample")
        return cls(*train(sample, num_bits // bits, bits, seed, num_steps))

    @classmethod
    def fit_compatible(
        cls,
        sample: NDArray[np.float32],
        old: RecurrentQuantiser,
        old_sample: NDArray[np.float32],
        *,
        seed: int = 0,
        num_steps: int = NUM_STEPS,
    ) -> RecurrentQuantiser:
        """Train for a new model's vectors (N, dim) so that its questions read `old` codes, too.

        Args:
            sample: unit-norm vectors of some texts by the new model.
            old: the quantiser of the codes that there are.
            old_sample: (N, old.dim) vectors of the same texts by the old model.
            seed: of the order of training.
            num_steps: batches.
        """
        sample = _check_sample(sample, old.code_dim * old.bits, old.bits, "sample")
        if len(old_sample) < len(sample):
            raise ShapeError(f"{len(old_sample)} old vectors for {len(sample)} new ones", param="old_sample")
        old_codes = old.encode(old_sample[: len(sample)])
        return cls(*train(sample, old.code_dim, old.bits, seed, num_steps, old_codes))

    def encode(self, vectors: NDArray[np.float32]) -> Encoded:
        whole = np.rint(check_vectors(vectors, self.dim, "vectors") * np.float32(UNITS)) - self.mean.astype(np.float32)
        codes = np.zeros((len(whole), self.code_dim), dtype=np.float32)  # odd whole numbers: 2 * level - highest level
        levels = np.zeros(codes.shape, dtype=np.uint8)
        for bit, axes in enumerate(self.axes):
            places = whole @ axes.astype(np.float32)
            if bit:
                places -= codes @ self.feedback[bit - 1].astype(np.float32) * np.float32(UNITS)
            is_set = places >= 0
            codes = 2 * codes + np.where(is_set, np.float32(1), np.float32(-1))
            levels = 2 * levels + is_set.astype(np.uint8)
        read = whole @ self.readout.astype(np.float32) * self.steps
        told = np.einsum("nj,nj->n", read, codes, dtype=np.float64) * UNITS
        energy = np.einsum("nj,nj->n", whole, whole, dtype=np.float64)
        factors = np.where(told > 0, energy / np.where(told > 0, told, 1), 1)
        return Encoded(levels, to_bytes(factors.astype(np.float32)))

    def project(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        whole = np.rint(check_vectors(queries, self.dim, "queries") * np.float32(UNITS))
        weights = whole @ self.readout.astype(np.float32) * (self.steps / np.float32(UNITS))
        return weights, whole @ self.mean.astype(np.float32) / np.float32(UNITS**2)

    def project_symmetric(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return as weights (Q, code_dim) the questions' own codes: what both sides cost when both are binarised."""
        return 2.0 * self.encode(queries).levels.astype(np.float32) - np.float32((1 << self.bits) - 1)

    def parameters(self) -> Parameters:
        return {
            "mean": self.mean,
            "axes": self.axes,
            "feedback": self.feedback,
            "readout": self.readout,
            "steps": self.steps,
        }

    @classmethod
    def from_parameters(cls, parameters: Parameters) -> RecurrentQuantiser:
        return cls(*(parameters[name] for name in ("mean", "axes", "feedback", "readout", "steps")))


def _check_sample(sample: NDArray[np.float32], num_bits: int, bits: int, param: str) -> NDArray[np.float32]:
    check_bits(bits)
    if sample.ndim != 2 or len(sample) < MIN_SAMPLE:
        raise InvalidInput(f"{param} must be at least {MIN_SAMPLE} vectors, not {sample.shape}", param=param)
    if not bits <= num_bits <= bits * sample.shape[1]:
        raise InvalidInput(
            f"num_bits must be between {bits} and {bits * sample.shape[1]}, not {num_bits}", param="num_bits"
        )
    evenly = np.linspace(0, len(sample) - 1, min(len(sample), MAX_SAMPLE)).astype(np.int64)
    return check_vectors(sample[evenly] if len(sample) > MAX_SAMPLE else sample, sample.shape[1], param)
