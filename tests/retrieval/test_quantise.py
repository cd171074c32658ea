"""Vectors and queries become the same integers everywhere, and lose little."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.hadamard import make_rotation, rotate
from holdfast.kernels.packing import unpack
from holdfast.retrieval.quantise import Quantiser


def unit_vectors(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_codes_are_the_signs_of_the_rotated_vectors() -> None:
    vectors = unit_vectors(40, 100)
    encoded = Quantiser(100, seed=7).encode(vectors)
    assert np.array_equal(unpack(encoded.codes, 40, 100), rotate(vectors, make_rotation(100, 7)) >= 0)


@pytest.mark.parametrize("dim", [1, 3, 100, 384])
def test_rows_and_queries_are_within_half_a_step(dim: int) -> None:
    vectors = unit_vectors(50, dim)
    rotated = rotate(vectors, make_rotation(dim, 0))
    encoded, queries = Quantiser(dim).encode(vectors), Quantiser(dim).encode_queries(vectors)
    assert encoded.rows.dtype == np.int8
    assert np.abs(encoded.rows.astype(np.int32)).max(axis=1).tolist() == [127] * 50
    assert np.abs(queries.fine.astype(np.int32)).max(axis=1).tolist() == [32767] * 50
    assert (np.abs(encoded.rows * encoded.scales[:, None] - rotated) <= 0.501 * encoded.scales[:, None]).all()
    fine_error = np.abs(queries.fine * queries.fine_scales[:, None].astype(np.float64) - rotated)
    assert (fine_error <= 0.51 * queries.fine_scales[:, None]).all()
    assert np.array_equal(queries.coarse, encoded.rows)


def test_a_vector_is_encoded_alike_alone_and_in_any_batch() -> None:
    vectors = unit_vectors(300, 384)
    together = Quantiser(384).encode(vectors)
    alone = Quantiser(384).encode(vectors[299:])
    assert np.array_equal(alone.rows[0], together.rows[299])
    assert alone.scales[0] == together.scales[299]


def test_codes_are_the_same_bits_on_every_machine() -> None:
    vectors = ((np.arange(40 * 384).reshape(40, 384) * 7919) % 1009 - 504).astype(np.float32)
    vectors /= np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True)).astype(np.float32)
    encoded = Quantiser(384).encode(vectors)
    stored = encoded.codes.tobytes() + encoded.rows.tobytes() + encoded.scales.astype("<f4").tobytes()
    assert hashlib.sha256(stored).hexdigest() == "55e90e6d55a1aea60cfd296872a2c5907763cdc4c1d65efb7d7d05a5a91ba85a"


def test_the_id_names_scheme_dimension_and_seed() -> None:
    assert Quantiser(384, seed=5).id == "hadamard-sign-1:dim=384:seed=5"
    assert Quantiser(384, seed=5) == Quantiser(384, seed=5) != Quantiser(384, seed=6)


@pytest.mark.parametrize("bad", [0.0, 2.0, np.nan, np.inf])
def test_a_vector_that_is_not_of_length_one_is_named(bad: float) -> None:
    vectors = unit_vectors(3, 8)
    vectors[1] *= np.float32(bad)
    with pytest.raises(InvalidInput, match=r"vectors\[1\]"):
        Quantiser(8).encode(vectors)


@pytest.mark.parametrize("shape", [(8,), (2, 9), (1, 2, 8)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        Quantiser(8).encode_queries(np.ones(shape, dtype=np.float32))


def test_a_dimension_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Quantiser(0)


def test_no_vectors_give_no_codes() -> None:
    encoded = Quantiser(384).encode(np.empty((0, 384), dtype=np.float32))
    assert encoded.codes.shape == (0, 48, 32)
    assert encoded.rows.shape == (0, 384)
