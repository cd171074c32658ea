"""The compiled scores equal their definition, and those of the scan where the query is the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels.code_scores import score_codes, score_codes_reference
from holdfast.kernels.packing import BITS, pack
from holdfast.kernels.scan import scan_top_k


@given(st.integers(0, 10_000), st.sampled_from(BITS), st.integers(1, 70), st.integers(1, 90), st.integers(0, 4))
def test_equal_to_the_reference_bit_for_bit(seed: int, bits: int, dim: int, num_rows: int, num_queries: int) -> None:
    random = np.random.default_rng(seed)
    blocks = pack(random.integers(0, 1 << bits, (num_rows, dim)).astype(np.uint8), bits)
    blocks.flags.writeable = bool(seed % 2)
    queries = random.integers(-32768, 32768, (num_queries, dim)).astype(np.int16)
    rows = random.integers(-1, num_rows, (num_queries, 7))
    assert np.array_equal(
        score_codes(blocks, rows, queries, bits=bits), score_codes_reference(blocks, rows, queries, bits=bits)
    )


@pytest.mark.parametrize("bits", BITS)
def test_equal_to_the_scan_with_the_same_query(bits: int) -> None:
    random = np.random.default_rng(0)
    blocks = pack(random.integers(0, 1 << bits, (100, 384)).astype(np.uint8), bits)
    queries = random.integers(-127, 128, (5, 384))
    scores, rows = scan_top_k(blocks, np.arange(100, dtype=np.uint64), queries.astype(np.int8), 120, bits=bits)
    again = score_codes(blocks, rows, queries.astype(np.int16), bits=bits)
    assert np.array_equal(again[rows >= 0], scores[rows >= 0])
    assert (again[rows < 0] == 0).all()


@pytest.mark.parametrize(
    ("param", "blocks", "rows", "queries"),
    [
        ("queries", (1, 2, 32), (1, 1), np.zeros((1, 16), dtype=np.int8)),
        ("blocks", (1, 3, 32), (1, 1), np.zeros((1, 16), dtype=np.int16)),
        ("rows", (1, 2, 32), (2, 1), np.zeros((1, 16), dtype=np.int16)),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    param: str, blocks: tuple[int, ...], rows: tuple[int, ...], queries: np.ndarray
) -> None:
    for score in (score_codes, score_codes_reference):
        with pytest.raises(ShapeError) as caught:
            score(np.zeros(blocks, dtype=np.uint8), np.zeros(rows, dtype=np.int64), queries)
        assert caught.value.param == param


def test_a_row_that_is_not_there_is_refused() -> None:
    with pytest.raises(ShapeError, match="below 32, not 32"):
        score_codes(np.zeros((1, 2, 32), dtype=np.uint8), np.array([[32]]), np.zeros((1, 16), dtype=np.int16))
