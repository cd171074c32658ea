"""Rescoring is exact integer arithmetic; the float search is the yardstick."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import InvalidInput
from holdfast.retrieval.quantise import EncodedQueries
from holdfast.retrieval.rescore import best_candidates, estimate_cosines, num_candidates


def test_candidates_are_rounded_up() -> None:
    assert [num_candidates(10, 4.0, 1), num_candidates(3, 1.5, 1), num_candidates(1, 1.0, 1)] == [40, 5, 1]


def test_there_are_never_fewer_candidates_than_the_least() -> None:
    assert [num_candidates(10, 4.0), num_candidates(50, 4.0), num_candidates(10, 4.0, 60)] == [100, 200, 60]


@pytest.mark.parametrize(("k", "oversampling"), [(0, 4.0), (-1, 4.0), (1, 0.9), (1, float("nan")), (1, float("inf"))])
def test_what_gives_no_candidates_is_refused(k: int, oversampling: float) -> None:
    with pytest.raises(InvalidInput):
        num_candidates(k, oversampling)


def test_cosines_are_integer_products_times_both_scales(rng: np.random.Generator) -> None:
    fine = rng.integers(-32767, 32768, (2, 4096)).astype(np.int16)
    rows = rng.integers(-127, 128, (2, 3, 4096)).astype(np.int8)
    fine[0], rows[0, 0] = 32767, 127  # 127 * 32767 * 4096 is over 2^33
    scales = rng.random((2, 3)).astype(np.float32)
    fine_scales = rng.random(2).astype(np.float32)
    queries = EncodedQueries(np.zeros((2, 4096), dtype=np.int8), fine, fine_scales)
    cosines = estimate_cosines(queries, rows, scales)
    for query in range(2):
        for row in range(3):
            product = sum(int(a) * int(b) for a, b in zip(fine[query], rows[query, row], strict=True))
            assert cosines[query, row] == float(product) * (float(scales[query, row]) * float(fine_scales[query]))


def test_the_best_go_by_score_then_id_and_stay_within_one() -> None:
    cosines = np.array([[0.5, 1.25, 0.5, 1.5]])
    ids = np.array([[9, 2**64 - 1, 3, 8]], dtype=np.uint64)
    found, scores = best_candidates(cosines, ids, 3)
    assert found.tolist() == [[8, 2**64 - 1, 3]]
    assert scores.tolist() == [[1.0, 1.0, 0.5]]
