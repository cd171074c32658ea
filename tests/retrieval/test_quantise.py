"""Every quantiser keeps the one contract: the same levels in any batch, estimates near the cosine, a true id."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import IntegrityError, InvalidInput, ShapeError
from holdfast.kernels.packing import num_code_bytes
from holdfast.retrieval.quantise import (
    FACTOR_UNITS,
    SCHEMES,
    check_vectors,
    find_scheme,
    load_quantiser,
    make_id,
    to_bytes,
)
from tests.retrieval.quantiser_cases import SCHEMES as CASES
from tests.retrieval.quantiser_cases import fitted, text_like_vectors


@pytest.mark.parametrize(("scheme", "num_bits"), CASES)
def test_codes_take_no_more_than_was_asked(scheme: str, num_bits: int) -> None:
    quantiser = fitted(scheme, num_bits)
    levels, factors = quantiser.encode(text_like_vectors(100, seed=1))
    assert (factors.shape, factors.dtype) == ((100,), np.uint8)
    assert levels.shape == (100, quantiser.code_dim)
    assert levels.dtype == np.uint8
    assert 0 < levels.max() < 1 << quantiser.bits
    assert quantiser.bits * quantiser.code_dim <= num_bits
    assert num_code_bytes(quantiser.code_dim, quantiser.bits) == num_bits // 8


@pytest.mark.parametrize(("scheme", "num_bits"), CASES)
def test_a_vector_is_encoded_alike_alone_and_in_any_batch(scheme: str, num_bits: int) -> None:
    quantiser, vectors = fitted(scheme, num_bits), text_like_vectors(5000, seed=1)
    together = quantiser.encode(vectors)
    for rows in (slice(0, 1), slice(4999, 5000), slice(17, 40), slice(0, 4097)):
        part = quantiser.encode(vectors[rows])
        assert np.array_equal(part.levels, together.levels[rows])
        assert np.array_equal(part.factors, together.factors[rows])
    weights, offsets = quantiser.project(vectors[:40])
    alone, offset = quantiser.project(vectors[39:40])
    assert np.array_equal(alone[0], weights[39])
    assert offset[0] == offsets[39]


@pytest.mark.parametrize(("scheme", "num_bits"), CASES)
def test_estimates_are_near_the_cosine(scheme: str, num_bits: int) -> None:
    quantiser = fitted(scheme, num_bits)
    vectors, queries = text_like_vectors(500, seed=1), text_like_vectors(50, seed=2)
    weights, offsets = quantiser.project(queries)
    levels, factors = quantiser.encode(vectors)
    sums = weights @ (2.0 * levels - ((1 << quantiser.bits) - 1)).T
    estimates, cosines = offsets[:, None] + sums * factors / FACTOR_UNITS, queries @ vectors.T
    assert np.corrcoef(estimates.ravel(), cosines.ravel())[0, 1] > 0.9
    assert np.abs(estimates - cosines).mean() < 0.12


@pytest.mark.parametrize(("scheme", "num_bits"), CASES)
def test_parameters_make_the_same_quantiser(scheme: str, num_bits: int) -> None:
    quantiser, vectors = fitted(scheme, num_bits), text_like_vectors(100, seed=1)
    again = load_quantiser(quantiser.id, quantiser.parameters())
    assert again.id == quantiser.id
    assert again.dim == quantiser.dim == 64
    assert np.array_equal(again.encode(vectors).levels, quantiser.encode(vectors).levels)


def test_ids_tell_parameters_apart() -> None:
    ids = {fitted(scheme, num_bits).id for scheme, num_bits in CASES} | {fitted("mib", 64, num_rows=1999).id}
    assert len(ids) == len(CASES) + 1
    assert {name.partition(":")[0] for name in ids} == {*SCHEMES} - {"recurrent"} == {"sign", "hadamard", "mib"}
    assert fitted("mib", 64).id == fitted("mib", 64).id
    array = np.arange(6, dtype="<i4")
    assert make_id("a", {"x": array}) == make_id("a", {"x": array.astype(">i4")}) != make_id("a", {"y": array})
    assert make_id("a", {"x": array}) != make_id("a", {"x": array.reshape(2, 3)})


def test_parameters_of_another_quantiser_are_refused() -> None:
    one, other = fitted("mib", 64), fitted("mib", 128)
    with pytest.raises(IntegrityError, match="but the parameters beside them"):
        load_quantiser(one.id, other.parameters())
    with pytest.raises(IntegrityError, match="does not know"):
        load_quantiser("unheard:of", one.parameters())
    with pytest.raises(IntegrityError, match="does not know"):
        load_quantiser(one.id, {})


def test_an_unknown_scheme_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="sign, hadamard, mib"):
        find_scheme("pq")


@pytest.mark.parametrize("bad", [0.0, 2.0, np.nan, np.inf])
def test_a_vector_that_is_not_of_length_one_is_named(bad: float) -> None:
    vectors = text_like_vectors(3)
    vectors[1] *= np.float32(bad)
    for scheme, num_bits in CASES:
        with pytest.raises(InvalidInput, match=r"vectors\[1\]"):
            fitted(scheme, num_bits).encode(vectors)
        with pytest.raises(InvalidInput, match=r"queries\[1\]"):
            fitted(scheme, num_bits).project(vectors)


@pytest.mark.parametrize("shape", [(8,), (2, 9), (1, 2, 8)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        check_vectors(np.ones(shape, dtype=np.float32), 8, "vectors")


def test_factors_are_stored_in_a_byte() -> None:
    assert to_bytes(np.array([0, 0.5, 1, 1.004, 1.9, 7], dtype=np.float32)).tolist() == [1, 64, 128, 129, 243, 255]
