"""Permuted attention: exact where it should be, within its error elsewhere, and the same whatever surrounds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.attention import causal_attend
from holdfast.kernels.attention_workload import HEADS, make_workload
from holdfast.kernels.permuted_attention import (
    FIRST,
    MIN_HISTORY,
    NUM_SINKS,
    SEGMENT,
    WINDOW,
    permuted_attention,
    rank_keys,
)
from holdfast.kernels.permuted_attention_reference import permuted_attention_reference
from holdfast.kernels.sparse_attention import relative_error

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


KINDS = ("vertical", "topic")


def workload(num_tokens: int, *, group: int = 1, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Parts:
    made = make_workload(num_tokens, heads={kind: HEADS[kind] for kind in kinds}, group=group, seed=seed)
    query, keys, values = (torch.from_numpy(part) for part in made)
    return query, keys, values


def exact(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return causal_attend(query, keys, values, scale=query.shape[-1] ** -0.5)[0]


@pytest.mark.parametrize(("num_tokens", "group"), [(1, 1), (300, 2), (MIN_HISTORY, 1), (2600, 1), (2700, 2)])
def test_without_error_it_is_exact_attention(num_tokens: int, group: int) -> None:
    parts = workload(num_tokens, group=group)
    output, sparsity = permuted_attention(*parts, error=0)
    torch.testing.assert_close(output, exact(*parts), rtol=1e-5, atol=1e-5)
    assert sparsity.error < 1e-5
    assert sparsity.work.density >= 1


def test_short_prompts_cost_what_exact_attention_costs() -> None:
    parts = workload(MIN_HISTORY)
    output, sparsity = permuted_attention(*parts)
    assert torch.equal(output, exact(*parts))
    assert sparsity.work.density == 1
    assert sparsity.error == 0


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("group", [1, 2])
def test_the_output_is_within_the_error_and_the_error_reported_is_true(kind: str, group: int) -> None:
    parts = workload(5000, group=group, kinds=(kind,), seed=3)
    output, sparsity = permuted_attention(*parts, error=0.1)
    truth = exact(*parts)
    found = relative_error(output.numpy(), truth.numpy())
    assert 0 < found < 0.1
    assert sparsity.work.density < 0.6
    assert sparsity.error == pytest.approx(found, rel=0.6)
    smaller, more = permuted_attention(*parts, error=0.02)
    assert relative_error(smaller.numpy(), truth.numpy()) < found
    assert more.work.density > sparsity.work.density


def test_what_is_left_out_stands_in_groups_and_is_not_dropped() -> None:
    """With all keys alike every key weighs the same: groups are exact then, dropped keys would not be."""
    generator = torch.Generator().manual_seed(1)
    keys, values = torch.zeros(1, 4096, 32), torch.randn(1, 4096, 32, generator=generator)
    query = torch.randn(1, 4096, 32, generator=generator)
    output, sparsity = permuted_attention(query, keys, values, error=1.0)
    assert relative_error(output.numpy(), exact(query, keys, values).numpy()) < 1e-5
    assert sparsity.work.density < 0.6


@settings(max_examples=5)
@given(seed=st.integers(0, 50), error=st.sampled_from([0.03, 0.1, 1]), num_queries=st.sampled_from([1, 77, 700, 2100]))
def test_it_equals_its_reference(seed: int, error: float, num_queries: int) -> None:
    query, keys, values = workload(2100, seed=seed, group=2)
    query = query[:, -num_queries:]
    output, _ = permuted_attention(query, keys, values, error=error)
    expected = permuted_attention_reference(query.numpy(), keys.numpy(), values.numpy(), error=error)
    rows = np.linalg.norm(output.numpy() - expected, axis=2) / np.linalg.norm(expected, axis=2)
    assert (rows > 2e-4).mean() < 0.01  # scores that round to the other side of a border send a few rows another way


def test_chunks_of_whole_segments_give_the_same_bytes_as_one_prompt() -> None:
    query, keys, values = workload(2048 + SEGMENT + 100, group=2)
    whole, _ = permuted_attention(query, keys, values)
    begin, parts = 0, []
    for end in (SEGMENT, 2048, query.shape[1]):
        parts.append(permuted_attention(query[:, begin:end], keys[:, :end], values[:, :end])[0])
        begin = end
    assert torch.equal(torch.cat(parts[1:], dim=1)[:, MIN_HISTORY - SEGMENT :], whole[:, MIN_HISTORY:])
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)


def test_a_chunk_may_begin_anywhere() -> None:
    query, keys, values = workload(3000)
    output, _ = permuted_attention(query[:, -777:], keys, values)
    truth = exact(query, keys, values)[:, -777:]
    assert relative_error(output.numpy(), truth.numpy()) < 0.1
    one, _ = permuted_attention(query[:, -1:], keys, values)
    assert relative_error(one.numpy(), truth[:, -1:].numpy()) < 0.1


def test_the_same_input_gives_the_same_bytes_with_more_threads_and_other_heads() -> None:
    query, keys, values = workload(2600)
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        output, _ = permuted_attention(query, keys, values)
        torch.set_num_threads(2)
        assert torch.equal(permuted_attention(query, keys, values)[0], output)
    finally:
        torch.set_num_threads(num_threads)


def test_keys_moved_by_a_constant_change_next_to_nothing() -> None:
    query, keys, values = workload(2600)
    output, _ = permuted_attention(query, keys, values)
    moved, _ = permuted_attention(query, keys + 1, values)
    assert relative_error(moved.numpy(), output.numpy()) < 0.02


@given(seed=st.integers(0, 99), num_keys=st.sampled_from([FIRST, FIRST + 1, 1000, 3000]))
def test_keys_are_ranked_by_score_in_steps_after_sinks_and_window(seed: int, num_keys: int) -> None:
    scores = np.random.default_rng(seed).exponential(size=(2, num_keys)).astype(np.float32)
    order, sections, ends = rank_keys(torch.from_numpy(scores))
    assert ends[-1] == num_keys
    for head in range(2):
        steps = scores[head].view(np.int32) >> 19
        steps[:NUM_SINKS] = steps[-WINDOW:] = 4095
        np.testing.assert_array_equal(order[head], np.lexsort((np.arange(num_keys), -steps)))
        ranks = np.empty(num_keys, dtype=np.int64)
        ranks[order[head]] = np.arange(num_keys)
        np.testing.assert_array_equal(sections[head], np.searchsorted(ends, ranks, side="right"))


def test_bad_input_is_refused() -> None:
    query, keys, values = workload(64)
    with pytest.raises(ShapeError):
        permuted_attention(query, keys[:, :32], values[:, :32])
    with pytest.raises(ShapeError):
        permuted_attention(query, keys, values[..., :32])
    with pytest.raises(InvalidInput, match="0 to 1"):
        permuted_attention(query, keys, values, error=1.5)
