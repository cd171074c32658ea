from __future__ import annotations

import numpy as np
import pytest

from holdfast.retrieval.exact import search_exact


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
