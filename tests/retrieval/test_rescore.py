"""Rescoring is exact integer arithmetic and stops where nothing is left to win; the float search is the yardstick."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.kernels.hadamard import make_rotation, rotate
from holdfast.retrieval.rescore import (
    ROUND_SIZE,
    FineQueries,
    best_candidates,
    encode_fine,
    encode_rows,
    estimate_cosines,
    num_candidates,
    rescore,
)


def unit_vectors(num_rows: int, dim: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((num_rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("row_bits", "limit"), [(8, 127), (16, 32767)])
@pytest.mark.parametrize("dim", [1, 3, 100, 384])
def test_rows_and_queries_are_within_half_a_step(dim: int, row_bits: int, limit: int) -> None:
    vectors, rotation = unit_vectors(300, dim), make_rotation(dim, 0)
    rotated = rotate(vectors, rotation)
    (rows, scales), fine = encode_rows(vectors, rotation, row_bits), encode_fine(vectors, rotation)
    assert np.abs(rows.astype(np.int32)).max(axis=1).tolist() == [limit] * 300
    assert np.abs(fine.values.astype(np.int32)).max(axis=1).tolist() == [32767] * 300
    row_error = np.abs(rows * scales[:, None].astype(np.float64) - rotated)
    assert (row_error <= (0.501 if row_bits == 8 else 0.51) * scales[:, None]).all()
    fine_error = np.abs(fine.values * fine.scales[:, None].astype(np.float64) - rotated)
    assert (fine_error <= 0.51 * fine.scales[:, None]).all()


def test_a_row_is_encoded_alike_alone_and_in_any_batch() -> None:
    vectors, rotation = unit_vectors(300, 384), make_rotation(384, 0)
    rows, scales = encode_rows(vectors, rotation)
    row, scale = encode_rows(vectors[299:], rotation)
    assert np.array_equal(row[0], rows[299])
    assert scale[0] == scales[299]


def test_no_vectors_give_no_rows() -> None:
    rows, scales = encode_rows(np.empty((0, 384), dtype=np.float32), make_rotation(384, 0))
    assert (rows.shape, scales.shape) == ((0, 384), (0,))


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
    cosines = estimate_cosines(FineQueries(fine, fine_scales), rows, scales)
    for query in range(2):
        for row in range(3):
            product = sum(int(a) * int(b) for a, b in zip(fine[query], rows[query, row], strict=True))
            assert cosines[query, row] == float(product) * (float(scales[query, row]) * float(fine_scales[query]))


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(0, 200), st.sampled_from([0.0, 0.05, 0.5, np.inf]))
def test_stopping_early_changes_no_result_whose_bounds_hold(seed: int, k: int, more: int, margin: float) -> None:
    """With true bounds the best are those of rescoring all; what is skipped could not have been among them."""
    random = np.random.default_rng(seed)
    num_candidates_ = k + more
    cosines = random.random((3, num_candidates_)) if seed % 2 else random.integers(0, 9, (3, num_candidates_)) / 8
    bounds = cosines + margin * random.random(cosines.shape)
    order = np.argsort(-bounds, axis=1, kind="stable")
    cosines, bounds = (np.take_along_axis(array, order, axis=1) for array in (cosines, bounds))
    seen: list[tuple[int, int]] = []

    def score(columns: slice, lines: np.ndarray) -> np.ndarray:
        found: np.ndarray = cosines[lines, columns]
        seen.extend((int(line), columns.start) for line in lines)
        return found

    rescored = rescore(bounds, k, score)
    assert np.array_equal(-np.sort(-rescored, axis=1)[:, :k], -np.sort(-cosines, axis=1)[:, :k])
    assert len(seen) == len(set(seen))
    if margin == np.inf:
        assert np.array_equal(rescored, cosines)


def test_few_are_rescored_where_bounds_are_tight() -> None:
    bounds = np.linspace(1, 0, 400)[None]
    rescored = rescore(bounds, 10, lambda columns, lines: bounds[lines, columns])
    assert np.isfinite(rescored).sum() == ROUND_SIZE


def test_the_best_go_by_score_then_id_and_stay_within_one() -> None:
    cosines = np.array([[0.5, 1.25, 0.5, 1.5, -np.inf]])
    ids = np.array([[9, 2**64 - 1, 3, 8, 0]], dtype=np.uint64)
    found, scores = best_candidates(cosines, ids, 3)
    assert found.tolist() == [[8, 2**64 - 1, 3]]
    assert scores.tolist() == [[1.0, 1.0, 0.5]]
