"""The best rows equal their definition bit for bit, and stopping early loses none whose bound holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels.row_scores import ROUND_SIZE, best_rows, best_rows_reference


def make_case(seed: int, num_rows: int, num_chosen: int, dim: int, margin: float) -> dict[str, Any]:
    """Rows of which many are equal, and bounds that hold."""
    random = np.random.default_rng(seed)
    rows = random.integers(-127, 128, (num_rows, dim)).astype(np.int8)
    rows[1::3] = rows[0]
    scales = random.choice(np.array([0.1, 0.25], dtype=np.float32), num_rows)
    queries = random.integers(-32767, 32768, (3, dim)).astype(np.int16)
    query_scales = random.random(3).astype(np.float32)
    chosen = np.array([random.permutation(num_rows)[:num_chosen] for _ in queries])
    ids = np.array([random.permutation(1000)[:num_chosen] for _ in queries]).astype(np.uint64) + np.uint64(2**63)
    cosines = np.einsum("qcd,qd->qc", rows[chosen].astype(float), queries) * scales[chosen] * query_scales[:, None]
    bounds = cosines + 1e-6 * np.abs(cosines) + margin * np.abs(cosines).max() * random.random(chosen.shape)
    order = np.argsort(-bounds, axis=1)
    chosen, ids, bounds = (np.take_along_axis(array, order, axis=1) for array in (chosen, ids, bounds))
    chosen[0, num_chosen // 2 + 1 :], bounds[0, num_chosen // 2 + 1 :] = -1, -np.inf
    given_ = {"rows": rows, "scales": scales, "chosen": chosen, "ids": ids, "bounds": bounds}
    return {**given_, "queries": queries, "query_scales": query_scales}


@given(
    st.integers(0, 10_000),
    st.integers(1, 200),
    st.sampled_from([1, 31, 32, 100, 384]),
    st.sampled_from([0.0, 0.05, 0.5, np.inf]),
    st.integers(1, 40),
)
def test_equal_to_the_reference_bit_for_bit(seed: int, num_chosen: int, dim: int, margin: float, top_k: int) -> None:
    case = make_case(seed, 200, num_chosen, dim, margin)
    top_k = min(top_k, num_chosen)
    found, expected = best_rows(**case, top_k=top_k), best_rows_reference(**case, top_k=top_k)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("margin", [0.0, 0.1, np.inf])
def test_stopping_early_changes_no_result_whose_bounds_hold(margin: float) -> None:
    case = make_case(1, 400, 300, 64, margin)
    early = best_rows(**case, top_k=10)
    bounds = np.where(case["chosen"] < 0, -np.inf, np.inf)
    full = best_rows(**{**case, "bounds": bounds}, top_k=10)
    assert np.array_equal(early.columns, full.columns)
    assert np.array_equal(early.cosines, full.cosines)
    assert full.num_compared.tolist() == [151, 300, 300]
    assert (early.num_compared < full.num_compared).all() == (margin < 1)


def test_few_are_compared_where_bounds_are_tight() -> None:
    rows, one = np.arange(100, 0, -1, dtype=np.int8)[:, None], np.ones(1, dtype=np.float32)
    chosen, bounds = np.arange(100)[None], np.arange(100.0, 0, -1)[None]
    given_ = rows, np.repeat(one, 100), chosen, chosen.astype(np.uint64), bounds, np.ones((1, 1), dtype=np.int16), one
    found = best_rows(*given_, 10)
    assert found.columns.tolist() == [list(range(10))]
    assert found.num_compared.tolist() == [ROUND_SIZE]


def test_cosines_are_integer_products_times_both_scales(rng: np.random.Generator) -> None:
    queries, rows = rng.integers(-32767, 32768, (2, 20_000)).astype(np.int16), np.zeros((3, 20_000), dtype=np.int8)
    rows[:] = rng.integers(-127, 128, rows.shape)
    queries[0], rows[0] = 32767, 127  # 127 * 32767 * 20000 is over 2^36
    scales, query_scales = rng.random(3).astype(np.float32), rng.random(2).astype(np.float32)
    chosen, ids = np.array([[0, 1, 2]] * 2), np.array([[0, 1, 2]] * 2, dtype=np.uint64)
    found = best_rows(rows, scales, chosen, ids, np.full((2, 3), np.inf), queries, query_scales, 3)
    for query in range(2):
        for column, cosine in zip(found.columns[query], found.cosines[query], strict=True):
            product = sum(int(a) * int(b) for a, b in zip(queries[query], rows[column], strict=True))
            assert cosine == float(product) * (float(scales[column]) * float(query_scales[query]))


def test_equal_cosines_go_by_id_and_none_is_last() -> None:
    rows, scales = np.ones((4, 8), dtype=np.int8), np.array([1, 2, 1, 1], dtype=np.float32)
    ids = np.array([[9, 2**64 - 1, 3, 8]], dtype=np.uint64)
    chosen, bounds = np.array([[0, 1, 2, -1]]), np.array([[np.inf, np.inf, np.inf, -np.inf]])
    query, one = np.ones((1, 8), dtype=np.int16), np.ones(1, dtype=np.float32)
    found = best_rows(rows, scales, chosen, ids, bounds, query, one, 4)
    assert found.columns.tolist() == [[1, 2, 0, 3]]
    assert found.cosines.tolist() == [[16, 8, 8, -np.inf]]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"rows": np.zeros((200, 64), dtype=np.int16)}, "rows"),
        ({"queries": np.zeros((3, 63), dtype=np.int16)}, "queries"),
        ({"query_scales": np.zeros(3)}, "query_scales"),
        ({"chosen": np.zeros((2, 50), dtype=np.int64)}, "chosen"),
        ({"chosen": np.full((3, 50), 200)}, "chosen"),
        ({"ids": np.zeros((3, 49), dtype=np.uint64)}, "ids"),
        ({"top_k": 51}, "top_k"),
        ({"top_k": 0}, "top_k"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes: dict[str, Any], param: str) -> None:
    for best in (best_rows, best_rows_reference):
        with pytest.raises(ShapeError) as caught:
            best(**{**make_case(0, 200, 50, 64, 0.1), "top_k": 5, **changes})
        assert caught.value.param == param
