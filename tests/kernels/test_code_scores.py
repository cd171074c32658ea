"""The best codes equal their definition, and those of the scan where the query is the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels.code_scores import best_codes, best_codes_reference
from holdfast.kernels.packing import BITS, pack
from holdfast.kernels.scan import scan_top_k


@given(
    st.integers(0, 10_000),
    st.sampled_from(BITS),
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(0, 4),
    st.integers(1, 50),
)
def test_equal_to_the_reference_bit_for_bit(
    seed: int, bits: int, dim: int, num_rows: int, num_queries: int, top_k: int
) -> None:
    random = np.random.default_rng(seed)
    levels = random.integers(0, 1 << bits, (num_rows, dim)).astype(np.uint8)
    levels[1::3] = levels[0]  # ties
    blocks = pack(levels, bits)
    blocks.flags.writeable = bool(seed % 2)
    factors = random.choice(np.array([1, 128, 255], dtype=np.uint8), num_rows)
    ids = random.permutation(num_rows).astype(np.uint64) + np.uint64(2**63)
    queries = random.integers(-32768, 32768, (num_queries, dim)).astype(np.int16)
    rows = np.array([random.permutation(num_rows) for _ in range(num_queries)], dtype=np.int64)
    rows = rows.reshape(num_queries, num_rows)[:, : random.integers(1, num_rows + 1)]
    rows[random.random(rows.shape) < 0.2] = -1
    expected = best_codes_reference(blocks, factors, ids, rows, queries, top_k, bits=bits)
    for found, wanted in zip(best_codes(blocks, factors, ids, rows, queries, top_k, bits=bits), expected, strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("bits", BITS)
def test_equal_to_the_scan_with_the_same_query(bits: int) -> None:
    random = np.random.default_rng(0)
    blocks = pack(random.integers(0, 1 << bits, (100, 384)).astype(np.uint8), bits)
    ids, ones = random.permutation(100).astype(np.uint64), np.ones(100, dtype=np.uint8)
    queries = random.integers(-127, 128, (5, 384))
    scores, rows = scan_top_k(blocks, ids, queries.astype(np.int8), 120, bits=bits)
    again, same = best_codes(blocks, ones, ids, rows[:, ::-1], queries.astype(np.int16), 120, bits=bits)
    assert np.array_equal(same, rows)
    assert np.array_equal(again[:, :100], scores[:, :100])
    assert (again[:, 100:] == 0).all()


@pytest.mark.parametrize(
    ("param", "blocks", "rows", "queries", "factors"),
    [
        ("queries", (1, 2, 32), (1, 1), np.zeros((1, 16), dtype=np.int8), 32),
        ("blocks", (1, 3, 32), (1, 1), np.zeros((1, 16), dtype=np.int16), 32),
        ("rows", (1, 2, 32), (2, 1), np.zeros((1, 16), dtype=np.int16), 32),
        ("factors", (1, 2, 32), (1, 1), np.zeros((1, 16), dtype=np.int16), 31),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    param: str, blocks: tuple[int, ...], rows: tuple[int, ...], queries: np.ndarray, factors: int
) -> None:
    stored = np.zeros(blocks, dtype=np.uint8), np.ones(factors, dtype=np.uint8), np.arange(32, dtype=np.uint64)
    for best in (best_codes, best_codes_reference):
        with pytest.raises(ShapeError) as caught:
            best(*stored, np.zeros(rows, dtype=np.int64), queries, 1)
        assert caught.value.param == param


def test_a_row_that_is_not_there_is_refused() -> None:
    stored = np.zeros((1, 2, 32), dtype=np.uint8), np.ones(20, dtype=np.uint8), np.arange(20, dtype=np.uint64)
    with pytest.raises(ShapeError, match="below 20, not 20"):
        best_codes(*stored, np.array([[20]]), np.zeros((1, 16), dtype=np.int16), 1)
