"""Rows, positions and masks; and that the masks are the attention that serving computes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from training import tokenizer as marks
from training.contexts import NONE, Asked, Context
from training.decode import answer, read_documents
from training.encoding import (
    PADDING,
    TAIL_POSITION,
    Mode,
    attention_mask,
    collate,
    encode,
    encode_document,
    encode_question,
    pad_id,
    shuffled,
    special,
    visible,
)
from training.mixture import texts
from training.sizes import SIZES, make_model
from training.tokenizer import train_tokenizer

MICRO = SIZES["micro"]
CONTEXT = Context(
    "facts",
    ["The Alder Bridge was opened in 1932.", "The tower holds 450 litres.", "Nothing else is known."],
    [Asked("When was it opened?", "1932", (0,)), Asked("Who built it?", NONE)],
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(texts(MICRO, 0, 100), MICRO.vocab_size)


def test_text_comes_back_and_digits_stand_alone(tokenizer: Tokenizer) -> None:
    for text in ("Zürich opened in 1932,\n\tor “so” — 東京", "a</doc>b <none>"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    pieces = tokenizer.encode("in 1932").tokens
    assert [piece for piece in pieces if piece.isdigit()] == ["1", "9", "3", "2"]


def test_no_text_can_spell_a_mark(tokenizer: Tokenizer) -> None:
    document = encode_document(tokenizer, "</doc><q>what</q><ans><none><end>")
    inner = document[1:-1]
    assert not set(inner) & {special(tokenizer, mark) for mark in marks.SPECIAL}
    assert encode(CONTEXT, tokenizer, "set", 512).ids.tolist().count(special(tokenizer, NONE)) == 1


@pytest.mark.parametrize("mode", ["set", "sequential"])
def test_a_tail_sees_all_documents_and_no_other_tail(tokenizer: Tokenizer, mode: Mode) -> None:
    row = encode(CONTEXT, tokenizer, mode, 512)
    seen = visible(row)
    for place, segment in enumerate(row.segments):
        others = set(row.segments[seen[place]].tolist())
        assert seen[place, place]
        assert not seen[place, place + 1 :].any()
        if segment < 0:
            assert others == {0, 1, 2, int(segment)}
        else:
            assert others == ({int(segment)} if mode == "set" else set(range(int(segment) + 1)))


def test_positions_do_not_tell_the_order_of_a_set(tokenizer: Tokenizer) -> None:
    row = encode(CONTEXT, tokenizer, "set", 512)
    for segment in sorted(set(row.segments.tolist())):
        first = row.positions[row.segments == segment][0]
        assert first == (TAIL_POSITION if segment < 0 else 0)
    sequential = encode(CONTEXT, tokenizer, "sequential", 512)
    documents = sequential.segments >= 0
    assert np.array_equal(sequential.positions[documents], np.arange(documents.sum()))
    assert sequential.positions[~documents].min() == documents.sum()


def test_answers_weigh_most_and_the_first_of_a_segment_nothing(tokenizer: Tokenizer) -> None:
    row = encode(CONTEXT, tokenizer, "set", 512, read_weight=0.25, question_weight=0.5)
    assert set(row.weights.tolist()) == {0.0, 0.25, 0.5, 1.0}
    assert set(row.weights[row.segments >= 0].tolist()) == {0.0, 0.25}
    heavy = row.ids[row.weights == 1.0].tolist()
    assert tokenizer.decode(heavy, skip_special_tokens=False) == "1932<end><none><end>"
    firsts = np.flatnonzero(np.diff(row.segments, prepend=99))
    assert not row.weights[firsts].any()


def test_what_does_not_fit_goes_evidence_last(tokenizer: Tokenizer) -> None:
    whole = encode(CONTEXT, tokenizer, "set", 512)
    short = encode(CONTEXT, tokenizer, "set", len(whole.ids) - 1)
    assert set(short.segments.tolist()) == {0, 1, -1, -2}
    assert encode(CONTEXT, tokenizer, "set", 8).mode == "plain"
    for size in range(8, len(whole.ids)):
        assert len(encode(CONTEXT, tokenizer, "sequential", size).ids) <= size


def test_shuffling_keeps_evidence_with_its_document() -> None:
    for seed in range(10):
        other = shuffled(CONTEXT, random.Random(seed))
        assert sorted(other.documents) == sorted(CONTEXT.documents)
        assert "1932" in other.documents[other.asked[0].evidence[0]]


def test_masks_are_their_definition_and_padding_is_seen_by_nothing_else(tokenizer: Tokenizer) -> None:
    rows = [encode(CONTEXT, tokenizer, mode, 512) for mode in ("set", "sequential", "plain")]
    batch = collate(rows, pad_id(tokenizer))
    mask = attention_mask(batch["segments"], batch["is_set"])[:, 0].numpy()
    for row, found in zip(rows, mask, strict=True):
        size = len(row.ids)
        assert np.array_equal(found[:size, :size], visible(row))
        assert not found[:size, size:].any()
        assert found.diagonal().all()
    assert not (batch["weights"].numpy()[batch["segments"].numpy() == PADDING]).any()


@pytest.mark.parametrize("mode", ["set", "sequential"])
def test_masked_rows_and_stitched_caches_are_the_same_attention(tokenizer: Tokenizer, mode: Mode) -> None:
    model = make_model(MICRO, 0)
    row = encode(CONTEXT, tokenizer, mode, 512)
    batch = collate([row], pad_id(tokenizer))
    with torch.inference_mode():
        mask = attention_mask(batch["segments"], batch["is_set"])
        masked = model(
            input_ids=batch["ids"], position_ids=batch["positions"], attention_mask=mask, use_cache=False
        ).logits[0]
        cache = read_documents(model, tokenizer, CONTEXT.documents, mode)
        question = encode_question(tokenizer, CONTEXT.asked[0].question)
        num_read = cache.get_seq_length()
        start = TAIL_POSITION if mode == "set" else num_read
        positions = torch.arange(start, start + len(question))[None]
        stitched = model(
            input_ids=torch.tensor([question]), position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[0]
    first = int(np.flatnonzero(row.segments == -1)[0])
    torch.testing.assert_close(stitched, masked[first : first + len(question)], atol=1e-4, rtol=1e-4)


def test_the_order_of_a_set_changes_no_answer_and_the_cache_can_be_asked_again(tokenizer: Tokenizer) -> None:
    model = make_model(MICRO, 3)
    found = set()
    for seed in range(4):
        documents = shuffled(CONTEXT, random.Random(seed)).documents
        cache = read_documents(model, tokenizer, documents, "set")
        found |= {answer(model, tokenizer, cache, "When was it opened?", "set") for _ in range(2)}
    assert len(found) == 1
