"""Selected decode: equal to dense attention where everything is read, and close to it, as it says, where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import ShapeError
from holdfast.kernels.attention_workload import HEADS, make_head
from holdfast.kernels.kv_decode import (
    Selection,
    TailBudget,
    attend_selection,
    attend_selection_reference,
    select,
    spread_rows,
)
from holdfast.kernels.kv_scan import KeyIndex, group_keys, make_index
from holdfast.kernels.sparse_attention import attention_reference

NUM_KEYS = 8192
SCALE = 64**-0.5
NO_TAIL = TailBudget(max_tail_len=0)
Head = tuple[torch.Tensor, torch.Tensor, torch.Tensor, KeyIndex]


@pytest.fixture(scope="module", params=["stream", "vertical", "topic", "slash"])
def head(request: pytest.FixtureRequest) -> Head:
    queries, keys, values = make_head(HEADS[request.param], NUM_KEYS, group=4, seed=2)
    order = group_keys(keys[0])
    ordered = np.ascontiguousarray(keys[0][order])
    return (
        torch.from_numpy(np.ascontiguousarray(queries.transpose(1, 0, 2)[-200:])),
        torch.from_numpy(ordered),
        torch.from_numpy(np.ascontiguousarray(values[0][order])),
        make_index(ordered),
    )


def dense(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    weights = torch.softmax(query.double() @ keys.double().T * SCALE, dim=1)
    return weights @ values.double()


def error(output: torch.Tensor, exact: torch.Tensor) -> float:
    return float((output.double() - exact).norm() / exact.norm())


def test_a_budget_of_all_keys_is_dense_attention(head: Head) -> None:
    queries, keys, values, index = head
    selection = select(index, queries[0], keys, values, NUM_KEYS, scale=SCALE)
    attended = attend_selection(queries[0], selection, scale=SCALE)
    expected = attention_reference(queries[0][:, None].numpy(), keys[None].numpy(), values[None].numpy())
    np.testing.assert_allclose(attended.output.numpy(), expected[:, 0], atol=1e-5)
    assert not attended.sampled_mass.any()
    assert not attended.error.any()


def test_the_sample_brings_the_output_nearer_and_says_how_far_off_it_is(
    head: Head,
) -> None:
    queries, keys, values, index = head
    cut_lse, lse, claimed = [], [], []
    for query in queries[::10]:
        truth = torch.logsumexp(query @ keys.T * SCALE, dim=1)
        attended = attend_selection(query, select(index, query, keys, values, 128, scale=SCALE), scale=SCALE)
        cut = attend_selection(query, select(index, query, keys, values, 128, scale=SCALE, tail=NO_TAIL), scale=SCALE)
        cut_lse.append((torch.exp(cut.lse - truth) - 1).abs())
        lse.append((torch.exp(attended.lse - truth) - 1).abs())
        claimed.append(attended.error)
    assert torch.cat(lse).mean() < 0.5 * torch.cat(cut_lse).mean()
    within = torch.cat(lse) <= 3 * torch.cat(claimed) + 1e-4
    assert within.float().mean() >= 0.9


def test_what_is_read_exactly_are_the_best_keys_of_each_head(
    head: Head,
) -> None:
    queries, keys, values, index = head
    budget = 64
    recalls = []
    for query in queries[::20]:
        selection = select(index, query, keys, values, budget, scale=SCALE)
        best = (query @ keys.T).topk(budget, dim=1).indices.numpy()
        exact = selection.rows[: selection.num_exact]
        assert budget <= len(exact) <= 4 * budget
        recalls.append(np.isin(best, exact).mean())
        assert not np.isin(selection.rows[selection.num_exact :], exact).any()
        assert selection.num_exact + selection.num_rest == NUM_KEYS
        assert torch.equal(selection.keys, keys[torch.from_numpy(selection.rows)])
        assert torch.equal(selection.values, values[torch.from_numpy(selection.rows)])
    assert np.mean(recalls) >= 0.93


def test_attention_over_a_selection_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    query, keys, values = (rng.normal(size=(count, 64)).astype(np.float32) for count in (3, 90, 90))
    selection = Selection(np.arange(90), 50, 1000, torch.from_numpy(keys), torch.from_numpy(values))
    attended = attend_selection(torch.from_numpy(query), selection, scale=SCALE)
    output, lse = attend_selection_reference(query, keys, values, 50, 1000, scale=SCALE)
    np.testing.assert_allclose(attended.output.numpy(), output, atol=2e-6)
    np.testing.assert_allclose(attended.lse.numpy(), lse, atol=1e-5)
    assert (attended.sampled_mass > 0.5).all()


def test_the_sampled_sum_of_weights_is_right_on_average(
    head: Head,
) -> None:
    queries, keys, values, index = head
    query = queries[7]
    truth = torch.logsumexp(query @ keys.T * SCALE, dim=1)
    tail = TailBudget(eps=1e-9, max_tail_len=256)  # all that may be sampled
    selections = [select(index, query, keys, values, 64, scale=SCALE, tail=tail, seed=seed) for seed in range(200)]
    ratios = [torch.exp(attend_selection(query, chosen, scale=SCALE).lse - truth) for chosen in selections]
    assert float((torch.stack(ratios).mean(dim=0) - 1).abs().max()) < 0.01


def test_a_looser_budget_samples_less(head: Head) -> None:
    queries, keys, values, index = head

    def tail_len(eps: float) -> int:
        return select(index, queries[3], keys, values, 128, scale=SCALE, tail=TailBudget(eps=eps)).tail_len

    assert tail_len(10.0) <= 64 < tail_len(1e-6)


def test_the_same_call_gives_the_same_bytes(head: Head) -> None:
    queries, keys, values, index = head
    one, other = (select(index, queries[1], keys, values, 100, scale=SCALE, seed=9) for _ in range(2))
    np.testing.assert_array_equal(one.rows, other.rows)


@pytest.mark.parametrize("num_rows", [1, 2, 127, 128, 4096, 10_000])
def test_spread_rows_are_different_and_leave_no_long_gap(num_rows: int) -> None:
    assert sorted(spread_rows(num_rows, num_rows, 5)) == list(range(num_rows))
    some = np.sort(spread_rows(num_rows, max(1, num_rows // 10)))
    assert np.diff(some, append=some[0] + num_rows).max() <= 30


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_nothing_is_refused(head: Head, budget: int) -> None:
    queries, keys, values, index = head
    with pytest.raises(ShapeError, match="budget"):
        select(index, queries[0], keys, values, budget, scale=SCALE)
    with pytest.raises(ShapeError, match="index holds"):
        select(index, queries[0], keys[:100], values[:100], 10, scale=SCALE)
    with pytest.raises(ShapeError, match="fit"):
        select(index, queries[0][:, :32], keys, values, 10, scale=SCALE)
