"""The rotation keeps geometry, mixes every coordinate, and is the same bits everywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from holdfast.kernels.hadamard import SLICE_SIZE, make_rotation, rotate

DIMS = [1, 2, 3, 7, 64, 100, 128, 384, 511, 768, 1000]


@pytest.mark.parametrize("dim", DIMS)
def test_lengths_and_inner_products_stay(dim: int, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((20, dim)).astype(np.float32)
    rotated = rotate(vectors, make_rotation(dim, seed=3))
    before, after = vectors.astype(np.float64), rotated.astype(np.float64)
    assert np.allclose(after @ after.T, before @ before.T, rtol=1e-5, atol=1e-5 * dim)


@pytest.mark.parametrize("dim", [100, 384, 511, 768, 1000])
def test_every_coordinate_is_spread_over_all(dim: int) -> None:
    rotated = rotate(np.eye(dim, dtype=np.float32), make_rotation(dim, seed=0))
    # a perfectly even spread has every magnitude at dim ** -0.5; a coordinate left alone would have magnitude 1
    assert np.abs(rotated).max() < 6.5 * dim**-0.5
    assert float(np.mean(rotated**4)) * dim**2 == pytest.approx(3, abs=0.15)  # as of normally distributed numbers


def test_signs_are_the_bits_of_shake_256() -> None:
    stream = hashlib.shake_256(b"holdfast hadamard 1 dim=384 seed=0").digest(192 + 8 * 384)
    bits = [byte >> bit & 1 for byte in stream[:192] for bit in range(8)]
    assert make_rotation(384, 0).signs.ravel().tolist() == [1.0 if bit else -1.0 for bit in bits]


def test_the_permutation_sorts_the_rest_of_the_stream() -> None:
    stream = hashlib.shake_256(b"holdfast hadamard 1 dim=384 seed=0").digest(192 + 8 * 384)
    keys = [int.from_bytes(stream[start : start + 8], "little") for start in range(192, len(stream), 8)]
    assert make_rotation(384, 0).permutation.tolist() == sorted(range(384), key=keys.__getitem__)


def test_seeds_give_different_rotations() -> None:
    assert not np.array_equal(make_rotation(384, 0).signs, make_rotation(384, 1).signs)


def test_the_same_vectors_give_the_same_bits_on_every_machine() -> None:
    vectors = ((np.arange(4 * 384).reshape(4, 384) * 7919) % 1009 - 504).astype(np.float32) / np.float32(1009)
    digest = hashlib.sha256(rotate(vectors, make_rotation(384, 0)).astype("<f4").tobytes()).hexdigest()
    assert digest == "4d0b0745d292d231b8e051333fc34f9575db97f2d712cdbb2fd0cd8a77811978"


def test_a_vector_is_rotated_alike_alone_and_in_any_batch(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((SLICE_SIZE + 37, 384)).astype(np.float32)
    rotation = make_rotation(384, 0)
    together = rotate(vectors, rotation)
    for row in (0, 5, SLICE_SIZE, SLICE_SIZE + 36):
        assert np.array_equal(rotate(vectors[row : row + 1], rotation)[0], together[row])


@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_the_input_is_left_as_it_was(num_rows: int, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((num_rows, 384)).astype(np.float32)
    before = vectors.copy()
    rotate(vectors, make_rotation(384, 0))
    assert np.array_equal(vectors, before)
