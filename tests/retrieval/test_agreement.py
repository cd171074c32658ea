"""Measures of stability, on tables small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.retrieval.agreement import (
    accuracy,
    agreement,
    any_flip_rate,
    best_case_accuracy,
    bootstrap_interval,
    changed_rate,
    max_logit_difference,
    mean_distinct_answers,
    mean_pairwise_jsd,
    modal_answer,
    permutation_agreement_rate,
    permutation_sensitivity,
    sampled_orders,
    worst_case_accuracy,
)

ANSWERS = [["a", "a", "a", "b"], ["x", "x", "x", "x"], ["p", "q", "r", "s"]]
CORRECT = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)


def test_agreement_counts_pairs_of_orders() -> None:
    assert [agreement(row) for row in ANSWERS] == [0.5, 1.0, 0.0]
    assert permutation_agreement_rate(ANSWERS) == 0.5
    assert agreement(["only"]) == 1.0
    with pytest.raises(ShapeError):
        agreement([])


def test_flips_and_distinct_answers() -> None:
    assert any_flip_rate(ANSWERS) == pytest.approx(2 / 3)
    assert mean_distinct_answers(ANSWERS) == pytest.approx(7 / 3)
    assert modal_answer(ANSWERS[0]) == "a"
    assert modal_answer(ANSWERS[2]) == "p"
    assert changed_rate(["a", "b"], ["a", "c"]) == 0.5
    with pytest.raises(ShapeError):
        changed_rate(["a"], [])


def test_accuracies_bracket_one_another() -> None:
    assert accuracy(CORRECT) == pytest.approx(7 / 12)
    assert worst_case_accuracy(CORRECT) == pytest.approx(1 / 3)
    assert best_case_accuracy(CORRECT) == pytest.approx(2 / 3)
    assert permutation_sensitivity(CORRECT) == pytest.approx(1 / 8)
    assert permutation_sensitivity(np.zeros((2, 3), dtype=bool)) == 0.0


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_worst_is_at_most_mean_is_at_most_best(rows: list[list[bool]]) -> None:
    correct = np.array(rows)
    assert worst_case_accuracy(correct) <= accuracy(correct) + 1e-12
    assert accuracy(correct) <= best_case_accuracy(correct) + 1e-12
    assert 0.0 <= permutation_sensitivity(correct) < 1.0


def test_equal_logits_differ_by_exactly_nothing() -> None:
    logits = np.tile(np.random.default_rng(0).normal(size=50).astype(np.float32) * 9, (4, 1))
    assert max_logit_difference(logits) == 0.0
    assert mean_pairwise_jsd(logits) == 0.0
    logits[1, 3] += 1.5
    assert max_logit_difference(logits) == pytest.approx(1.5, abs=1e-5)
    assert mean_pairwise_jsd(logits) > 0


def test_jsd_of_certain_opposites_is_log_two() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]], dtype=np.float32)
    assert mean_pairwise_jsd(logits) == pytest.approx(np.log(2))
    assert mean_pairwise_jsd(logits[:1]) == 0.0


@pytest.mark.parametrize(
    ("num_passages", "num_orders", "expected"), [(0, 5, 1), (1, 5, 1), (2, 5, 2), (3, 10, 6), (9, 10, 10)]
)
def test_orders_are_distinct_permutations_identity_and_reverse_first(
    num_passages: int, num_orders: int, expected: int
) -> None:
    orders = sampled_orders(num_passages, num_orders, seed=7)
    assert len(orders) == expected
    assert len({tuple(order) for order in orders}) == expected
    assert all(sorted(order) == list(range(num_passages)) for order in orders)
    assert orders[0] == list(range(num_passages))
    assert orders == sampled_orders(num_passages, num_orders, seed=7)
    if num_passages > 1:
        assert orders[1] == orders[0][::-1]


def test_the_interval_holds_the_mean_and_narrows_with_more_questions() -> None:
    few, many = np.array([0.0, 1.0] * 10), np.array([0.0, 1.0] * 1000)
    low, high = bootstrap_interval(few, seed=1)
    assert low < 0.5 < high
    narrow = bootstrap_interval(many, seed=1)
    assert narrow[1] - narrow[0] < (high - low) / 3
    assert bootstrap_interval(few, seed=1) == (low, high)
