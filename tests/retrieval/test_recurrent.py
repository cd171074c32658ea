"""Trained on a few thousand small vectors with structure, searched on others of the same kind."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.packing import pack
from holdfast.retrieval.code_search import encode_queries, search_codes
from holdfast.retrieval.exact import nearest_rows
from holdfast.retrieval.index import BinaryIndex
from holdfast.retrieval.quantise import FACTOR_UNITS, Encoded, Quantiser, load_quantiser
from holdfast.retrieval.quantise_rotated import HadamardQuantiser
from holdfast.retrieval.recurrent import RecurrentQuantiser

DIM = 64
NUM_STEPS = 60
Floats = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def texts() -> NDArray[np.float64]:
    """Directions of unequal variance around a mean, as embedding models give them."""
    rng = np.random.default_rng(8)
    spread = 1 / (1 + np.arange(DIM) / 6)
    return (rng.standard_normal((3000, DIM)) * spread) @ np.linalg.qr(rng.standard_normal((DIM, DIM)))[0] + 0.05


@pytest.fixture(scope="module")
def vectors(texts: NDArray[np.float64]) -> Floats:
    return unit(texts)


@pytest.fixture(scope="module")
def quantiser(vectors: Floats) -> RecurrentQuantiser:
    return RecurrentQuantiser.fit(vectors[:1500], num_bits=64, num_steps=NUM_STEPS)


def found_by(reader: Quantiser, codes: Encoded, asking: Floats) -> NDArray[np.int64]:
    """The ten best of `codes`, whoever made them, as the questions of `reader` read them."""
    ids = np.arange(len(codes.levels), dtype=np.uint64)
    return search_codes(encode_queries(reader, asking), pack(codes.levels, reader.bits), codes.factors, ids, 10)[1]


def recall_of(quantiser: Quantiser, stored: Floats, asking: Floats) -> float:
    truth = nearest_rows(stored, asking, 10)[0]
    return share(found_by(quantiser, quantiser.encode(stored), asking), truth)


def share(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def test_trained_codes_find_more_than_untrained_ones_of_equal_size(
    quantiser: RecurrentQuantiser, vectors: Floats
) -> None:
    stored, asking = vectors[1500:2800], vectors[2800:]
    assert (quantiser.bits, quantiser.code_dim) == (2, 32)
    assert recall_of(quantiser, stored, asking) > recall_of(HadamardQuantiser(DIM), stored, asking) + 0.03
    truth = nearest_rows(stored, asking, 10)[0]
    products = quantiser.project_symmetric(asking) @ quantiser.project_symmetric(stored).T
    symmetric = share(np.argsort(-products, axis=1, kind="stable")[:, :10], truth)
    assert 0.2 < symmetric < recall_of(quantiser, stored, asking), "a question that is binarised, too, costs recall"


def test_estimates_are_near_cosines(quantiser: RecurrentQuantiser, vectors: Floats) -> None:
    stored, asking = vectors[1500:2800], vectors[2800:]
    weights, offsets = quantiser.project(asking)
    codes = quantiser.encode(stored)
    estimates = offsets[:, None] + weights @ (2.0 * codes.levels - 3).T * codes.factors / FACTOR_UNITS
    assert np.sqrt(np.mean((estimates - asking @ stored.T) ** 2)) < 0.12


@pytest.mark.parametrize(("bits", "num_bits"), [(1, 64), (4, 96)])
def test_any_number_of_levels(vectors: Floats, bits: int, num_bits: int) -> None:
    quantiser = RecurrentQuantiser.fit(vectors[:600], num_bits=num_bits, bits=bits, num_steps=5)
    levels = quantiser.encode(vectors[600:900]).levels
    assert levels.shape == (300, num_bits // bits)
    assert levels.max() == (1 << bits) - 1
    assert len(np.unique(levels)) == 1 << bits


def test_a_code_depends_on_its_vector_only(quantiser: RecurrentQuantiser, vectors: Floats) -> None:
    levels, factors = quantiser.encode(vectors)
    weights = quantiser.project(vectors)[0]
    for row in (0, 7, 2999):
        alone = quantiser.encode(vectors[row : row + 1])
        assert np.array_equal(alone.levels[0], levels[row])
        assert alone.factors[0] == factors[row]
        assert np.array_equal(quantiser.project(vectors[row : row + 1])[0][0], weights[row])


def test_a_quantiser_comes_back_with_its_codes(quantiser: RecurrentQuantiser, vectors: Floats) -> None:
    again = load_quantiser(quantiser.id, quantiser.parameters())
    assert all(np.array_equal(*pair) for pair in zip(again.encode(vectors), quantiser.encode(vectors), strict=True))
    index = BinaryIndex(DIM, quantiser)
    index.add(np.arange(500, dtype=np.uint64), vectors[:500])
    assert index.search(vectors[:50], 1).ids.ravel().tolist() == list(range(50))


def test_a_new_models_questions_read_old_codes(
    quantiser: RecurrentQuantiser, texts: NDArray[np.float64], vectors: Floats
) -> None:
    """Old and new codes lie in one scan: each half of the passages is found by the new questions."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    new = unit(texts @ turn + 0.05 * rng.standard_normal(texts.shape))
    compatible = RecurrentQuantiser.fit_compatible(new[:1500], quantiser, vectors[:1500], num_steps=NUM_STEPS)
    alone = RecurrentQuantiser.fit(new[:1500], num_bits=64, num_steps=NUM_STEPS)
    stored, asking = slice(1500, 2800), slice(2800, 3000)
    truth = nearest_rows(vectors[stored], vectors[asking], 10)[0]
    old_codes = quantiser.encode(vectors[stored])
    before = share(found_by(quantiser, old_codes, vectors[asking]), truth)
    assert share(found_by(compatible, old_codes, new[asking]), truth) >= 0.8 * before
    assert share(found_by(alone, old_codes, new[asking]), truth) < 0.3 * before
    is_new = np.arange(1300) % 2 == 0
    new_codes = compatible.encode(new[stored])
    mixed = Encoded(
        np.where(is_new[:, None], new_codes.levels, old_codes.levels),
        np.where(is_new, new_codes.factors, old_codes.factors),
    )
    assert share(found_by(compatible, mixed, new[asking]), truth) >= 0.7 * before


def test_faulty_samples_are_named(vectors: Floats, quantiser: RecurrentQuantiser) -> None:
    with pytest.raises(InvalidInput, match="at least"):
        RecurrentQuantiser.fit(vectors[:10], num_bits=64)
    with pytest.raises(InvalidInput, match="num_bits"):
        RecurrentQuantiser.fit(vectors[:300], num_bits=129, bits=2)
    with pytest.raises(ShapeError, match="bits"):
        RecurrentQuantiser.fit(vectors[:300], num_bits=63, bits=3)
    with pytest.raises(ShapeError, match="old vectors"):
        RecurrentQuantiser.fit_compatible(vectors[:300], quantiser, vectors[:299])
