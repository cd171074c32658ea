"""The compiled rounding equals its definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernels.rounding import LIMIT, round_rows, round_rows_reference


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 20), st.sampled_from([17, 127, 32767]))
def test_equal_to_the_reference_bit_for_bit(seed: int, width: int, num_rows: int, limit: int) -> None:
    values = np.random.default_rng(seed).standard_normal((num_rows, width)).astype(np.float32)
    values[::4] = 0
    values[1::4] = np.rint(values[1::4] * 2) / 2  # halves, where the scale allows
    for found, expected in zip(round_rows(values, limit), round_rows_reference(values, limit), strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_halves_go_to_even_and_the_largest_is_the_limit() -> None:
    rows, scales = round_rows(np.array([[127, 0.5, 1.5, -2.5, -127], [0, 0, 0, 0, 0]], dtype=np.float32))
    assert rows.tolist() == [[LIMIT, 0, 2, -2, -LIMIT], [0, 0, 0, 0, 0]]
    assert scales.tolist() == [1, 0]


def test_the_limit_decides_the_type_and_the_scale() -> None:
    values = np.array([[0.5, -1.0, 0.25], [0, 0, 0]], dtype=np.float32)
    rows, scales = round_rows(values, 4)
    assert (rows.dtype, round_rows(values, 128)[0].dtype) == (np.int8, np.int16)
    assert scales.tolist() == [0.25, 0]
    assert rows.tolist() == [[2, -4, 1], [0, 0, 0]]
