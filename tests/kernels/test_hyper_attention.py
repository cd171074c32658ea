"""HyperAttention: the path, the sample on average, exactness at the borders, and what centring is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidInput, ShapeError
from holdfast.kernels.attention import causal_attend, merge
from holdfast.kernels.attention_workload import HEADS, make_head, make_workload
from holdfast.kernels.hyper_attention import (
    Hashing,
    hashed_attend,
    hyper_attention,
    path_places,
    path_places_reference,
    sample_tail,
)
from holdfast.kernels.sparse_attention import relative_error

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def workload(num_tokens: int, *, group: int = 1) -> Parts:
    made = make_workload(num_tokens, heads={"topic": HEADS["topic"], "stream": HEADS["stream"]}, group=group)
    query, keys, values = (torch.from_numpy(part) for part in made)
    return query, keys, values


def test_neighbours_on_the_path_differ_in_one_bit_for_any_number_of_bits() -> None:
    for num_bits in range(1, 9):
        patterns = np.arange(1 << num_bits)
        signs = torch.from_numpy(((patterns[:, None] >> np.arange(num_bits)) & 1) * 2.0 - 1)
        places = path_places(signs).numpy()
        np.testing.assert_array_equal(places, path_places_reference(patterns, num_bits))
        walked = np.argsort(places)
        assert set(places) == set(patterns)
        assert all(int(one ^ other).bit_count() == 1 for one, other in zip(walked[1:], walked[:-1], strict=True))


@pytest.mark.parametrize("group", [1, 2])
def test_what_fits_into_the_exact_part_is_exact(group: int) -> None:
    query, keys, values = workload(500, group=group)
    expected = causal_attend(query, keys, values, scale=64**-0.5)[0]
    for hashing in (Hashing(min_len=500), Hashing(block_size=500, min_len=70)):
        output, work = hyper_attention(query, keys, values, hashing=hashing)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        assert work.density >= 1


def test_the_output_is_near_and_cheap_and_the_same_again() -> None:
    query, keys, values = workload(4001, group=2)
    hashing = Hashing(block_size=128, sample_size=128, min_len=512)
    output, work = hyper_attention(query, keys, values, hashing=hashing)
    expected = causal_attend(query, keys, values, scale=64**-0.5)[0]
    assert relative_error(output.numpy(), expected.numpy()) < 0.5
    assert work.density < 0.45
    assert torch.equal(hyper_attention(query, keys, values, hashing=hashing)[0], output)
    other, _ = hyper_attention(query, keys, values, hashing=Hashing(128, 128, 512, seed=1))
    assert not torch.equal(other, output)
    more, _ = hyper_attention(query, keys, values, hashing=Hashing(block_size=512, sample_size=512, min_len=512))
    errors = [relative_error(part.numpy(), expected.numpy()) for part in (more, output)]
    assert errors[0] < errors[1]


def test_the_sample_is_right_on_average_and_counts_read_keys_once() -> None:
    generator = torch.Generator().manual_seed(3)
    query, keys, values = (torch.randn(rows, 16, generator=generator) for rows in (2, 400, 400))
    query = query / 4
    read = torch.zeros(2, 400, dtype=torch.bool)
    read[0, :100] = read[1, 300:] = True
    chances = values.norm(dim=1) / values.norm(dim=1).sum()
    weights = torch.exp(query @ keys.T).masked_fill(read, 0)
    total, weighted = torch.zeros(2), torch.zeros(2, 16)
    for seed in range(1000):
        drawn = torch.multinomial(chances, 64, replacement=True, generator=torch.Generator().manual_seed(seed))
        output, lse = sample_tail(query, keys[drawn], values[drawn], chances[drawn], read[:, drawn])
        total += torch.exp(lse) / 1000
        weighted += output * torch.exp(lse)[:, None] / 1000
    torch.testing.assert_close(total, weights.sum(dim=1), rtol=0.01, atol=0)
    assert float((weighted - weights @ values).norm() / (weights @ values).norm()) < 0.1


def test_a_tail_of_keys_that_were_all_read_adds_nothing() -> None:
    query, keys, values = torch.ones(1, 4), torch.ones(3, 4), torch.ones(3, 4)
    tail = sample_tail(query, keys, values, torch.full((3,), 1 / 3), torch.ones(1, 3, dtype=torch.bool))
    known = torch.full((1, 4), 2.0), torch.zeros(1)
    torch.testing.assert_close(merge([known, tail])[0], known[0])


def test_the_keys_mean_does_not_spoil_the_hash() -> None:
    """A constant added to all keys changes no softmax, and no hash."""
    head = make_head(HEADS["topic"], 4096, seed=2)
    query, keys, values = (torch.from_numpy(part[0]) for part in head)
    query = query[2048:] / 8
    weights = torch.softmax(query @ keys[:2048].T, dim=1)

    def error(keys: torch.Tensor) -> float:
        output, _, _ = hashed_attend(query, keys, values[:2048], Hashing(sample_size=1))
        return relative_error(output.numpy(), (weights @ values[:2048]).numpy())

    assert error(keys[:2048]) == pytest.approx(error(keys[:2048] + 5), abs=0.02)


def test_bad_input_is_refused() -> None:
    query, keys, values = workload(64)
    with pytest.raises(ShapeError):
        hyper_attention(query[:, :32], keys, values)
    with pytest.raises(InvalidInput, match="at least 1"):
        hyper_attention(query, keys, values, hashing=Hashing(sample_size=0))
