"""The yardsticks: oracles against brute force, density against counting, metrics against hand-made cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels.sparse_attention import (
    Work,
    attention_reference,
    attention_weights,
    causal_pairs,
    kl_divergence,
    mass_recall,
    missed_mass,
    oracle_top_k,
    oracle_top_p,
    relative_error,
    top1_agreement,
)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@given(seed=st.integers(0, 99), num_queries=st.integers(1, 9), history=st.integers(0, 9), group=st.integers(1, 3))
def test_the_reference_is_causal_attention_of_the_newest_queries(
    seed: int, num_queries: int, history: int, group: int
) -> None:
    N = num_queries + history
    query, keys, values = draw(seed, 2 * group, num_queries, 16), draw(seed + 1, 2, N, 16), draw(seed + 2, 2, N, 16)
    seen = torch.ones(num_queries, N, dtype=torch.bool).tril(history)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(part)[None] for part in (query, keys, values)), attn_mask=seen, enable_gqa=True
    )[0]
    np.testing.assert_allclose(attention_reference(query, keys, values), expected.numpy(), atol=1e-12)
    assert causal_pairs(num_queries, N) == int(seen.sum())
    assert causal_pairs(num_queries, N, 3) == 3 * int(seen.sum())


def test_a_mask_leaves_out_and_the_rest_is_weighed_anew() -> None:
    query, keys, values = draw(0, 1, 3, 8), draw(1, 1, 5, 8), draw(2, 1, 5, 8)
    mask = np.ones((1, 3, 5), dtype=bool)
    mask[..., 1] = False
    kept = [0, 2, 3, 4]
    expected = attention_reference(query, keys[:, kept], values[:, kept])
    np.testing.assert_allclose(attention_reference(query, keys, values, mask=mask), expected, atol=1e-12)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for query, keys in [((3, 2, 8), (2, 4, 8)), ((2, 2, 8), (2, 4, 4)), ((2, 5, 8), (2, 4, 8))]:
        with pytest.raises(ShapeError):
            attention_weights(np.zeros(query), np.zeros(keys))


@given(seed=st.integers(0, 99), top_k=st.integers(1, 6), mass=st.floats(0.05, 1))
def test_no_choice_beats_the_oracles(seed: int, top_k: int, mass: float) -> None:
    weights = attention_weights(draw(seed, 1, 1, 4), draw(seed + 1, 1, 6, 4))
    row = weights[0, 0]
    best = max(row[list(choice)].sum() for choice in itertools.combinations(range(6), top_k))
    assert row[oracle_top_k(weights, top_k)[0, 0]].sum() == pytest.approx(best, abs=1e-12)
    chosen = oracle_top_p(weights, mass)[0, 0]
    assert row[chosen].sum() >= mass - 1e-9
    fewer = int(chosen.sum()) - 1
    assert all(row[list(choice)].sum() < mass for choice in itertools.combinations(range(6), fewer))


def test_equal_weights_go_to_the_earlier_keys_and_unseen_ones_are_never_chosen() -> None:
    weights = attention_weights(np.zeros((1, 4, 2)), np.zeros((1, 4, 2)))
    np.testing.assert_array_equal(oracle_top_k(weights, 2)[0, 3], [True, True, False, False])
    np.testing.assert_array_equal(oracle_top_p(weights, 0.5)[0, 3], [True, True, False, False])
    assert not (oracle_top_k(weights, 4) & np.triu(np.ones((4, 4), dtype=bool), 1)).any()


def test_missed_mass_and_recall_add_up() -> None:
    weights = attention_weights(draw(3, 2, 5, 4), draw(4, 1, 7, 4))
    mask = np.random.default_rng(5).random(weights.shape) < 0.5
    missed = missed_mass(weights, mask)
    np.testing.assert_allclose(missed + (weights * mask).sum(-1), 1)
    assert mass_recall(weights, mask) == pytest.approx(1 - missed.mean())
    assert mass_recall(weights, np.ones_like(mask)) == 1.0


def test_density_counts_the_ranking_by_half_and_exact_attention_as_one() -> None:
    assert Work(pairs=100, scored=0, causal=100).density == 1.0
    assert (Work(20, 10, 50) + Work(5, 0, 50)).density == pytest.approx(0.3)


def test_errors_are_relative_and_divergence_is_zero_only_for_equals() -> None:
    exact = draw(6, 3, 4)
    assert relative_error(exact, exact) == 0
    assert relative_error(1.1 * exact, exact) == pytest.approx(0.1)
    np.testing.assert_allclose(kl_divergence(exact + 3.0, exact), 0, atol=1e-12)
    two, even = np.log(np.array([0.5, 0.5])), np.log(np.array([0.25, 0.75]))
    assert kl_divergence(even, two) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert top1_agreement(np.array([[1.0, 2], [3, 0], [1, 1]]), np.array([[0.0, 1], [0, 1], [2, 2]])) == 2 / 3
