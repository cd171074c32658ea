"""Decoding with KV retrieval, on a real (tiny, random) Llama: exact where all is read, near where it is not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.kernels.kv_scan import GROUP_SIZE
from holdfast.serving.engine import kv_retrieval
from holdfast.serving.engine.hf_retrieval import RetrievalReader
from holdfast.serving.engine.kv_retrieval import (
    NUM_SINKS,
    KvOptions,
    RetrievalSequence,
    make_angles,
    unrotated,
)
from holdfast.serving.engine.set_attention import SetModel

PROMPT_LEN = 1500
SMALL = KvOptions(budget=64, break_even=GROUP_SIZE)
WINDOW = 32
MAX_SEGMENT = GROUP_SIZE


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few steps fill them."""
    monkeypatch.setattr(kv_retrieval, "WINDOW", WINDOW)
    monkeypatch.setattr(kv_retrieval, "MAX_SEGMENT", MAX_SEGMENT)


@pytest.fixture(scope="module")
def model() -> SetModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
        initializer_range=0.1,
    )
    return SetModel(LlamaForCausalLM(config).eval())


def prompt(length: int = PROMPT_LEN, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 300, length).tolist()


def dense_logits(model: SetModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.model(torch.tensor([ids])).logits[0]
    return logits


def decode(
    model: SetModel, options: KvOptions, new_ids: list[int], length: int = PROMPT_LEN
) -> tuple[RetrievalSequence, torch.Tensor]:
    """Feed `new_ids` behind a prompt; return the sequence and the logits behind each of them."""
    reader = RetrievalReader(model.model, options.memory_bytes, options.folder, options.break_even)
    sequence, _ = reader.start(prompt(length), len(new_ids), options)
    return sequence, torch.cat([model.step([sequence], [token_id]) for token_id in new_ids])


def kl(logits: torch.Tensor, exact: torch.Tensor) -> float:
    log_probs, exact_log_probs = logits.log_softmax(dim=-1), exact.log_softmax(dim=-1)
    return float((exact_log_probs.exp() * (exact_log_probs - log_probs)).sum(dim=-1).mean())


@pytest.mark.parametrize("num_new", [3, MAX_SEGMENT + 20])
def test_a_budget_of_all_tokens_reproduces_dense_decoding(model: SetModel, num_new: int) -> None:
    new_ids = prompt(num_new, seed=1)
    sequence, logits = decode(model, replace(SMALL, budget=10_000), new_ids)
    exact = dense_logits(model, prompt() + new_ids)[PROMPT_LEN:]
    assert sequence.layers[0].heads[0].num_keys >= PROMPT_LEN - NUM_SINKS - WINDOW - GROUP_SIZE
    assert float((logits - exact).abs().max()) <= 1e-5 * max(1.0, float(exact.abs().max()))
    report = sequence.report()
    assert report.sampled_mass == report.error == 0.0


def test_below_the_break_even_length_nothing_is_cold(model: SetModel) -> None:
    new_ids = prompt(4, seed=1)
    sequence, logits = decode(model, KvOptions(budget=1, break_even=PROMPT_LEN), new_ids)
    exact = dense_logits(model, prompt() + new_ids)[PROMPT_LEN:]
    assert float((logits - exact).abs().max()) <= 1e-5 * max(1.0, float(exact.abs().max()))
    assert sequence.report().num_decisions == 0
    assert sequence.report().index_bytes == 0


def test_a_prompt_that_grows_over_the_break_even_length_becomes_cold_while_decoding(model: SetModel) -> None:
    length = NUM_SINKS + WINDOW + GROUP_SIZE - 2
    sequence, logits = decode(model, replace(SMALL, budget=10_000), prompt(4, seed=1), length)
    exact = dense_logits(model, prompt(length) + prompt(4, seed=1))[length:]
    assert sequence.layers[0].heads[0].num_keys == GROUP_SIZE
    assert float((logits - exact).abs().max()) <= 1e-5 * max(1.0, float(exact.abs().max()))


def test_a_small_budget_stays_near_and_a_larger_one_nearer(model: SetModel) -> None:
    new_ids = prompt(12, seed=1)
    exact = dense_logits(model, prompt() + new_ids)[PROMPT_LEN:]
    divergences = {}
    for budget in (16, 256):
        sequence, logits = decode(model, replace(SMALL, budget=budget), new_ids)
        divergences[budget] = kl(logits, exact)
        assert 0 < sequence.report().sampled_mass / sequence.report().num_decisions < 1
    window_only = decode(model, replace(SMALL, budget=1), new_ids)[1]
    assert 4 * divergences[256] < divergences[16] < 0.1
    assert kl(window_only, exact) > divergences[256]


def test_similar_queries_reuse_what_was_retrieved_and_different_ones_do_not(model: SetModel) -> None:
    rates = {}
    for similarity in (-1.0, 1.1):
        sequence, _ = decode(model, replace(SMALL, similarity=similarity), [7] * 6)
        report = sequence.report()
        rates[similarity] = report.num_retrievals / report.num_decisions
    assert rates[-1.0] == pytest.approx(1 / 6)
    assert rates[1.1] == 1.0
    repeated = decode(model, SMALL, [7] * 6)[0].report().num_retrievals
    assert repeated < decode(model, SMALL, prompt(6, seed=5))[0].report().num_retrievals


def test_one_head_that_drifts_retrieves_alone(model: SetModel) -> None:
    sequence, _ = decode(model, SMALL, prompt(1, seed=1))
    layer = sequence.layers[0]
    assert layer.last is not None
    query = layer.last.clone()
    query[2:] = torch.flip(query[2:], dims=[1])  # the second KV head's queries
    query[:2] *= 3  # a length is no direction
    drifted, _ = layer.turned(query, 0.3)
    np.testing.assert_array_equal(drifted, [False, True])


def test_slow_drift_is_noticed_though_no_step_is_large(model: SetModel) -> None:
    sequence, _ = decode(model, SMALL, prompt(1, seed=1))
    layer = sequence.layers[0]
    start = torch.zeros(4, 64)
    start[:, 0] = 1
    layer.last, layer.retrieved = start, start.clone()
    noticed = []
    for step in range(1, 12):
        query = torch.zeros(4, 64)
        query[:, 0], query[:, 1] = math.cos(0.1 * step), math.sin(0.1 * step)
        noticed.append(layer.turned(query, 0.8)[1])
    assert noticed.index(True) == 6  # cos(0.7) < 0.8 <= cos(0.6), and each step's own cosine is 0.995


def test_queries_are_compared_as_before_rotary_embedding(model: SetModel) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    for position in (0, 5, 4000):
        cosines, sines = make_angles(model.model)(position)
        turned, _ = apply_rotary_pos_emb(
            query[None, :, None], query[None, :, None], cosines[None, None], sines[None, None]
        )
        np.testing.assert_allclose(unrotated(turned[0, :, 0], cosines, sines).numpy(), query.numpy(), atol=1e-5)


def test_segments_become_cold_by_whole_groups_and_the_window_stays(model: SetModel) -> None:
    new_ids = prompt(MAX_SEGMENT + 20, seed=1)
    sequence, _ = decode(model, replace(SMALL, similarity=-1.0), new_ids)  # no turns: only full segments
    for layer in sequence.layers:
        cold = layer.heads[0].num_keys
        assert cold % GROUP_SIZE == 0
        assert cold + layer.near_len == PROMPT_LEN + len(new_ids)
        assert WINDOW <= layer.near_len - NUM_SINKS <= WINDOW + MAX_SEGMENT


def test_a_turn_ends_a_segment_early(model: SetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_retrieval, "MAX_SEGMENT", 100 * GROUP_SIZE)
    new_ids = prompt(GROUP_SIZE, seed=1)
    turning, _ = decode(model, replace(SMALL, similarity=1.1), new_ids)
    going_on, _ = decode(model, replace(SMALL, similarity=-1.0), new_ids)
    assert going_on.layers[0].near_len == turning.layers[0].near_len + GROUP_SIZE


def test_cold_tokens_beyond_the_memory_budget_lie_in_a_nameless_file(model: SetModel, tmp_path: Path) -> None:
    new_ids = prompt(5, seed=1)
    in_memory, expected = decode(model, SMALL, new_ids)
    on_disk, logits = decode(model, replace(SMALL, memory_bytes=1, folder=tmp_path), new_ids)
    assert torch.equal(logits, expected)
    assert on_disk.report().disk_bytes == 2 * 2 * 2 * 64 * 4 * ((PROMPT_LEN + 5) // GROUP_SIZE * GROUP_SIZE)
    assert on_disk.report().memory_bytes < in_memory.report().memory_bytes
    assert in_memory.report().disk_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_forks_go_their_own_ways(model: SetModel) -> None:
    sequence, _ = decode(model, SMALL, prompt(2, seed=1))
    fork = sequence.fork()
    model.step([sequence], [9])
    expected = model.step([sequence.fork()], [11])
    model.step([fork], [100])
    assert torch.equal(model.step([sequence], [11]), expected)
    alone = model.step([fork.fork()], [5])
    together = model.step([sequence, fork], [200, 5])
    np.testing.assert_allclose(together[1].numpy(), alone[0].numpy(), atol=1e-5)


def test_the_same_prompt_gives_the_same_bits(model: SetModel) -> None:
    one, other = (decode(model, SMALL, prompt(4, seed=1))[1] for _ in range(2))
    assert torch.equal(one, other)


def test_what_is_held_is_counted(model: SetModel) -> None:
    sequence, _ = decode(model, SMALL, prompt(2, seed=1))
    report: Any = sequence.report()
    heads = [head for layer in sequence.layers for head in layer.heads]
    assert report.index_bytes == sum(head.index.num_bytes for head in heads if head.index) > 0
    assert report.memory_bytes == sum(2 * head.keys.nbytes for head in heads) + sum(
        layer.near.nbytes for layer in sequence.layers
    )
