"""Vectors as bytes: small, the same everywhere, and close enough to rescore with."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, ShapeError
from holdfast.privacy.vector_bytes import pack_vectors, unpack_vectors


def pack_reference(vector: NDArray[np.float32]) -> bytes:
    scale = np.float32(max(abs(float(x)) for x in vector)) / np.float32(127)
    numbers = [round(float(np.float32(x) / scale)) if scale else 0 for x in vector]
    return struct.pack("<f", scale) + struct.pack(f"<{len(numbers)}b", *numbers)


@pytest.mark.parametrize("dim", [1, 63, 384])
def test_bytes_are_those_of_the_reference(rng: np.random.Generator, dim: int) -> None:
    vectors = rng.standard_normal((50, dim)).astype(np.float32)
    vectors[0] = 0
    packed = pack_vectors(vectors)
    assert packed.shape == (50, 4 + dim)
    assert packed.tobytes() == b"".join(map(pack_reference, vectors))


def test_each_coordinate_is_off_by_half_a_step_at_most(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((500, 384)).astype(np.float32)
    unpacked = unpack_vectors(pack_vectors(vectors), 384)
    assert unpacked.dtype == np.float32
    steps = np.abs(vectors).max(axis=1, keepdims=True) / 127
    assert (np.abs(unpacked - vectors) <= steps / 2 * 1.0001).all()
    cosines = (unpacked * vectors).sum(1) / np.linalg.norm(unpacked, axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.9999


def test_packing_twice_changes_nothing(rng: np.random.Generator) -> None:
    once = pack_vectors(rng.standard_normal((100, 96)).astype(np.float32))
    assert np.array_equal(pack_vectors(unpack_vectors(once, 96))[:, 4:], once[:, 4:])


def test_bytes_and_arrays_unpack_alike(rng: np.random.Generator) -> None:
    packed = pack_vectors(rng.standard_normal((3, 8)).astype(np.float32))
    assert np.array_equal(unpack_vectors(packed, 8), unpack_vectors(packed.tobytes(), 8))
    assert unpack_vectors(b"", 8).shape == (0, 8)


def test_wrong_shapes_and_numbers_are_refused() -> None:
    for wrong in (np.zeros(3, np.float32), np.full((1, 3), np.nan, np.float32), np.full((1, 3), np.inf, np.float32)):
        with pytest.raises(ShapeError):
            pack_vectors(wrong)
    with pytest.raises(IntegrityError):
        unpack_vectors(bytes(13), 8)
