from __future__ import annotations

import numpy as np
import pytest

from holdfast.retrieval.exact import nearest_rows, search_exact


@pytest.mark.parametrize("num_parts", [1, 3, 50])
def test_parts_do_not_change_the_result(rng: np.random.Generator, num_parts: int) -> None:
    vectors = rng.standard_normal((500, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = rng.permutation(2**63 + np.arange(500, dtype=np.uint64))
    queries = vectors[:4]
    parts = zip(np.array_split(ids, num_parts), np.array_split(vectors, num_parts), strict=True)
    found = search_exact(parts, queries, k=10)
    cosines = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = ids[np.argsort(-cosines, axis=1)[:, :10]]
    assert np.array_equal(found.ids, expected)
    assert found.num_scanned == 500
    assert np.allclose(found.scores, -np.sort(-cosines, axis=1)[:, :10], atol=1e-6)


def test_equal_scores_are_ordered_by_id() -> None:
    vectors = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (5, 1))
    ids = np.array([9, 2**64 - 1, 3, 2**63, 1], dtype=np.uint64)
    found = search_exact([(ids[:2], vectors[:2]), (ids[2:], vectors[2:])], vectors[:1], k=3)
    assert found.ids.tolist() == [[1, 3, 9]]


def test_nothing_stored_finds_nothing() -> None:
    found = search_exact([], np.ones((2, 3), dtype=np.float32), k=5)
    assert found.ids.shape == (2, 0)


def test_nearest_rows_go_by_product_then_row() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [-1, 0], [1, 0]], dtype=np.float32)
    rows, scores = nearest_rows(vectors, np.array([[1, 0]], dtype=np.float32), 2)
    assert rows.tolist() == [[0, 2]]
    assert scores.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("k", [1, 7, 200, 1000])
def test_nearest_rows_are_a_sort(k: int, rng: np.random.Generator) -> None:
    vectors = rng.integers(-3, 4, (200, 8)).astype(np.float32)  # exact in float32, and full of ties
    queries = rng.integers(-3, 4, (70, 8)).astype(np.float32)
    rows, scores = nearest_rows(vectors, queries, k)
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    assert np.array_equal(rows, expected)
    assert np.array_equal(scores, np.take_along_axis(queries @ vectors.T, expected, axis=1))


def test_nothing_has_no_nearest_rows() -> None:
    rows, scores = nearest_rows(np.empty((0, 8), dtype=np.float32), np.ones((2, 8), dtype=np.float32), 5)
    assert rows.shape == scores.shape == (2, 0)
