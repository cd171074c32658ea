"""Unfitted codes become the same bits everywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.hadamard import make_rotation, rotate
from holdfast.kernels.packing import pack
from holdfast.retrieval.quantise_rotated import STEPS, HadamardQuantiser, SignQuantiser
from tests.retrieval.quantiser_cases import text_like_vectors


def test_one_bit_is_the_sign_of_the_coordinate() -> None:
    vectors = text_like_vectors(40)
    assert np.array_equal(SignQuantiser(64).encode(vectors).levels, vectors >= 0)
    rotated = rotate(vectors, make_rotation(64, 7))
    assert np.array_equal(HadamardQuantiser(64, seed=7).encode(vectors).levels, rotated >= 0)


@pytest.mark.parametrize("bits", [2, 4])
def test_levels_are_the_nearest_of_an_even_grid(bits: int) -> None:
    vectors = text_like_vectors(200)
    quantiser = HadamardQuantiser(64, bits)
    rotated = rotate(vectors, make_rotation(64, 0)).astype(np.float64)
    grid = (np.arange(1 << bits) - ((1 << bits) - 1) / 2) * STEPS[bits] / 8
    nearest = np.abs(rotated[:, :, None] - grid).argmin(axis=2)
    assert np.mean(quantiser.encode(vectors).levels == nearest) > 0.9999  # float32 against float64 at the very border
    weights, offsets = quantiser.project(vectors[:1])
    assert np.allclose(weights[0] * 2 / (STEPS[bits] / 8), rotated[0], atol=1e-6)
    assert offsets.tolist() == [0]


def test_codes_are_the_same_bits_on_every_machine() -> None:
    vectors = ((np.arange(40 * 384).reshape(40, 384) * 7919) % 1009 - 504).astype(np.float32)
    vectors /= np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True)).astype(np.float32)
    stored = b"".join(pack(HadamardQuantiser(384, bits).encode(vectors).levels, bits).tobytes() for bits in (1, 2, 4))
    assert hashlib.sha256(stored).hexdigest() == "05c4c813f12262f63cf0032096f8891318752f1ec23b6b282244749100019cf0"


def test_fitting_takes_the_most_bits_that_fit() -> None:
    sample = text_like_vectors(1)
    assert [HadamardQuantiser.fit(sample, num_bits=num).bits for num in (64, 127, 128, 255, 256, 999)] == [
        1, 1, 2, 2, 4, 4,
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="at least 64 bits"):
        HadamardQuantiser.fit(sample, num_bits=63)
    with pytest.raises(InvalidInput, match="take 64 bits"):
        SignQuantiser.fit(sample, num_bits=63)


def test_settings_that_make_no_code_are_refused() -> None:
    for make in (SignQuantiser, HadamardQuantiser):
        with pytest.raises(InvalidInput, match="dim"):
            make(0)
    with pytest.raises(ShapeError, match="bits"):
        HadamardQuantiser(64, bits=3)


def test_no_vectors_give_no_codes() -> None:
    for quantiser in (SignQuantiser(64), HadamardQuantiser(64, 2)):
        assert quantiser.encode(np.empty((0, 64), dtype=np.float32)).levels.shape == (0, 64)
