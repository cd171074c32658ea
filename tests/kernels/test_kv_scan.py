"""The index of keys: what it finds equals its definition, finds what matters, and weighs what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels.attention_workload import HEADS, make_head
from holdfast.kernels.kv_scan import (
    GROUP_SIZE,
    code_dim,
    extend,
    find_candidates,
    find_candidates_reference,
    group_keys,
    make_index,
)

KINDS = ["stream", "vertical", "topic", "slash"]


def make_keys(num_groups: int, dim: int, seed: int) -> np.ndarray:
    """Keys in clusters of different sizes, far from zero, some of them the same."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(7, dim)) * 2 + 3
    keys = centres[rng.integers(0, 7, num_groups * GROUP_SIZE)] + rng.normal(size=(num_groups * GROUP_SIZE, dim))
    keys[::50] = keys[0]
    return keys.astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    num_groups=st.integers(1, 6),
    dim=st.sampled_from([8, 64, 100, 128]),
    num_queries=st.integers(1, 5),
    num_candidates=st.integers(1, 800),
    seed=st.integers(0, 2**32),
)
def test_candidates_equal_the_definition(
    num_groups: int, dim: int, num_queries: int, num_candidates: int, seed: int
) -> None:
    index = make_index(make_keys(num_groups, dim, seed), seed=seed)
    queries = np.random.default_rng(seed).normal(size=(num_queries, dim)).astype(np.float32)
    found = find_candidates(index, queries, num_candidates)
    np.testing.assert_array_equal(found, find_candidates_reference(index, queries, num_candidates))
    if num_candidates >= num_groups * GROUP_SIZE:
        np.testing.assert_array_equal(found, np.arange(num_groups * GROUP_SIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_keys_are_among_the_candidates(kind: str) -> None:
    num_keys, top_k, num_candidates = 16 * 1024, 64, 1024
    queries, keys, _ = make_head(HEADS[kind], num_keys, group=4, seed=3)
    order = group_keys(keys[0])
    ordered = np.ascontiguousarray(keys[0][order])
    index = make_index(ordered)
    recalls, found_share = [], []
    for token in range(num_keys - 400, num_keys, 50):
        query = np.ascontiguousarray(queries[:, token])
        found = find_candidates(index, query, num_candidates)
        found_share.append(len(found) / num_keys)
        best = np.argpartition(-(query @ ordered.T), top_k, axis=1)[:, :top_k]
        recalls.append(np.isin(best, found).mean())
    assert np.mean(recalls) >= 0.95
    assert np.mean(found_share) <= 4 * 1.5 * num_candidates / num_keys  # else anything would be found


def test_grouped_keys_are_a_permutation_of_alike_neighbours() -> None:
    keys = make_keys(9, 64, 5)
    order = group_keys(keys)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(keys)))
    np.testing.assert_array_equal(order, group_keys(keys))

    def spread(rows: np.ndarray) -> float:
        groups = rows.reshape(-1, GROUP_SIZE, 64)
        return float(groups.var(axis=1).sum())

    assert spread(keys[order]) < 0.6 * spread(keys)


@pytest.mark.parametrize("dim", [64, 128])
def test_the_index_is_a_sixteenth_of_keys_and_values_in_16_bits(dim: int) -> None:
    num_keys = 256 * GROUP_SIZE
    index = make_index(np.random.default_rng(0).normal(size=(num_keys, dim)).astype(np.float32))
    assert index.num_keys == num_keys
    assert index.num_bytes <= num_keys * 2 * 2 * dim / 16
    assert index.blocks.shape[1] == 2 * code_dim(dim) // 8


def test_keys_added_later_are_found_as_if_they_had_been_there() -> None:
    keys = make_keys(24, 64, 2)
    first = 16 * GROUP_SIZE
    index = make_index(keys[:first])
    extended = extend(index, keys[first:])
    np.testing.assert_array_equal(extended.blocks[: len(index.blocks)], index.blocks)
    queries = np.random.default_rng(2).normal(size=(2, 64)).astype(np.float32)
    found = find_candidates(extended, queries, 512)
    np.testing.assert_array_equal(found, find_candidates_reference(extended, queries, 512))
    assert (found >= first).any()
    best = np.argsort(-(queries @ keys.T), axis=1)[:, :10]
    assert np.isin(best, found).mean() >= 0.9
    assert (extend(extended, keys[:0]).means == extended.means).all()


def test_what_all_keys_share_changes_nothing() -> None:
    keys = make_keys(4, 64, 7)
    queries = np.random.default_rng(7).normal(size=(2, 64)).astype(np.float32)
    shifted = (keys + np.float32(64)).astype(np.float32)
    plain, moved = make_index(keys), make_index(shifted)
    agreed = np.intersect1d(find_candidates(plain, queries, 64), find_candidates(moved, queries, 64))
    assert len(agreed) >= 0.9 * len(find_candidates(plain, queries, 64))


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_equal_keys_are_all_found(value: float) -> None:
    index = make_index(np.full((2 * GROUP_SIZE, 64), value, dtype=np.float32))
    assert len(find_candidates(index, np.ones((1, 64), dtype=np.float32), 10)) == 2 * GROUP_SIZE
    assert len(find_candidates(index, np.zeros((1, 64), dtype=np.float32), 10)) == 2 * GROUP_SIZE


@pytest.mark.parametrize(
    "keys", [np.zeros((100, 64), dtype=np.float32), np.zeros((128, 64)), np.zeros((0, 64), dtype=np.float32)]
)
def test_keys_that_make_no_whole_groups_are_refused(keys: np.ndarray) -> None:
    with pytest.raises(ShapeError):
        make_index(keys)
