"""Over-fetching: what a store returns, and that the curve foretells what is found."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import InvalidInput
from holdfast.privacy.distance import Asym, AsymEncoding, CipherVector, PlainVector, centre_of
from holdfast.privacy.keys import SecretKey
from holdfast.privacy.leakage_view import Floats, unit
from holdfast.privacy.overfetch import quota, rank_encoded, recall_curve, row_deviation, smallest_overfetch

ROOT = SecretKey(bytes(range(32)))


def test_each_cell_gives_its_share_and_ties_go_to_the_lower_row() -> None:
    rows = CipherVector(np.array([0, 1, 0, 1, 0], np.int32), np.array([[1.0], [5], [1], [5], [9]], np.float32))
    query = CipherVector(np.arange(2, dtype=np.int32), np.ones((2, 1), np.float32))
    assert rank_encoded("ip", rows, query, 3).tolist() == [4, 0, 1, 3]
    assert quota(128, 16) == 8
    assert quota(129, 16) == 9


def test_metrics_rank_by_what_they_say() -> None:
    query = CipherVector(np.zeros(1, np.int32), np.array([[0b1111]], np.uint8))
    codes = CipherVector(np.zeros(3, np.int32), np.array([[0], [0b0111], [0b1111]], np.uint8))
    assert rank_encoded("hamming", codes, query, 3).tolist() == [2, 1, 0]
    points = CipherVector(np.zeros(3, np.int32), np.array([[4.0], [1.5], [-1]], np.float32))
    assert rank_encoded("l2", points, CipherVector(query.cells, np.array([[1.0]], np.float32)), 2).tolist() == [1, 2]


def test_the_curve_foretells_what_is_found(rng: np.random.Generator) -> None:
    num_rows, num_queries, dim = 3000, 60, 64
    vectors: Floats = unit(rng.standard_normal((num_rows, dim)).astype(np.float32))
    queries = unit(vectors[:num_queries] + 0.1 * rng.standard_normal((num_queries, dim)).astype(np.float32))
    parameters = Asym(num_cells=4, noise_radius=0.5)
    encoding = AsymEncoding(ROOT, centre_of(PlainVector(vectors)), 1, parameters)
    rows = encoding.encode_rows([b"%d" % row for row in range(num_rows)], [1] * num_rows, PlainVector(vectors))
    numbers = (20, 40, 80, 160, 320)
    curve = recall_curve(
        PlainVector(queries), PlainVector(vectors), rows.cells, numbers, k=10,
        row_deviation=row_deviation(parameters, dim),
    )
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    encoded = [encoding.encode_queries([PlainVector(query[None])])[0] for query in queries]
    for number, foretold in zip(numbers, curve, strict=True):
        found = [rank_encoded(encoding.metric, rows, query, number) for query in encoded]
        measured = np.mean([len(np.intersect1d(each, wanted)) for each, wanted in zip(found, truth, strict=True)]) / 10
        assert foretold == pytest.approx(measured, abs=0.05)
    assert curve == sorted(curve)
    assert curve[0] < 0.8 < curve[-1]
    assert smallest_overfetch(numbers, curve, curve[2]) == 80
    with pytest.raises(InvalidInput, match="up to 320"):
        smallest_overfetch(numbers, curve, 1.1)


def test_query_noise_costs_recall(rng: np.random.Generator) -> None:
    vectors: Floats = unit(rng.standard_normal((2000, 32)).astype(np.float32))
    cells = (np.arange(2000) % 4).astype(np.int32)
    plain = PlainVector(vectors[:50])
    quiet, noisy = (
        recall_curve(plain, PlainVector(vectors), cells, [60], k=10, row_deviation=0.02, query_deviation=deviation)[0]
        for deviation in (0.0, 0.2)
    )
    assert noisy < quiet - 0.2


def test_the_published_deviation_is_what_it_was() -> None:
    assert row_deviation(Asym(), 384) * np.sqrt(2) == pytest.approx(0.0406, abs=0.0005)
