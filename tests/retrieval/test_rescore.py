"""What candidates are ordered by is as near to the float vectors as its bits allow, and the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import InvalidInput
from holdfast.kernels.hadamard import make_rotation, rotate
from holdfast.retrieval.rescore import encode_fine, encode_rows, num_candidates


def unit_vectors(num_rows: int, dim: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((num_rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dim", [1, 3, 100, 384])
def test_rows_and_queries_are_within_half_a_step(dim: int) -> None:
    vectors, rotation = unit_vectors(300, dim), make_rotation(dim, 0)
    rotated = rotate(vectors, rotation)
    (rows, scales), fine = encode_rows(vectors, rotation), encode_fine(vectors, rotation)
    assert np.abs(rows.astype(np.int32)).max(axis=1).tolist() == [127] * 300
    assert np.abs(fine.values.astype(np.int32)).max(axis=1).tolist() == [32767] * 300
    assert (np.abs(rows * scales[:, None] - rotated) <= 0.501 * scales[:, None]).all()
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
