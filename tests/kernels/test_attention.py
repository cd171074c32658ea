"""Set attention: against one softmax over everything, under permutation, and at the borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ShapeError
from holdfast.kernels.attention import (
    attend,
    merge,
    set_attention,
    set_attention_reference,
    set_mask,
    set_positions,
)

DTYPES = [torch.float32, torch.bfloat16]
HEADS = [(1, 1), (4, 4), (8, 2), (6, 3)]
Case = dict[str, Any]


def make_case(
    seed: int,
    lens: list[int],
    *,
    prefix_len: int = 5,
    own_len: int = 7,
    num_queries: int = 3,
    heads: tuple[int, int] = (8, 2),
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def draw(num_heads: int, length: int) -> torch.Tensor:
        return torch.randn(num_heads, length, head_dim, generator=generator).to(dtype)

    def part(length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw(heads[1], length), draw(heads[1], length)

    return {
        "query": draw(heads[0], num_queries),
        "prefix": part(prefix_len) if prefix_len else None,
        "documents": [part(length) for length in lens],
        "own": part(own_len),
    }


def reference(case: Case, **options: float) -> torch.Tensor:
    def plain(part: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, Any]:
        return part[0].double().numpy(), part[1].double().numpy()

    return torch.from_numpy(
        set_attention_reference(
            case["query"].double().numpy(),
            plain(case["prefix"]) if case["prefix"] else None,
            [plain(part) for part in case["documents"]],
            plain(case["own"]),
            **options,
        )
    )


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "lens": st.lists(st.integers(0, 40), max_size=6),
        "prefix_len": st.integers(0, 9),
        "num_queries": st.integers(1, 4),
        "own_len": st.integers(4, 11),
        "heads": st.sampled_from(HEADS),
        "head_dim": st.sampled_from([16, 64, 100]),
        "dtype": st.sampled_from(DTYPES),
    }
)


@given(cases)
@settings(max_examples=80, deadline=None)
def test_attention_by_parts_is_attention_over_all_keys(drawn: dict[str, Any]) -> None:
    case = make_case(**drawn)
    result = set_attention(**case)
    assert result.dtype == drawn["dtype"]
    error = (result.double() - reference(case)).abs().max()
    assert error <= (1e-5 if drawn["dtype"] == torch.float32 else 4e-2)


@given(cases, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_documents_changes_rounding_only(drawn: dict[str, Any], random: Any) -> None:
    case = make_case(**drawn)
    shuffled = {**case, "documents": random.sample(case["documents"], len(case["documents"]))}
    difference = (set_attention(**case).double() - set_attention(**shuffled).double()).abs().max()
    assert difference <= (1e-5 if drawn["dtype"] == torch.float32 else 4e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_order_gives_the_same_bits_wherever_the_keys_lie(dtype: torch.dtype) -> None:
    case = make_case(1, [30, 17, 64, 1], dtype=dtype)
    expected = set_attention(**case)
    for _ in range(5):
        copied = {**case, "documents": [(keys.clone(), values.clone()) for keys, values in case["documents"]]}
        assert torch.equal(set_attention(**copied), expected)


def test_a_document_read_twice_weighs_twice() -> None:
    once = make_case(3, [20])
    twice = {**once, "documents": once["documents"] * 2}
    assert torch.allclose(set_attention(**twice).double(), reference(twice), atol=1e-5)
    assert not torch.allclose(set_attention(**twice), set_attention(**once), atol=1e-3)


@pytest.mark.parametrize("lens", [[], [0], [1], [0, 3, 0]])
def test_no_document_and_empty_documents_are_sets_too(lens: list[int]) -> None:
    case = make_case(4, lens)
    assert torch.allclose(set_attention(**case).double(), reference(case), atol=1e-5)


def test_own_tokens_see_earlier_ones_only() -> None:
    case = make_case(5, [12], own_len=6, num_queries=6)
    late = {**case, "own": tuple(part.clone() for part in case["own"])}
    late["own"][0][:, 4:] += 1.0
    first, second = set_attention(**case), set_attention(**late)
    assert torch.equal(first[:, :4], second[:, :4])
    assert not torch.equal(first[:, 4:], second[:, 4:])


@pytest.mark.parametrize(("temperature", "document_scale"), [(0.9, 0.9), (0.5, 1.0), (1.0, 0.7)])
def test_temperature_and_scale_follow_their_definition(temperature: float, document_scale: float) -> None:
    case = make_case(6, [20, 9])
    options = {"temperature": temperature, "document_scale": document_scale}
    expected = reference(case, **options)
    assert torch.allclose(set_attention(**case, **options).double(), expected, atol=1e-5)
    assert not torch.allclose(expected, reference(case), atol=1e-3)


def test_the_plain_path_of_other_devices_agrees() -> None:
    case = make_case(7, [33])
    keys, values = case["documents"][0]
    output, lse = attend(case["query"], keys, values, scale=0.125)
    scores = (case["query"].reshape(2, 12, 64) @ keys.transpose(-1, -2)) * 0.125
    assert torch.allclose(lse.reshape(2, 12), torch.logsumexp(scores, -1), atol=1e-5)
    assert torch.allclose(output.reshape(2, 12, 64), torch.softmax(scores, -1) @ values, atol=1e-5)


def test_merging_is_associative_up_to_rounding() -> None:
    case = make_case(8, [5, 6, 7])
    parts = [attend(case["query"], *part, scale=0.125) for part in case["documents"]]
    left = merge([merge(parts[:2]), parts[2]])
    for ours, theirs in zip(merge(parts), left, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_scores_far_apart_do_not_overflow() -> None:
    case = make_case(9, [4, 4])
    case["documents"][0][0].mul_(1000)
    assert torch.isfinite(set_attention(**case)).all()


def test_wrong_shapes_are_named() -> None:
    case = make_case(10, [4])
    keys, values = case["own"]
    with pytest.raises(ShapeError, match="new tokens"):
        set_attention(**{**case, "own": (keys[:, :2], values[:, :2])})
    with pytest.raises(ShapeError, match="do not fit"):
        set_attention(**{**case, "own": (keys[..., :8], values[..., :8])})
    with pytest.raises(ShapeError, match="multiple"):
        set_attention(**{**case, "query": case["query"][:3]})


def test_the_mask_isolates_documents_and_shows_all_to_the_question() -> None:
    mask = set_mask(1, [2, 1], 2)
    assert mask.astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert set_positions(1, [2, 1], 2, 8).tolist() == [0, 1, 2, 1, 9, 10]
    assert not np.triu(mask, 1).any()
