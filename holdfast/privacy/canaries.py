"""Synthetic rows that a ranking store must return for queries made for them: an alarm when it drops rows.

A store that ranks can leave a row out of a result, and nothing that is signed shows it. So among the real rows stand
some whose place in a ranking is known: asked by a canary's probe, the canary has to be among the results. A store that
drops a share `f` of its rows at random keeps all of `n` canaries with probability (1 - f) ** n only.

    plan       num_canaries(dropped_share=0.01, detection=0.99)
    placement  make_canaries: between pairs of real rows, so that in their encoding they look like any other row; they
               get opaque ids and sealed texts as real rows do, of the sizes of real rows
    alarm      Canaries.check: what came back for each probe; TamperError `omitted`

It is detection, not proof. A store that can tell canaries from rows, or that drops only what it has singled out, is not
detected; probes have to be sent among real queries, and the canaries be taken out of answers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, InvalidInput, ShapeError, TamperError
from holdfast.privacy.tokens import ID_SIZE

PROBE_COSINE = 0.95
"""between a canary and its probe: nearer than any real row is, and yet not the same vector"""
_COUNTS = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Canaries:
    """n canaries. They are secret: sealed where they are stored, and known to the gateway alone."""

    row_ids: tuple[bytes, ...]
    """under which the store holds them"""
    vectors: NDArray[np.float32]
    """(n, dim) unit rows, to be encoded and stored as any other"""
    probes: NDArray[np.float32]
    """(n, dim) unit queries; `row_ids[i]` must be among the results of `probes[i]`"""

    def check(self, probed: Sequence[int], results: Sequence[Collection[bytes]]) -> None:
        """Raise TamperError when a canary is missing among the results of its probe.

        Args:
            probed: which canaries.
            results: for each of them, the ids of the rows that the store returned for its probe.
        """
        missing = [
            number for number, row_ids in zip(probed, results, strict=True) if self.row_ids[number] not in row_ids
        ]
        if missing:
            message = f"{len(missing)} of {len(probed)} canaries are missing: the store leaves rows out of its results"
            raise TamperError(message, code="omitted")

    def to_bytes(self) -> bytes:
        """Return the canaries as bytes, to be sealed."""
        counts = _COUNTS.pack(*self.vectors.shape)
        arrays = (self.vectors.astype("<f4").tobytes(), self.probes.astype("<f4").tobytes())
        return counts + b"".join(self.row_ids) + b"".join(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Canaries:
        """Return the canaries that `to_bytes` was called on. Raises IntegrityError for other bytes."""
        num, dim = _COUNTS.unpack_from(data) if len(data) >= _COUNTS.size else (0, 0)
        start = _COUNTS.size + num * ID_SIZE
        if len(data) != start + 2 * 4 * num * dim or not num:
            raise IntegrityError("the stored canaries are damaged")
        row_ids = tuple(data[place : place + ID_SIZE] for place in range(_COUNTS.size, start, ID_SIZE))
        vectors, probes = np.frombuffer(data, "<f4", offset=start).astype(np.float32).reshape(2, num, dim)
        return cls(row_ids, vectors, probes)


def num_canaries(dropped_share: float, detection: float) -> int:
    """Return how many canaries notice a random loss of `dropped_share` of all rows with probability `detection`."""
    if not 0 < dropped_share < 1 or not 0 < detection < 1:
        raise InvalidInput(f"shares lie between 0 and 1, unlike {dropped_share} and {detection}", param="dropped_share")
    return math.ceil(math.log1p(-detection) / math.log1p(-dropped_share))


def noticed_share(num_probed: int, detection: float) -> float:
    """Return the least share of dropped rows that so many answered probes would have shown with that probability."""
    return -math.expm1(math.log1p(-detection) / num_probed)


def make_canaries(
    vectors: NDArray[np.float32], row_ids: Sequence[bytes], generator: np.random.Generator | None = None
) -> Canaries:
    """Return one canary for each of `row_ids`, each half-way between two real vectors.

    Args:
        vectors: (N, dim) unit vectors of the collection, N >= 2; the more, the better canaries blend in.
        row_ids: opaque ids that name no real row.
        generator: for tests; the operating system's randomness otherwise.
    """
    if vectors.ndim != 2 or len(vectors) < 2 or not row_ids:
        raise ShapeError(f"canaries need (N, dim) vectors, N >= 2, not of shape {vectors.shape}", param="vectors")
    generator = np.random.default_rng() if generator is None else generator
    pairs = np.array([generator.choice(len(vectors), 2, replace=False) for _ in row_ids])
    middles = _unit(vectors[pairs[:, 0]] + vectors[pairs[:, 1]])
    noise = generator.standard_normal(middles.shape)
    noise = _unit(noise - (noise * middles).sum(axis=1, keepdims=True) * middles)
    probes = PROBE_COSINE * middles + math.sqrt(1 - PROBE_COSINE**2) * noise
    return Canaries(tuple(row_ids), middles.astype(np.float32), probes.astype(np.float32))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    vectors = vectors.astype(np.float64)
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
