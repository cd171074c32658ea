"""Set attention through a real (tiny, random) Llama: against one masked pass, and the same bits everywhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from holdfast.errors import InvalidInput
from holdfast.kernels.attention import set_mask, set_positions
from holdfast.serving.engine.document_cache import DocumentKV
from holdfast.serving.engine.set_attention import MAX_DOCUMENT_LEN, TILE_ROWS, SetModel, SetSequence, can_read_sets

PREFIX = [3, 5, 7, 11]
QUESTION = [20, 21, 22, 23, 24]
DOCUMENTS = [[(31 * row + 7 * place) % 300 + 40 for place in range(5 + 9 * row)] for row in range(6)]


def load(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def set_model(request: pytest.FixtureRequest, tiny_llama: Path) -> SetModel:
    return SetModel(load(tiny_llama, request.param))


def read_all(model: SetModel, documents: list[list[int]]) -> tuple[DocumentKV, list[DocumentKV]]:
    prefix = DocumentKV(model.read(None, PREFIX))
    return prefix, [DocumentKV(model.read(prefix, ids)) for ids in documents]


def decode(model: SetModel, sequence: SetSequence, logits: torch.Tensor, num_tokens: int = 3) -> torch.Tensor:
    """Decode greedily alone; return all logits."""
    seen = [logits]
    for _ in range(num_tokens):
        seen.append(model.step([sequence], [int(seen[-1].argmax())])[0])
    return torch.stack(seen)


@pytest.mark.parametrize("lens", [[], [1], [7, 7], [12, 3, 40, 1], [100, 2]])
def test_stitched_documents_equal_one_masked_pass_over_everything(tiny_llama: Path, lens: list[int]) -> None:
    documents = [[(13 * row + place) % 300 + 40 for place in range(length)] for row, length in enumerate(lens)]
    model = SetModel(load(tiny_llama, torch.float32))
    prefix, read = read_all(model, documents)
    _, logits = model.start(prefix, read, QUESTION)
    flat = [*PREFIX, *(token_id for ids in documents for token_id in ids), *QUESTION]
    visible = torch.from_numpy(set_mask(len(PREFIX), lens, len(QUESTION)))
    positions = torch.from_numpy(set_positions(len(PREFIX), lens, len(QUESTION), MAX_DOCUMENT_LEN))
    bias = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]
    with torch.inference_mode():
        output = load(tiny_llama, torch.float32, "eager")(
            torch.tensor([flat]), attention_mask=bias, position_ids=positions[None]
        )
    expected = output.logits[0, -1]
    assert (logits - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_without_documents_in_between_it_is_the_models_own_attention(tiny_llama: Path) -> None:
    model = SetModel(load(tiny_llama, torch.float32))
    ids = PREFIX + DOCUMENTS[2] + QUESTION
    prefix, [document] = read_all(model, [DOCUMENTS[2]])
    sequence, logits = model.start(prefix, [document], QUESTION, gap=len(DOCUMENTS[2]))
    plain = load(tiny_llama, torch.float32)
    with torch.inference_mode():
        assert torch.allclose(logits, plain(torch.tensor([ids])).logits[0, -1], atol=1e-4)
        following = model.step([sequence], [50])[0]
        assert torch.allclose(following, plain(torch.tensor([[*ids, 50]])).logits[0, -1], atol=1e-4)


def test_documents_read_alone_have_the_same_bits_whenever_they_are_read(set_model: SetModel) -> None:
    prefix, first = read_all(set_model, DOCUMENTS)
    read_all(set_model, DOCUMENTS[::-1])
    for ids, kv in zip(DOCUMENTS, first, strict=True):
        assert torch.equal(set_model.read(prefix, ids), kv.tensor)


def test_other_orders_change_rounding_only(set_model: SetModel) -> None:
    prefix, read = read_all(set_model, DOCUMENTS)
    _, expected = set_model.start(prefix, read, QUESTION)
    order = random.Random(1)
    for _ in range(4):
        _, logits = set_model.start(prefix, order.sample(read, len(read)), QUESTION)
        difference = float((logits - expected).abs().max() / expected.abs().max())
        assert difference <= (1e-5 if set_model.model.dtype == torch.float32 else 0.1)


def test_sequences_of_all_lengths_decode_the_same_bits_alone_and_in_a_batch_of_16(set_model: SetModel) -> None:
    set_model.verify()
    assert set_model.is_bitwise
    prefix, read = read_all(set_model, DOCUMENTS)

    def start(row: int) -> tuple[SetSequence, torch.Tensor]:
        return set_model.start(prefix, read[: row % 7], [*QUESTION[: 1 + row % 5], row + 30])

    alone = [decode(set_model, *start(row)) for row in range(16)]
    started = [start(row) for row in range(16)]
    logits = torch.stack([first for _, first in started])
    together = [logits]
    for _ in range(3):
        logits = set_model.step([sequence for sequence, _ in started], logits.argmax(dim=-1).tolist())
        together.append(logits)
    assert torch.equal(torch.stack(together, dim=1), torch.stack(alone))
    assert len({tuple(seen.argmax(dim=-1).tolist()) for seen in alone}) > 8


def test_a_choice_goes_on_by_itself_after_a_fork(set_model: SetModel) -> None:
    prefix, read = read_all(set_model, DOCUMENTS[:2])
    sequence, logits = set_model.start(prefix, read, QUESTION)
    fork = sequence.fork()
    assert fork.documents[0].tensor.data_ptr() == sequence.documents[0].tensor.data_ptr()
    expected = decode(set_model, sequence, logits)
    assert torch.equal(decode(set_model, fork, logits), expected)


def test_temperature_and_scale_change_what_is_read_and_nothing_else(set_model: SetModel) -> None:
    prefix, read = read_all(set_model, DOCUMENTS)
    _, plain = set_model.start(prefix, read, QUESTION)
    _, sharpened = set_model.start(prefix, read, QUESTION, temperature=0.5, document_scale=0.8)
    assert not torch.equal(plain, sharpened)
    _, empty = set_model.start(prefix, [], QUESTION)
    assert torch.equal(set_model.start(prefix, [], QUESTION, temperature=0.5, document_scale=0.8)[1], empty)


def test_the_identity_changes_with_weights_settings_and_number_type(tiny_llama: Path) -> None:
    identity = SetModel(load(tiny_llama, torch.float32)).identity
    assert SetModel(load(tiny_llama, torch.float32)).identity == identity
    changed = load(tiny_llama, torch.float32)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-3
    other_rope = load(tiny_llama, torch.float32)
    other_rope.config.rope_parameters = {**other_rope.config.rope_parameters, "rope_theta": 500.0}
    names = [SetModel(model).identity for model in (changed, other_rope, load(tiny_llama, torch.bfloat16))]
    assert all(name != identity for name in names)
    assert names[0]["weights"] != identity["weights"]
    assert names[1]["rope"] != identity["rope"]
    assert names[2]["dtype"] != identity["dtype"]


def test_a_model_whose_attention_cannot_be_taken_apart_is_refused(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SetModel(load(tiny_llama, torch.float32))
    monkeypatch.setattr(
        "holdfast.serving.engine.set_attention.set_attention", lambda query, *parts, **options: query * 0.5
    )
    with pytest.raises(InvalidInput, match="cannot be taken apart"):
        model.verify()


def test_bitwise_is_not_claimed_where_a_place_in_the_tile_changes_bits(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SetModel(load(tiny_llama, torch.float32))
    forward = model._forward

    def drift(sequences: Any, token_ids: Any) -> torch.Tensor:
        logits = forward(sequences, token_ids)
        return logits + torch.arange(len(logits))[:, None] * 1e-6

    monkeypatch.setattr(model, "_forward", drift)
    model.verify()
    assert not model.is_bitwise
    assert TILE_ROWS > 1


def test_sliding_windows_and_moving_angles_are_told_before_anything_is_read(tiny_llama: Path) -> None:
    assert can_read_sets(load(tiny_llama, torch.float32))
    assert not can_read_sets(load(tiny_llama, torch.float32, "eager"))
    config = AutoConfig.from_pretrained(tiny_llama)
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not can_read_sets(AutoModelForCausalLM.from_config(config))
    window = MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    assert not can_read_sets(MistralForCausalLM(window))
