from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.retrieval.fuse import fuse_rankings, fuse_scores

RANKINGS = st.lists(st.lists(st.integers(0, 20), unique=True, max_size=12), min_size=1, max_size=4)


def test_a_hand_worked_example() -> None:
    fused = fuse_rankings([[7, 3, 9], [3, 8]], [1.0, 1.0], rank_constant=1)
    # 3: 1/3 + 1/2, 7: 1/2, 8: 1/3, 9: 1/4; the best there can be is 1/2 + 1/2
    assert fused == [(3, pytest.approx(5 / 6)), (7, 0.5), (8, pytest.approx(1 / 3)), (9, 0.25)]


def test_weights_decide_and_equal_worth_goes_by_id() -> None:
    assert [found for found, _ in fuse_rankings([[9], [4]], [1.0, 1.0])] == [4, 9]
    assert [found for found, _ in fuse_rankings([[9], [4]], [1.1, 1.0])] == [9, 4]
    assert [found for found, _ in fuse_rankings([[9, 1], [4]], [2.0, 0.0])] == [9, 1], "no weight, no part"


@given(RANKINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_rankings_changes_nothing(rankings: list[list[int]], random: object) -> None:
    shuffled = rankings.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    weights = [1.0] * len(rankings)
    assert fuse_rankings(rankings, weights) == fuse_rankings(shuffled, weights)


@given(RANKINGS)
def test_scores_are_the_exact_sums_in_a_total_order(rankings: list[list[int]]) -> None:
    fused = fuse_rankings(rankings, [1.0] * len(rankings))
    assert fused == sorted(fused, key=lambda pair: (-pair[1], pair[0]))
    assert {found for found, _ in fused} == {found for ranking in rankings for found in ranking}
    for found, score in fused:
        worth = sum(Fraction(1, 61 + ranking.index(found)) for ranking in rankings if found in ranking)
        assert score == pytest.approx(float(worth / (len(rankings) * Fraction(1, 61))), rel=1e-12)
        assert 0 < score <= 1


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_faulty_weights_are_named(weights: list[float]) -> None:
    with pytest.raises(InvalidInput, match="weights"):
        fuse_rankings([[1], [2]], weights)
    with pytest.raises(InvalidInput, match="rank_constant"):
        fuse_rankings([[1]], [1.0], rank_constant=-1)


def test_scores_are_added_with_the_best_words_worth_one() -> None:
    fused = fuse_scores({1: 0.5, 2: 0.25, 3: 0.75, 4: -0.5}, {2: 8.0, 1: 2.0, 9: 1.0}, text_weight=0.5)
    assert fused == [(2, 0.625), (1, 0.375), (3, 0.375), (4, -0.25)], "equal worth goes by id"
    assert fuse_scores({5: 0.5, 4: 0.5}, {}) == [(4, 0.4), (5, 0.4)]
    assert fuse_scores({1: 1.0}, {1: 3.0}, text_weight=0.2) == [(1, 1.0)]
    with pytest.raises(InvalidInput, match="text_weight"):
        fuse_scores({1: 0.5}, {}, text_weight=1.1)
